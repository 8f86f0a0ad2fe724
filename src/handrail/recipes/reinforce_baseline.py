"""Baselines: what is subtracted from a token's credit, and what the difference is multiplied with."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from handrail.algo.baseline import group_mean, group_std, leave_one_out
from handrail.algo.stats import mean_and_std
from handrail.algo.value import value_loss
from handrail.batch import Experience, Rollout
from handrail.config import Settings
from handrail.models import ModelSettings, ScalarModel, load_causal
from handrail.parallel import Parallel
from handrail.recipes.experience import widen

BaselineKind = Literal["none", "constant", "moving_average", "leave_one_out", "group", "group_normalised", "batch_normalised", "value"]


class BaselineSettings(Settings):
    """What is subtracted from a token's credit, and what it is divided by."""

    kind: BaselineKind = Field(
        "leave_one_out",
        description="leave_one_out: RLOO; group_normalised: GRPO, group: without its division (Dr. GRPO); batch_normalised: REINFORCE++",
    )
    constant: float = Field(0.0, description="constant: the reward to subtract")
    decay: float = Field(0.9, ge=0, lt=1, description="moving_average: how much of it stays each step")
    lr: float = Field(5e-4, ge=0, description="value: the critic's learning rate")


class NoBaseline:
    """Nothing is subtracted."""

    def __init__(self, settings: BaselineSettings):
        self.settings, self.average, self.weight = settings, 0.0, 0.0

    def __call__(self, returns: Tensor, total: Tensor, rollout: Rollout, group: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T] or [D, 1] what to subtract from `returns` [B, T], and [D, 1] what to multiply the difference with.

        `total` is [D] what each of D conversations earned in all, its divergence included, and `group` [D] the number of
        its prompt.  A single response is a conversation of one turn; then D = B.
        """
        return torch.zeros_like(total)[:, None], torch.ones_like(total)[:, None]

    def parameters(self) -> dict[str, tuple[dict[str, torch.nn.Parameter], float]]:
        """What is trained beside the policy, and its learning rate."""
        return {}

    def loss(self, part: Experience, count: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What the baseline itself learns from, by name; and the numbers [B, T] that it said for that, by name."""
        return {}, {}

    def learn(self, total: Tensor) -> None:
        """After a step, from what its responses earned."""

    def state(self) -> dict[str, Tensor]:
        """Weights for a checkpoint."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """What `state` returned."""


class Constant(NoBaseline):
    """A number."""

    def __call__(self, returns: Tensor, total: Tensor, rollout: Rollout, group: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full_like(total, self.settings.constant)[:, None], torch.ones_like(total)[:, None]


class MovingAverage(NoBaseline):
    """The mean of what earlier steps earned, older ones counting less; 0 in the first.  It knows nothing of this step's."""

    def __call__(self, returns: Tensor, total: Tensor, rollout: Rollout, group: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full_like(total, self.average / self.weight if self.weight else 0.0)[:, None], torch.ones_like(total)[:, None]

    def learn(self, total: Tensor) -> None:
        keep = self.settings.decay
        self.average = keep * self.average + (1 - keep) * float(total.mean())
        self.weight = keep * self.weight + (1 - keep)


class LeaveOneOut(NoBaseline):
    """The mean of the other responses to the prompt."""

    def __call__(self, returns: Tensor, total: Tensor, rollout: Rollout, group: Tensor) -> tuple[Tensor, Tensor]:
        return leave_one_out(total, group)[:, None], torch.ones_like(total)[:, None]


class Group(NoBaseline):
    """The mean of all responses to the prompt."""

    def __call__(self, returns: Tensor, total: Tensor, rollout: Rollout, group: Tensor) -> tuple[Tensor, Tensor]:
        return group_mean(total, group)[:, None], torch.ones_like(total)[:, None]


class GroupNormalised(NoBaseline):
    """The mean of all responses to the prompt, and their standard deviation to divide by."""

    LEAST = 1e-6  # where all earned the same there is nothing to tell them apart by, and nothing is learned from them

    def __call__(self, returns: Tensor, total: Tensor, rollout: Rollout, group: Tensor) -> tuple[Tensor, Tensor]:
        std = group_std(total, group)
        return group_mean(total, group)[:, None], torch.where(std > self.LEAST, 1 / std, 0)[:, None]


class BatchNormalised(NoBaseline):
    """Mean and standard deviation over all tokens of the batch."""

    def __call__(self, returns: Tensor, total: Tensor, rollout: Rollout, group: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = mean_and_std(returns, rollout.mask)
        return mean.expand(len(total), 1), (1 / std.clamp(min=1e-6)).expand(len(total), 1)


class Learned(NoBaseline):
    """A critic's value before each token; it learns the mean credit."""

    def __init__(self, settings: BaselineSettings, critic: ScalarModel):
        super().__init__(settings)
        self.critic, self.parallel = critic, Parallel.joined()

    @torch.no_grad()
    def __call__(self, returns: Tensor, total: Tensor, rollout: Rollout, group: Tensor) -> tuple[Tensor, Tensor]:
        return self.parallel.each(self.critic.values, rollout.sequences)[0], torch.ones_like(total)[:, None]

    def parameters(self) -> dict[str, tuple[dict[str, torch.nn.Parameter], float]]:
        return {"critic": (self.critic.parameters(), self.settings.lr)}

    def loss(self, part: Experience, count: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        values = widen(self.critic.values(part.rollout.sequences)[0], part.mask)
        return {"value_loss": value_loss(values, part.returns, part.mask, count)}, {"value": values}

    def state(self) -> dict[str, Tensor]:
        return self.critic.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.critic.load_state(state)


BASELINES: dict[str, type[NoBaseline]] = {
    "none": NoBaseline,
    "constant": Constant,
    "moving_average": MovingAverage,
    "leave_one_out": LeaveOneOut,
    "group": Group,
    "group_normalised": GroupNormalised,
    "batch_normalised": BatchNormalised,
}


def make_baseline(settings: BaselineSettings, policy: ModelSettings) -> NoBaseline:
    """The object that the settings name; a critic starts as the policy does, with a head of zeros."""
    if settings.kind == "value":
        return Learned(settings, ScalarModel.from_causal(load_causal(policy), "zero", policy.autocast, policy.compile))
    return BASELINES[settings.kind](settings)
