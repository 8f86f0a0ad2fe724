"""Where the reward of a response comes from, and the rule for responses that were cut."""

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from handrail.batch import Rollout
from handrail.config import Settings
from handrail.evaluate import FunctionJudge, total
from handrail.models import Combine, ScalarModel
from handrail.records import Prompt


class RewardSettings(Settings):
    """What is maximised: a reward model, a Python function, or a weighted sum of both."""

    model: str = Field("", description="folder of a reward model")
    model_weight: float = 1.0
    combine: Combine | None = Field(None, description="how its heads become one score, none: as it was trained to")
    function: str = Field("", description="file.py:name or package.module:name")
    function_weight: float = 1.0
    monitor: str = Field("", description="a function that is logged beside the reward and never trained on")
    cut: Literal["penalty", "bootstrap"] = Field(
        "penalty",
        description="a response that was cut: scored, less end_penalty, and taken for an end; or not scored, its last value standing in",
    )
    end_penalty: float = Field(1.0, ge=0, description="what a missing end costs where cut is penalty")

    @model_validator(mode="after")
    def _something(self) -> "RewardSettings":
        if not self.model and not self.function:
            raise ValueError("give reward.model, reward.function or both")
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


class Bootstrapped(Penalised):
    """A cut response has no score, since it has no end yet: the value after its last token stands in for it."""

    def score(self, score: Tensor, ended: Tensor) -> Tensor:
        """[B] scores, 0 where cut."""
        return torch.where(ended, score, 0)

    def bootstrap(self, after: Tensor, ended: Tensor) -> Tensor:
        """[B] the critic's value after the last token where cut."""
        return torch.where(ended, 0, after)


class RewardSource:
    """The score of each response, from a model, a function or both, under the rule for responses that were cut."""

    def __init__(self, settings: RewardSettings, model: ScalarModel | None):
        self.settings, self.model = settings, model
        self.cut = (Bootstrapped if settings.cut == "bootstrap" else Penalised)(settings.end_penalty)
        self.function = FunctionJudge(settings.function) if settings.function else None
        self.monitor = FunctionJudge(settings.monitor) if settings.monitor else None

    def __call__(self, rollout: Rollout, prompts: list[Prompt], texts: list[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """[B] rewards, and [B] components by name."""
        device = rollout.logp.device
        score = torch.zeros(len(rollout), device=device)
        components: dict[str, Tensor] = {}
        if self.model:
            heads = self.model.head_scores(rollout.sequences)
            components["reward_model"] = self.model.combined(heads)
            components |= self.model.heads.components(heads)
            score = score + self.settings.model_weight * components["reward_model"]
        if self.function:
            components["reward_function"] = torch.tensor(self.function.score(prompts, texts), device=device)
            score = score + self.settings.function_weight * components["reward_function"]
        if self.monitor:
            watched = self.monitor.parts(prompts, texts)
            components["gold"] = torch.tensor([total(parts) for parts in watched], device=device)
            for name in sorted(watched[0].keys() - {"total"}):
                components[f"gold.{name}"] = torch.tensor([parts[name] for parts in watched], device=device)
        return self.cut.score(score, rollout.ended), components
