"""The losses of direct preference learning as objects: what each compares, and what its implicit reward is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from pydantic import Field, model_validator
from torch import Tensor

from handrail.algo.direct import (
    Statistics,
    dpo_loss,
    implicit_reward,
    ipo_loss,
    kto_loss,
    log_odds,
    mean_reward,
    orpo_loss,
    simpo_loss,
)
from handrail.batch import Labels
from handrail.config import Settings


class Loss(Settings):
    """Which loss, and how strong."""

    name: Literal["dpo", "ipo", "kto", "orpo", "simpo"] = Field("dpo", description="orpo and simpo have no reference")
    beta: float = Field(0.0, ge=0, description="implicit reward per nat of log(pi / pi_ref), of simpo per nat a token; 0: 0.1, of simpo 2")
    smoothing: float = Field(0.0, ge=0, lt=0.5, description="share of labels taken to be wrong: dpo, orpo, simpo")
    gamma: float = Field(1.0, ge=0, description="simpo: by how much the chosen response is to be ahead, in reward")
    odds_weight: float = Field(0.1, ge=0, description="orpo: weight of the odds against the demonstration")
    desirable: float = Field(1.0, ge=0, description="kto: weight of a desirable response")
    undesirable: float = Field(1.0, ge=0, description="kto: weight of an undesirable one")

    @model_validator(mode="after")
    def _has_a_place(self) -> "Loss":
        if self.smoothing and self.name in ("ipo", "kto"):
            raise ValueError(f"smoothing {self.smoothing:g} has no place in {self.name}: give it with dpo, orpo or simpo")
        return self

    @property
    def strength(self) -> float:
        """beta, or what stands for 0."""
        return self.beta or (2.0 if self.name == "simpo" else 0.1)


@dataclass(frozen=True, slots=True)
class Said:
    """What the models say of responses, all of one shape."""

    logp: Tensor  # nats a response, under the policy
    logp_ref: Tensor  # nats a response, under the reference
    length: Tensor  # tokens of the response, its end included

    def at(self, where: Tensor) -> "Said":
        """Those at [P] places of the flattened shape; gradients of a place that is met often are summed in a fixed order."""
        return Said(*(x.flatten().index_select(0, where) for x in (self.logp, self.logp_ref, self.length)))


@dataclass(frozen=True, slots=True)
class Counts:
    """Sums of weights in the whole global minibatch."""

    pairs: Tensor
    desirable: Tensor
    undesirable: Tensor

    @classmethod
    def of(cls, labels: Labels) -> "Counts":
        return cls(*(x.sum() for x in (labels.wins, labels.desirable, labels.undesirable)))


def pairs(labels: Labels) -> tuple[Tensor, Tensor, Tensor]:
    """[P] places of the chosen and of the rejected response of every pair in the flattened [N, K], and [P] weights."""
    n, i, j = labels.wins.nonzero(as_tuple=True)
    k = labels.wins.shape[1]
    return n * k + i, n * k + j, labels.wins[n, i, j]


class Objective(Protocol):
    """What a policy minimises on labelled responses."""

    refers: bool  # whether it compares the policy with a reference
    measures_kl: bool  # whether it needs to know how far the policy is from it

    def reward(self, said: Said) -> Tensor:
        """The implicit reward, in the shape of what is given."""

    def __call__(self, said: Said, labels: Labels, counts: Counts, kl: Tensor) -> tuple[Tensor, Statistics]:
        """The loss of a slice, and its statistics.  `said` is [N, K]; kl in nats a response."""


class DPO:
    """-log sigmoid of the difference of beta log(pi / pi_ref)."""

    refers = True
    measures_kl = False

    def __init__(self, settings: Loss):
        self.settings, self.beta = settings, settings.strength

    def reward(self, said: Said) -> Tensor:
        """The implicit reward, in the shape of what is given."""
        return implicit_reward(said.logp, said.logp_ref, self.beta)

    def __call__(self, said: Said, labels: Labels, counts: Counts, kl: Tensor) -> tuple[Tensor, Statistics]:
        """The loss of a slice, and its statistics.  `said` is [N, K]; kl in nats a response."""
        chosen, rejected, weight = pairs(labels)
        won, lost = said.at(chosen), said.at(rejected)
        return self.loss(won, lost, weight, counts.pairs)

    def loss(self, won: Said, lost: Said, weight: Tensor, count: Tensor) -> tuple[Tensor, Statistics]:
        """The loss of [P] pairs."""
        return dpo_loss(won.logp, lost.logp, won.logp_ref, lost.logp_ref, weight, count, self.beta, self.settings.smoothing)


class IPO(DPO):
    """The difference of log(pi / pi_ref) is to be 1 / (2 beta), no more and no less."""

    def loss(self, won: Said, lost: Said, weight: Tensor, count: Tensor) -> tuple[Tensor, Statistics]:
        """The loss of [P] pairs."""
        return ipo_loss(won.logp, lost.logp, won.logp_ref, lost.logp_ref, weight, count, self.beta)


class ORPO(DPO):
    """Supervised fine-tuning on the chosen response, and the odds against the rejected one."""

    refers = False

    def reward(self, said: Said) -> Tensor:
        """The implicit reward, in the shape of what is given."""
        return log_odds(said.logp, said.length)

    def loss(self, won: Said, lost: Said, weight: Tensor, count: Tensor) -> tuple[Tensor, Statistics]:
        """The loss of [P] pairs."""
        settings = self.settings
        return orpo_loss(won.logp, lost.logp, won.length, lost.length, weight, count, settings.odds_weight, settings.smoothing)


class SimPO(DPO):
    """-log sigmoid of the difference of beta log pi a token, less gamma."""

    refers = False

    def reward(self, said: Said) -> Tensor:
        """The implicit reward, in the shape of what is given."""
        return mean_reward(said.logp, said.length, self.beta)

    def loss(self, won: Said, lost: Said, weight: Tensor, count: Tensor) -> tuple[Tensor, Statistics]:
        """The loss of [P] pairs."""
        settings = self.settings
        return simpo_loss(won.logp, lost.logp, won.length, lost.length, weight, count, self.beta, settings.gamma, settings.smoothing)


class KTO:
    """Each response alone, desirable or undesirable, against the divergence from the reference."""

    refers = True
    measures_kl = True

    def __init__(self, settings: Loss):
        self.settings, self.beta = settings, settings.strength

    def reward(self, said: Said) -> Tensor:
        """The implicit reward, in the shape of what is given."""
        return implicit_reward(said.logp, said.logp_ref, self.beta)

    def __call__(self, said: Said, labels: Labels, counts: Counts, kl: Tensor) -> tuple[Tensor, Statistics]:
        """The loss of a slice, and its statistics.  `said` is [N, K]; kl in nats a response."""
        good, bad = (x.flatten().nonzero()[:, 0] for x in (labels.desirable, labels.undesirable))
        weight = torch.cat([labels.desirable.flatten()[good], labels.undesirable.flatten()[bad]])
        one = said.at(torch.cat([good, bad]))
        desirable = torch.arange(len(weight), device=weight.device) < len(good)
        lam = self.settings.desirable, self.settings.undesirable
        kl = kl.clamp(min=0)  # an estimate may fall below
        return kto_loss(one.logp, one.logp_ref, desirable, kl, weight, counts.desirable, counts.undesirable, self.beta, *lam)


OBJECTIVES: dict[str, Callable[[Loss], Objective]] = {"dpo": DPO, "ipo": IPO, "kto": KTO, "orpo": ORPO, "simpo": SimPO}
