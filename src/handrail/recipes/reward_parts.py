"""The settings of a reward model and the objects that they name: heads, loss, and what each head learns from each ranking."""

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from pydantic import Field, NonNegativeFloat, model_validator
from torch import Tensor

from handrail.algo.preference import plackett_luce_loss, ranking_loss
from handrail.config import Settings
from handrail.data import Codec, Source, load_rankings, split_by_prompt, within_context
from handrail.errors import ConfigError
from handrail.models import Combine, Heads, LanguageModel, ModelSettings, ScalarModel, load_causal, load_tokenizer
from handrail.parallel import Parallel
from handrail.recipes.parts import Optimizer, RunSettings, derive, describe, fingerprint, machine, seed_everything
from handrail.records import Ranking
from handrail.rollout import Sampling

LARGEST_TIE = 12  # Plackett-Luce takes 2^n sums for a tie of n


class Reward(Settings):
    """Settings of `handrail reward`."""

    out: str = Field("runs/reward", description="the run folder")
    seed: int = 0
    model: ModelSettings = Field(description="where the trunk starts: the model after SFT")
    data: Source = Field(description="comparisons, rankings or ratings; each criterion that they name gets a head of its own")
    test: Source | None = Field(None, description="other rankings to test on, instead of held-out prompts")
    held_out: float = Field(0.1, gt=0, lt=1, description="share of prompts to test on")
    template: Literal["auto", "chat", "plain"] = "auto"
    loss: Literal["pairs", "plackett_luce"] = Field(
        "pairs",
        description="of each pair in a ranking, Bradley-Terry; or of the whole: the best is chosen, then the best of the rest",
    )
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="probability that a labeller errs in a pair; of loss pairs")
    labeller_weights: dict[str, NonNegativeFloat] = Field({}, description="what a labeller's rankings count in training; not named: 1")
    margin_per_point: float = Field(0.0, ge=0, description="reward by which a response should lead for each point that it was rated higher")
    heads: int = Field(1, ge=1, description="an ensemble: linear heads, each from its own start and on its own resample of the rankings")
    combine: Combine = Field(Combine(), description="how several heads become one score, unless PPO says otherwise")
    epochs: int = Field(1, ge=1)
    batch_size: int = Field(16, ge=1, description="rankings a step")
    micro_tokens: int = Field(0, ge=0, description="tokens at once, 0: what suits the device; changes nothing but memory")
    lr: float = Field(5e-4, gt=0)
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps")
    weight_decay: float = Field(0.05, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    token_weight: float = Field(
        0.5, ge=0, description="weight of the same loss on the head's mean over a response's tokens; the score stays the last token's"
    )
    centring: float = Field(0.01, ge=0, description="weight of the loss that keeps a ranking's mean near 0")
    normalise_on: int = Field(256, ge=2, description="responses of the starting model to normalise on")
    sampling: Sampling = Sampling()
    run: RunSettings = RunSettings()

    @model_validator(mode="after")
    def _smooths_pairs(self) -> "Reward":
        if self.label_smoothing and self.loss != "pairs":
            raise ValueError(f"label_smoothing {self.label_smoothing:g} is for loss: pairs, since {self.loss} has no pairs to swap")
        return self


Loss = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Parts:
    """What `build` makes and `train` uses."""

    codec: Codec
    model: ScalarModel
    start: LanguageModel  # samples the responses to normalise on
    optimizer: Optimizer
    parallel: Parallel
    loss: Loss  # of scores, places, mask, margin, weight, count
    train: list[Ranking]
    criterion: Tensor  # [N] int64, of each ranking to train on
    share: Tensor  # [N, M] how often each member sees it
    test: list[Ranking]
    described: str


def build(cfg: Reward) -> tuple[Parts, dict[str, str]]:
    """The parts, and the fingerprints of what they were made from."""
    machine()
    loaded = load_rankings(cfg.data)
    inputs = {"data": loaded.sha256, "model": fingerprint(cfg.model.path)}
    criteria = criteria_of(loaded.records, cfg.data)
    seed_everything(cfg.seed, "head")
    codec = Codec(load_tokenizer(cfg.model), cfg.template)
    heads = Heads(criteria, cfg.heads, cfg.combine)
    model = ScalarModel.from_causal(load_causal(cfg.model), "normal", cfg.model.autocast, cfg.model.compile, heads)
    records, left_out = within_context(codec, loaded.records, model.context)
    if cfg.test:
        other = load_rankings(cfg.test)
        if strange := {r.criterion for r in other.records} - set(criteria):
            raise ConfigError(f"{cfg.test.path}: rankings by {' and '.join(map(repr, sorted(strange)))}", f"criteria of {cfg.data.path}")
        prompts = {r.prompt.text for r in other.records}
        train, test = (
            [r for r in records if r.prompt.text not in prompts],
            within_context(codec, other.records, model.context)[0],
        )
        inputs["test"] = other.sha256
    else:
        train, test = split_by_prompt(records, cfg.held_out, cfg.seed)
    parallel, train = Parallel.joined(), weighted(train, loaded.records, cfg.labeller_weights)
    check(cfg, train, test, criteria)
    parts = Parts(
        codec=codec,
        model=model,
        start=LanguageModel.load_reference(cfg.model),
        optimizer=Optimizer({"reward": (model.parameters(), cfg.lr)}, cfg.weight_decay, cfg.max_grad_norm, parallel),
        parallel=parallel,
        loss=plackett_luce_loss if cfg.loss == "plackett_luce" else partial(ranking_loss, smoothing=cfg.label_smoothing),
        train=train,
        criterion=torch.tensor([criteria.index(r.criterion) for r in train]),
        share=shares(train, cfg.heads, cfg.seed),
        test=test,
        described=describe(loaded.described, left_out),
    )
    return parts, inputs


def criteria_of(rankings: Sequence[Ranking], source: Source) -> tuple[str, ...]:
    """The criteria that rankings name, in the order of the alphabet.  Raises ConfigError where some name none."""
    names = sorted({r.criterion for r in rankings})
    if names[0] == "" and len(names) > 1:
        without = sum(not r.criterion for r in rankings)
        raise ConfigError(
            f"{source.path}: {without} rankings name no criterion, {len(rankings) - without} are by {', '.join(names[1:])}",
            "a criterion in all of them, or in none",
            "name theirs too, for example 'overall'",
        )
    return tuple(names)


def weighted(rankings: list[Ranking], known: Sequence[Ranking], weights: dict[str, float]) -> list[Ranking]:
    """The rankings with their weights times those of their labellers, without those that then weigh nothing."""
    labellers = sorted({r.labeller for r in known} - {""})
    if strange := sorted(weights.keys() - set(labellers)):
        near = difflib.get_close_matches(strange[0], labellers, n=1)
        raise ConfigError(
            f"labeller_weights: no ranking is by '{strange[0]}'",
            f"the labellers {', '.join(labellers)}" if labellers else "nothing, since the data names no labeller",
            f"did you mean '{near[0]}'?" if near else "",
        )
    by_hand = [r.model_copy(update={"weight": r.weight * weights.get(r.labeller, 1.0)}) for r in rankings]
    return [r for r in by_hand if r.weight > 0]


def shares(rankings: Sequence[Ranking], members: int, seed: int) -> Tensor:
    """[N, M] how often each member of an ensemble sees each ranking; once, where there is one member."""
    if members == 1:
        return torch.ones(len(rankings), 1)
    return torch.tensor([[float(resampled(seed, member, r.id)) for member in range(members)] for r in rankings])


def resampled(seed: int, member: int, ranking: str) -> int:
    """A draw of Poisson(1), how often a bootstrap of many rankings takes one of them (Oza and Russell 2001).

    It follows from the seed, the member and the ranking's id alone: a resumed run has the same, in any order.
    """
    uniform = derive(seed, "bootstrap", member, ranking) / 2**63
    count, mass = 0, math.exp(-1)
    while uniform >= mass and count < 20:
        uniform, count = uniform - mass, count + 1
        mass /= count
    return count


def check(cfg: Reward, train: Sequence[Ranking], test: Sequence[Ranking], criteria: tuple[str, ...]) -> None:
    """Raises ConfigError where there is too little to train or to test on, or a setting that the data cannot follow."""
    if not train or not any(r.pairs() for r in test):
        raise ConfigError(
            f"{cfg.data.path}: {len(train)} rankings to train on and {len(test)} to test on",
            "at least one of each, and among the latter one that is not all ties",
        )
    if missing := set(criteria) - {r.criterion for r in train}:
        raise ConfigError(f"{cfg.data.path}: no ranking by '{min(missing)}' is left to train on", "at least one by each criterion")
    if cfg.margin_per_point and not any(r.scores for r in train):
        raise ConfigError(
            f"margin_per_point: {cfg.margin_per_point:g}, and no ranking of {cfg.data.path} has scores",
            "ratings, or rankings with scores",
            "set it to 0; rankings may carry a `margin` instead",
        )
    largest = max(r.places.count(place) for r in train for place in r.places)
    if cfg.loss == "plackett_luce" and largest > LARGEST_TIE:
        raise ConfigError(
            f"loss: plackett_luce, of a tie of {largest} responses", f"at most {LARGEST_TIE} in one place", "set loss to pairs"
        )
