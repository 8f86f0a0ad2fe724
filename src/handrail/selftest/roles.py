"""Tables that play the roles of a recipe on the enumerated language, in float64 and without a network.

They have the interfaces of `LanguageModel`, `ScalarModel`, `Codec` and `Engine`, as far as a recipe uses them.  A
prompt is one or more tokens from outside the language, and their count is its number, so that prompts differ in length.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from handrail.batch import Rollout, Sequences
from handrail.records import Prompt
from handrail.rollout.sampling import draw
from handrail.rollout.settings import Sampling
from handrail.selftest.enumerated import END, T, V, states

WORDS = "abc."


@dataclass(frozen=True)
class Places:
    """Where the response tokens of a batch stand in a table.  [B, W] but for `prompt`, `after` and `response`."""

    prompt: Tensor  # [B, 1] the prompt's number
    state: Tensor  # the prefix before each token, 0 where there is none
    token: Tensor  # 0 where there is none
    mask: Tensor
    after: Tensor  # [B] the prefix after the last token, 0 where the response is whole
    response: Tensor  # [B] the whole response's number, -1 where it can go on

    @classmethod
    def of(cls, sequences: Sequences) -> "Places":
        """Found from lengths alone."""
        mask, lengths, token = sequences.mask, sequences.response_lengths, sequences.tokens
        before, last = states(token), lengths[:, None] - 1
        after = before.gather(1, last + 1)[:, 0]
        ended, full = token.gather(1, last)[:, 0] == END, lengths == T
        # Responses that end come first, in the order of their prefixes; those of four words follow like longer prefixes.
        response = torch.where(ended, before.gather(1, last)[:, 0], torch.where(full, after, -1))
        state = torch.where(mask, before[:, :-1], 0)
        return cls(sequences.prompt_lengths[:, None] - 1, state, token, mask, torch.where(ended | full, 0, after), response)


class Table(nn.Module):
    """One table of weights, where a role of a network has its module."""

    def __init__(self, weights: Tensor):
        super().__init__()
        self.weights = nn.Parameter(weights.detach().clone())


class _Role:
    """What policy and critic share: the table, its state, its place."""

    def __init__(self, weights: Tensor):
        self.hf = Table(weights)
        self.forward = self  # that of a network says how many tokens it takes at once
        self.tokens = 2**20
        self.device = torch.device("cpu")

    @property
    def weights(self) -> Tensor:
        return self.hf.weights

    def parameters(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.hf.named_parameters() if p.requires_grad}

    def state(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.hf.named_parameters()}

    @torch.no_grad()
    def load_state(self, state: dict[str, Tensor]) -> None:
        self.hf.weights.copy_(state["weights"])

    def freeze(self) -> Self:
        self.hf.requires_grad_(False)
        return self

    def save(self, folder: str | Path, tokenizer: Any) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        save_file(self.state(), Path(folder) / "table.safetensors")


class TablePolicy(_Role):
    """A policy or a reference; weights are logits [P, S, V]."""

    def logp(self, sequences: Sequences, temperature: float = 1.0) -> Tensor:
        """[B, W] log-probability of each response token, zero beyond."""
        return self.logp_and_entropy(sequences, temperature)[0]

    def logp_and_entropy(self, sequences: Sequences, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """`logp`, and [B, W] the entropy of the law that each token was drawn from."""
        at = Places.of(sequences)
        law = (self.weights / temperature).log_softmax(-1)
        entropy = -(law.exp() * law).sum(-1)
        return torch.where(at.mask, law[at.prompt, at.state, at.token], 0), torch.where(at.mask, entropy[at.prompt, at.state], 0)


class TableCritic(_Role):
    """A critic; weights are values [P, S]."""

    def values(self, sequences: Sequences) -> tuple[Tensor, Tensor]:
        """[B, W] V before each response token, zero beyond; and [B] V after the last, zero where the response is whole."""
        at = Places.of(sequences)
        after = self.weights[at.prompt[:, 0], at.after]
        return torch.where(at.mask, self.weights[at.prompt, at.state], 0), torch.where(at.response < 0, after, 0)


class TableScores:
    """A reward model that knows the scores [P, N] by heart, those of cut responses before the penalty."""

    def __init__(self, scores: Tensor):
        self.scores = scores

    def judged(self, sequences: Sequences) -> tuple[Tensor, dict[str, Tensor]]:
        """[B] the score of each whole response, NaN for one that is none; and nothing beside it."""
        at = Places.of(sequences)
        return torch.where(at.response < 0, float("nan"), self.scores[at.prompt[:, 0], at.response]), {}


class TableCodec:
    """Words of one letter; a prompt's text is its number."""

    tokenizer = None
    end_id, end_ids = END, [END]

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """As many tokens as the prompt's number plus one."""
        return [V] * (int(prompt.text) + 1)

    def decode(self, ids: list[int]) -> str:
        """The letters before the end."""
        return "".join(WORDS[i] for i in ids if i != END)

    def pieces(self, ids: list[int]) -> list[str]:
        """A letter a token."""
        return [WORDS[i] for i in ids]


class TableEngine:
    """An `Engine` that samples all rows at once; a row's draws follow from its seed alone."""

    policy: TablePolicy

    def sync(self, policy: Any) -> None:
        """Sample from this policy as it is at each `generate`."""
        self.policy = policy

    @torch.no_grad()
    def generate(
        self, prompts: list[list[int]], seeds: list[int], sampling: Sampling, progress: Callable[[int], None] | None = None
    ) -> Rollout:
        """One response to each prompt."""
        number = torch.tensor([len(prompt) for prompt in prompts]) - 1
        width, uniform = min(T, sampling.max_new_tokens), uniforms(seeds)
        tokens = torch.zeros(len(prompts), width, dtype=torch.int64)
        logp = torch.zeros(len(prompts), width, dtype=torch.float64)
        lengths = torch.full((len(prompts),), width)
        for t in range(width):
            state = torch.where(lengths == width, states(tokens)[:, t], 0)
            drawn, found = draw(self.policy.weights[number, state], uniform[:, t], sampling)
            going = lengths == width
            tokens[:, t], logp[:, t] = torch.where(going, drawn, 0), torch.where(going, found, 0)
            lengths = torch.where(going & (drawn == END), t + 1, lengths)
        ended = tokens.gather(1, lengths[:, None] - 1)[:, 0] == END
        starts, stops = number + 1, number + 1 + lengths
        column = torch.arange(int(stops.max()))
        ids = torch.where(column < starts[:, None], V, tokens.gather(1, (column - starts[:, None]).clamp(0, width - 1)))
        ids = torch.where(column < stops[:, None], ids, 0)
        if progress is not None:
            progress(len(prompts))
        return Rollout(ids, starts, stops, ended, logp[:, : int(lengths.max())].float())


def uniforms(seeds: list[int]) -> Tensor:
    """[B, T] float64 in [0, 1), each row from its seed.  Steele, Lea and Flood 2014, splitmix64, for many rows at once."""
    with numpy.errstate(over="ignore"):
        start = numpy.array([seed % 2**64 for seed in seeds], dtype=numpy.uint64)[:, None]
        z = start + numpy.arange(1, T + 1, dtype=numpy.uint64) * numpy.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        z = (z ^ (z >> numpy.uint64(31))) >> numpy.uint64(11)
    return torch.from_numpy(z.astype(numpy.float64)) * 2.0**-53
