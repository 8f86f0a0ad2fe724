"""What a policy minimises in an update: the objective that the settings name, and how much each response weighs."""

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from handrail.algo.control import ppo_penalty_beta
from handrail.algo.kl import kl_k3
from handrail.algo.objective import (
    gspo_loss,
    importance_loss,
    length_weight,
    ppo_clip_loss,
    ppo_penalty_loss,
    reinforce_loss,
    response_weight,
)
from handrail.algo.stats import masked_mean
from handrail.config import Settings

Kind = Literal["reinforce", "importance", "ppo_penalty", "ppo_clip", "gspo"]
Loss = tuple[Tensor, dict[str, Tensor]]


class ObjectiveSettings(Settings):
    """What an update minimises."""

    kind: Kind = Field("ppo_clip", description="what an update minimises; reinforce is for one pass over fresh responses")
    clip: float = Field(0.2, gt=0, lt=1, description="ppo_clip, gspo: how far the ratio may fall and rise (gspo: try 0.003)")
    clip_high: float = Field(0.0, ge=0, description="upper bound, 0: as the lower")
    target: float = Field(0.01, gt=0, description="ppo_penalty: nats a token that a step should move")
    penalty: float = Field(1.0, gt=0, description="ppo_penalty: its first coefficient, doubled or halved after each step")
    weigh: Literal["tokens", "responses", "lengths"] = Field(
        "tokens", description="tokens weigh alike; or 1/B each (the gradient of J); or 1/(B |y|), so that responses weigh alike (GRPO)"
    )


class Reinforced(ObjectiveSettings):
    """What an update minimises; the policy gradient itself where nothing else is named."""

    kind: Kind = Field("reinforce", description="what an update minimises; with several passes one with a ratio")


class Reinforce:
    """-A log pi.  Knows of no older policy."""

    def __init__(self, settings: ObjectiveSettings):
        self.settings, self.beta = settings, settings.penalty
        self.clip = settings.clip, settings.clip_high or settings.clip

    def __call__(self, logp: Tensor, logp_old: Tensor, advantage: Tensor, mask: Tensor, count: Tensor) -> Loss:
        """The loss, and what is logged of it.  logp_old must be finite under the mask too."""
        return reinforce_loss(logp, advantage, mask, count), self.moved(logp, logp_old, mask, count)

    def moved(self, logp: Tensor, logp_old: Tensor, mask: Tensor, count: Tensor) -> dict[str, Tensor]:
        """How far the policy is from the one that sampled, nats a token."""
        return {"approx_kl": masked_mean(kl_k3(logp_old, logp.detach()), mask, count)}

    def adapt(self, measure: Callable[[], float]) -> dict[str, float]:
        """After a step's updates; `measure` says how far they moved the policy, nats a token.  Returns what to log."""
        return {}


class Importance(Reinforce):
    """-w A log pi with the ratio of whole responses."""

    def __call__(self, logp: Tensor, logp_old: Tensor, advantage: Tensor, mask: Tensor, count: Tensor) -> Loss:
        return importance_loss(logp, logp_old, advantage, mask, count), self.moved(logp, logp_old, mask, count)


class Penalty(Reinforce):
    """-rho A + beta KL(pi_old || pi), beta doubled or halved after each step."""

    def __call__(self, logp: Tensor, logp_old: Tensor, advantage: Tensor, mask: Tensor, count: Tensor) -> Loss:
        return ppo_penalty_loss(logp, logp_old, advantage, mask, count, self.beta), self.moved(logp, logp_old, mask, count)

    def adapt(self, measure: Callable[[], float]) -> dict[str, float]:
        used, kl = self.beta, measure()
        self.beta = ppo_penalty_beta(self.beta, kl, self.settings.target)
        return {"penalty": used, "step_kl": kl}


class Clip(Reinforce):
    """-min(rho A, clip(rho) A) with the ratio of each token."""

    def __call__(self, logp: Tensor, logp_old: Tensor, advantage: Tensor, mask: Tensor, count: Tensor) -> Loss:
        return ppo_clip_loss(logp, logp_old, advantage, mask, count, *self.clip)


class Gspo(Reinforce):
    """-min(s A, clip(s) A) with one ratio for the whole response; each token has its own advantage all the same."""

    def __call__(self, logp: Tensor, logp_old: Tensor, advantage: Tensor, mask: Tensor, count: Tensor) -> Loss:
        return gspo_loss(logp, logp_old, advantage, mask, count, *self.clip)


KINDS: dict[Kind, type[Reinforce]] = {
    "reinforce": Reinforce,
    "importance": Importance,
    "ppo_penalty": Penalty,
    "ppo_clip": Clip,
    "gspo": Gspo,
}


def objective(settings: ObjectiveSettings) -> Reinforce:
    """The object that the settings name."""
    return KINDS[settings.kind](settings)


def weigh(settings: ObjectiveSettings) -> Callable[[Tensor], Tensor]:
    """From a minibatch's mask [B, T] to the weight [B, 1] of each response's tokens, in a loss that is divided by all tokens."""
    weights: dict[str, Callable[[Tensor], Tensor]] = {"tokens": torch.ones_like, "responses": response_weight, "lengths": length_weight}
    weight = weights[settings.weigh]
    return lambda mask: weight(mask.sum(1))[:, None]
