"""A supervised loss mixed into each update, as PPO-ptx has it.

    J_ptx = J + coef E_{(x, y) ~ data}[ log pi(y | x) ]          Ouyang et al. 2022, eq. 2

What the policy read before reinforcement learning is shown to it again while it learns, so that it forgets less of it.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from handrail.algo.stats import masked_sum
from handrail.batch import Sequences
from handrail.config import Settings
from handrail.data import Codec, Source, demonstration_example, load_demonstrations, load_prompts, within_context
from handrail.models import LanguageModel, groups
from handrail.parallel import Parallel
from handrail.recipes.parts import shuffled


class Mix(Settings):
    """A supervised loss beside the objective."""

    data: Source = Field(description="demonstrations, or plain texts")
    kind: Literal["demonstrations", "texts"] = Field(
        "demonstrations",
        description="demonstrations: the loss is taken on responses; texts: on all but the first token",
    )
    coef: float = Field(0.1, gt=0, description="weight of the mean loss of a token")
    batch_size: int = Field(16, ge=1, description="demonstrations or texts an update")


class Nothing:
    """No supervised loss."""

    def gradient(self, policy: LanguageModel, update: int, micro_tokens: int) -> dict[str, float]:
        """Accumulate the gradient of update number `update`; returns what to log."""
        return {}


class Mixture(Nothing):
    """coef times the mean negative log-probability of the data's tokens, a batch an update, each example once an epoch."""

    def __init__(self, settings: Mix, codec: Codec, context: int, seed: int):
        self.settings, self.seed, self.parallel = settings, seed, Parallel.joined()
        self.sequences, self.sha256 = _sequences(settings, codec, context)

    def gradient(self, policy: LanguageModel, update: int, micro_tokens: int) -> dict[str, float]:
        rows = shuffled(len(self.sequences), self.settings.batch_size, update, self.seed)
        batch = self.sequences[torch.tensor(rows)]
        count, total = batch.response_lengths.sum(), 0.0
        for index in self.parallel.share(groups, batch.lengths, micro_tokens or policy.forward.tokens):
            part = batch[index]
            loss: Tensor = -masked_sum(policy.logp(part), part.mask.to(policy.device)) / count
            (self.settings.coef * loss).backward()
            total += float(loss.detach())
        return self.parallel.totals({"ptx_loss": total})


def _sequences(settings: Mix, codec: Codec, context: int) -> tuple[Sequences, str]:
    if settings.kind == "demonstrations":
        loaded = load_demonstrations(settings.data)
        examples = [demonstration_example(codec, d, context) for d in within_context(codec, loaded.records, context)[0]]
        return Sequences.of([(e.prompt_ids, e.response_ids) for e in examples]), loaded.sha256
    texts = load_prompts(settings.data)
    encoded = [codec.encode_response(p.text, end=True)[:context] for p in texts.records]
    return Sequences.of([(ids[:1], ids[1:]) for ids in encoded if len(ids) > 1]), texts.sha256


def mixture(settings: Mix | None, codec: Codec, context: int, seed: int) -> tuple[Nothing, dict[str, str]]:
    """The object that the settings name, and the fingerprint of its data."""
    if settings is None:
        return Nothing(), {}
    mixed = Mixture(settings, codec, context, seed)
    return mixed, {"mix": mixed.sha256}
