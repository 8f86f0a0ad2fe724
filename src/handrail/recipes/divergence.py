"""How a policy is held near its reference: beta, where the divergence acts, and how beta adapts."""

from typing import Literal

from pydantic import Field
from torch import Tensor

from handrail.algo.control import adaptive_beta
from handrail.algo.kl import kl_k3
from handrail.algo.stats import masked_mean
from handrail.config import Settings


class Divergence(Settings):
    """How the policy is held near the reference."""

    beta: float = Field(0.05, ge=0, description="reward per nat")
    placement: Literal["reward", "loss"] = Field("reward", description="k1 in the reward, or k3 in the loss")
    target: float = Field(0.0, ge=0, description="nats a response that an adaptive beta aims at, 0: beta stays")
    horizon: int = Field(2000, ge=1, description="responses over which beta may change by a fifth")


class KLInReward:
    """-beta k1 in each token's reward.  With a target, beta adapts."""

    def __init__(self, settings: Divergence):
        self.beta, self.settings = settings.beta, settings

    @property
    def in_reward(self) -> float:
        return self.beta

    def loss(self, logp: Tensor, logp_ref: Tensor, mask: Tensor, count: Tensor, weight: Tensor) -> Tensor:
        """Nothing: the divergence acts through the reward.  weight is [B, 1], of each response's tokens."""
        return logp.new_zeros(())

    def adapt(self, kl: float, responses: int) -> None:
        """Move beta towards the target; kl in nats a response."""
        if self.settings.target:
            self.beta = adaptive_beta(self.beta, kl, self.settings.target, self.settings.horizon, responses)


class KLInLoss(KLInReward):
    """beta k3 in the loss, and nothing in the reward."""

    @property
    def in_reward(self) -> float:
        return 0.0

    def loss(self, logp: Tensor, logp_ref: Tensor, mask: Tensor, count: Tensor, weight: Tensor) -> Tensor:
        """beta times the weighted mean of k3 over real tokens."""
        return self.beta * masked_mean(weight * kl_k3(logp, logp_ref), mask, count)
