"""Where the reward of a response comes from, and the rule for responses that were cut."""

import re
from typing import Literal, Protocol

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from handrail.batch import Rollout
from handrail.config import Settings
from handrail.data import Codec
from handrail.evaluate import FunctionJudge, TokenFunction, total
from handrail.models import Combine, ModelSettings, ScalarModel, load_tokenizer, same_vocabulary
from handrail.parallel import Parallel
from handrail.recipes.parts import fingerprint, source_of
from handrail.records import Prompt


class RewardTerm(Settings):
    """One more source of reward, times its weight: exactly one of model, function, token_function, length and pattern."""

    weight: float = Field(1.0, description="what its value is multiplied with")
    name: str = Field("", description="in the log; default: the kind of the source")
    model: str = Field("", description="folder of a reward model")
    function: str = Field("", description="file.py:name or package.module:name")
    token_function: str = Field("", description="as function, but given the tokens too, and giving a number for each of them")
    length: int = Field(0, ge=0, description="tokens that a response should have: -|n - length| / length")
    pattern: str = Field("", description="a regular expression: 1 where it is found in the response, else 0")

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        return pattern

    @model_validator(mode="after")
    def _one_source(self) -> "RewardTerm":
        given = [kind for kind in TERM_KINDS if getattr(self, kind)]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(TERM_KINDS)}; given: {', '.join(given) or 'none'}")
        return self

    @property
    def kind(self) -> str:
        """Which of them is given."""
        return next(kind for kind in TERM_KINDS if getattr(self, kind))


TERM_KINDS = ("model", "function", "token_function", "length", "pattern")


class RewardSettings(Settings):
    """What is maximised: a reward model, a Python function, further terms, or a weighted sum of them."""

    model: str = Field("", description="folder of a reward model")
    model_weight: float = 1.0
    combine: Combine | None = Field(None, description="how its heads become one score, none: as it was trained to")
    function: str = Field("", description="file.py:name or package.module:name")
    function_weight: float = 1.0
    more: list[RewardTerm] = Field([], description="further terms, each with its weight")
    monitor: str = Field("", description="a function that is logged beside the reward and never trained on")
    seconds: float = Field(600.0, gt=0, description="for one call of a function; then it is asked again")
    attempts: int = Field(3, ge=1, description="calls of a function that fails, before the run does")
    cut: Literal["penalty", "bootstrap", "mask"] = Field(
        "penalty",
        description="a cut response: scored, less end_penalty, and taken for an end; not scored, its last value standing in; or left out",
    )
    end_penalty: float = Field(1.0, ge=0, description="what a missing end costs where cut is penalty")

    @model_validator(mode="after")
    def _something(self) -> "RewardSettings":
        if not self.model and not self.function and not self.more:
            raise ValueError("give reward.model, reward.function or reward.more")
        names = [term.name or term.kind for term in self.more]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two terms of reward.more are called {twice[0]!r}; give each a name of its own")
        if self.combine and not self.model:
            raise ValueError("combine is for the heads of reward.model, and there is none")
        return self


class Penalised:
    """A cut response keeps its score less a penalty, and counts as an end: nothing is bootstrapped."""

    def __init__(self, penalty: float):
        self.penalty = penalty

    def score(self, score: Tensor, ended: Tensor) -> Tensor:
        """[B] scores as the cut leaves them."""
        return score - self.penalty * (~ended).to(score.dtype)

    def bootstrap(self, after: Tensor, ended: Tensor) -> Tensor:
        """[B] the value that stands for what would have followed."""
        return torch.zeros_like(after)

    def kept(self, ended: Tensor) -> Tensor:
        """[B] bool, which responses are learned from."""
        return torch.ones_like(ended)


class Masked(Penalised):
    """Nothing is learned from a cut response.  DAPO's overlong filtering: Yu et al. 2025, section 3.4."""

    def score(self, score: Tensor, ended: Tensor) -> Tensor:
        """[B] scores as they are."""
        return score

    def kept(self, ended: Tensor) -> Tensor:
        """[B] bool, those that ended."""
        return ended


class Bootstrapped(Penalised):
    """A cut response has no score, since it has no end yet: the value after its last token stands in for it."""

    def score(self, score: Tensor, ended: Tensor) -> Tensor:
        """[B] scores, 0 where cut."""
        return torch.where(ended, score, 0)

    def bootstrap(self, after: Tensor, ended: Tensor) -> Tensor:
        """[B] the critic's value after the last token where cut."""
        return torch.where(ended, 0, after)


def reward_inputs(settings: RewardSettings) -> dict[str, str]:
    """Fingerprints of what the reward is made from."""
    inputs = {"reward": fingerprint(settings.model)}
    inputs |= {"function": source_of(settings.function), "monitor": source_of(settings.monitor)}
    for number, term in enumerate(settings.more):
        inputs[f"more.{number}"] = fingerprint(term.model) if term.model else source_of(term.function or term.token_function)
    return inputs


def load_reward_model(path: str, like: ModelSettings, codec: Codec, combine: Combine | None) -> ScalarModel:
    """A frozen reward model, computed with as the policy is.  Raises ModelError where it reads other tokens."""
    settings = ModelSettings(
        path=path,
        dtype=like.dtype,
        autocast=like.autocast,
        compile=like.compile,
        gradient_checkpointing=like.gradient_checkpointing,
    )
    same_vocabulary(codec.tokenizer, load_tokenizer(settings))
    model = ScalarModel.load(settings).freeze()
    if combine:
        model.combine_by(combine)
    return model


def _judge(function: str, settings: RewardSettings) -> FunctionJudge | None:
    return FunctionJudge(function, "", settings.attempts, settings.seconds) if function else None


class Term(Protocol):
    """A source of reward."""

    def __init__(self, term: RewardTerm, settings: RewardSettings, like: ModelSettings, codec: Codec): ...

    def __call__(self, rollout: Rollout, prompts: list[Prompt], texts: list[str]) -> Tensor:
        """[B] reward, or [B, T] reward of each token."""
        ...


class _Model:
    """The score of a reward model."""

    def __init__(self, term: RewardTerm, settings: RewardSettings, like: ModelSettings, codec: Codec):
        self.model, self.parallel = load_reward_model(term.model, like, codec, None), Parallel.joined()

    def __call__(self, rollout: Rollout, prompts: list[Prompt], texts: list[str]) -> Tensor:
        return self.parallel.each(self.model.score, rollout.sequences).float()


class _Function:
    """What a function of the user says of each response."""

    def __init__(self, term: RewardTerm, settings: RewardSettings, like: ModelSettings, codec: Codec):
        self.function, self.parallel = FunctionJudge(term.function, "", settings.attempts, settings.seconds), Parallel.joined()

    def __call__(self, rollout: Rollout, prompts: list[Prompt], texts: list[str]) -> Tensor:
        return torch.tensor(self.parallel.first(lambda: self.function.score(prompts, texts)))


class _TokenFunction:
    """What a function of the user says of each token."""

    def __init__(self, term: RewardTerm, settings: RewardSettings, like: ModelSettings, codec: Codec):
        self.codec, self.parallel = codec, Parallel.joined()
        self.function = TokenFunction(term.token_function, settings.attempts, settings.seconds)

    def __call__(self, rollout: Rollout, prompts: list[Prompt], texts: list[str]) -> Tensor:
        rewards = torch.zeros(rollout.logp.shape)
        pieces = [self.codec.pieces(ids) for ids in rollout.responses()]
        found = self.parallel.first(lambda: self.function.values(prompts, texts, pieces))
        for row, values in zip(rewards, found, strict=True):
            row[: len(values)] = torch.tensor(values)
        return rewards


class _Length:
    """-|n - target| / target."""

    def __init__(self, term: RewardTerm, settings: RewardSettings, like: ModelSettings, codec: Codec):
        self.target = term.length

    def __call__(self, rollout: Rollout, prompts: list[Prompt], texts: list[str]) -> Tensor:
        return -(rollout.response_lengths - self.target).abs().float() / self.target


class _Pattern:
    """1 where the expression is found, else 0."""

    def __init__(self, term: RewardTerm, settings: RewardSettings, like: ModelSettings, codec: Codec):
        self.pattern = re.compile(term.pattern)

    def __call__(self, rollout: Rollout, prompts: list[Prompt], texts: list[str]) -> Tensor:
        return torch.tensor([float(bool(self.pattern.search(text))) for text in texts])


SOURCES: dict[str, type[Term]] = {  # by the kind of a term
    "model": _Model,
    "function": _Function,
    "token_function": _TokenFunction,
    "length": _Length,
    "pattern": _Pattern,
}


class RewardSource:
    """The reward of each response: the weighted sum of what was asked for, under the rule for responses that were cut.

    Of several processes each asks reward models of its share; functions of the user's are called in the first, with all.
    """

    def __init__(self, settings: RewardSettings, model: ScalarModel | None, like: ModelSettings, codec: Codec):
        """Args: model, the one at `settings.model`, loaded by who also makes a critic of it; like, how further ones are held."""
        self.settings, self.model, self.parallel = settings, model, Parallel.joined()
        self.cut = {"penalty": Penalised, "bootstrap": Bootstrapped, "mask": Masked}[settings.cut](settings.end_penalty)
        self.function = _judge(settings.function, settings)
        self.monitor = _judge(settings.monitor, settings)
        self.more = [(term.name or term.kind, term.weight, SOURCES[term.kind](term, settings, like, codec)) for term in settings.more]

    def __call__(self, rollout: Rollout, prompts: list[Prompt], texts: list[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """[B] rewards of whole responses, and [B] components by name."""
        score, tokens, components = self.by_token(rollout, prompts, texts)
        return score + tokens.sum(1), components

    def by_token(self, rollout: Rollout, prompts: list[Prompt], texts: list[str]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """[B] rewards of whole responses, [B, T] rewards of single tokens beside them, and [B] components by name."""
        device = rollout.logp.device
        score = torch.zeros(len(rollout), device=device)
        tokens = torch.zeros(rollout.logp.shape, device=device)
        components: dict[str, Tensor] = {}
        if self.model:
            components["reward_model"], of_heads = self.parallel.each(self.model.judged, rollout.sequences)
            components |= of_heads
            score = score + self.settings.model_weight * components["reward_model"]
        if function := self.function:
            scored = self.parallel.first(lambda: function.score(prompts, texts))
            components["reward_function"] = torch.tensor(scored, device=device)
            score = score + self.settings.function_weight * components["reward_function"]
        for name, weight, source in self.more:
            value = source(rollout, prompts, texts).to(device)
            components[f"reward.{name}"] = value if value.ndim == 1 else value.sum(1)
            score, tokens = (score + weight * value, tokens) if value.ndim == 1 else (score, tokens + weight * value)
        if monitor := self.monitor:
            watched = self.parallel.first(lambda: monitor.parts(prompts, texts))
            components["gold"] = torch.tensor([total(parts) for parts in watched], device=device)
            for name in sorted(watched[0].keys() - {"total"}):
                components[f"gold.{name}"] = torch.tensor([parts[name] for parts in watched], device=device)
        return self.cut.score(score, rollout.ended), tokens, components


def load_reward(settings: RewardSettings, like: ModelSettings, codec: Codec) -> RewardSource:
    """The reward that the settings name, its models held as `like` is."""
    model = load_reward_model(settings.model, like, codec, settings.combine) if settings.model else None
    return RewardSource(settings, model, like, codec)
