"""Illnesses that no setting gives: each a mistake that somebody could make in the code, put in for one run."""

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch

from handrail.data import Codec
from handrail.models import LanguageModel, ScalarModel
from handrail.recipes import parts, ppo, ppo_parts
from handrail.rollout import NativeEngine

Plant = Callable[[], Any]  # a context in which the mistake is made

generate, sync = NativeEngine.generate, NativeEngine.sync


def engine_colder() -> Any:
    """The engine samples at 0.7 where the trainer scores at 1."""

    def colder(self, prompts, seeds, sampling, *rest):
        cold = generate(self, prompts, seeds, sampling.model_copy(update={"temperature": 0.7 * sampling.temperature}), *rest)
        return cold

    return patch.object(NativeEngine, "generate", colder)


def engine_cut() -> Any:
    """The engine takes the likeliest of the law alone, as a model's generation config may ask for."""

    def cut(self, prompts, seeds, sampling, *rest):
        return generate(self, prompts, seeds, sampling.model_copy(update={"top_p": 0.7}), *rest)

    return patch.object(NativeEngine, "generate", cut)


def engine_never_told() -> Any:
    """The engine keeps the weights of the first step."""

    def once(self, policy):
        if self.policy is None:
            sync(self, LanguageModel(deepcopy(policy.hf)))

    return patch.object(NativeEngine, "sync", once)


def reference_shared() -> Any:
    """The reference is the policy itself."""
    assemble = ppo_parts.assemble

    def shared(cfg, codec, roles, *rest):
        return assemble(cfg, codec, replace(roles, reference=roles.policy), *rest)

    return patch.object(ppo_parts, "assemble", shared)


def reference_other() -> Any:
    """The reference is another checkpoint than the one that the policy begins from."""
    load = LanguageModel.load_reference

    def other(settings):
        model = load(settings)
        with torch.no_grad():
            for weight in model.hf.parameters():
                weight *= 1 + 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel()))
        return model

    return patch.object(LanguageModel, "load_reference", staticmethod(other))


def kl_turned() -> Any:
    """log pi_ref - log pi instead of log pi - log pi_ref."""
    turned = lambda logp, logp_ref: logp_ref - logp  # noqa: E731
    return patch.object(ppo, "kl_k1", turned)


@contextmanager
def dropout_in_updates() -> Iterator[None]:
    """Dropout is on while the policy learns, and off while it is judged."""
    gradient = ppo.gradient

    def dropped(cfg, parts, *rest):
        noise = [m.register_forward_hook(lambda _, __, out: torch.nn.functional.dropout(out, 0.1)) for m in _mixers(parts.policy)]
        try:
            return gradient(cfg, parts, *rest)
        finally:
            for hook in noise:
                hook.remove()

    with patch.object(ppo, "gradient", dropped):
        yield


def _mixers(policy: LanguageModel) -> list[torch.nn.Module]:
    return [m for name, m in policy.hf.named_modules() if name.endswith("mlp")]


def no_number() -> Any:
    """Every third gradient has a NaN."""
    return _clip(lambda count: float("nan") if count % 3 == 2 else 1.0)


def spikes() -> Any:
    """A batch now and then is a thousand times as loud."""
    return _clip(lambda count: 1000.0 if count % 11 == 10 else 1.0)


def _clip(times: Callable[[int], float]) -> Any:
    clip, counter = parts.Optimizer.clip, itertools.count()

    def loud(self):
        factor = times(next(counter))
        if factor != 1.0:
            for weight in (p for group in self.groups.values() for p in group.values()):
                if weight.grad is not None:
                    weight.grad *= factor
        return clip(self)

    return patch.object(parts.Optimizer, "clip", loud)


def slower_and_slower() -> Any:
    """What is beside the run takes more of the machine with each step."""
    judge, counter = ppo.judge, itertools.count()

    def slow(*given):
        time.sleep(min(8.0, 0.05 * 1.7 ** next(counter)))
        return judge(*given)

    return patch.object(ppo, "judge", slow)


def start_twice() -> Any:
    """The template writes the beginning of the sequence, and so does the tokenizer."""
    encode = Codec.encode_prompt

    def twice(self, prompt):
        ids = encode(self, prompt)
        return [ids[0], *ids]

    return patch.object(Codec, "encode_prompt", twice)


def end_unknown() -> Any:
    """The engine waits for another token than the one with which the model ends."""
    init = NativeEngine.__init__

    def other(self, codec, end_ids, *rest):
        init(self, codec, [len(codec) - 1], *rest)

    return patch.object(NativeEngine, "__init__", other)


def not_normalised() -> Any:
    """The reward model's scores were never brought to mean 0 and spread 1."""
    return _scores(lambda model, sequences, score: 4.0 * score + 6.0)


@contextmanager
def _scores(change: Callable[[Any, Any, torch.Tensor], torch.Tensor]) -> Iterator[None]:
    judged, score = ScalarModel.judged, ScalarModel.score

    def other(self, sequences):
        found, heads = judged(self, sequences)
        return change(self, sequences, found), heads

    with (
        patch.object(ScalarModel, "judged", other),
        patch.object(ScalarModel, "score", lambda self, sequences: change(self, sequences, score(self, sequences))),
    ):
        yield
