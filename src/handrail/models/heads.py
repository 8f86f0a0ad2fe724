"""Several heads on one trunk: what each output stands for, and how they become one score."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from handrail.algo.ensemble import ensemble_mean, ensemble_mean_minus_std, ensemble_minimum, ensemble_spread
from handrail.errors import ConfigError, ModelError
from handrail.models.settings import Combine

RULES: dict[str, Callable[[Combine], Callable[[Tensor], Tensor]]] = {
    "mean": lambda combine: ensemble_mean,
    "minimum": lambda combine: ensemble_minimum,
    "mean_minus_std": lambda combine: partial(ensemble_mean_minus_std, k=combine.k),
}


class Heads:
    """C criteria with M members each: H = C M outputs, the members of a criterion side by side.

    One score comes of them in two steps: the members of each criterion by the rule of `combine`, the criteria by its
    weights.  Before each step what goes in is brought to mean 0 and standard deviation 1 on `reference`.

    Args:
        criteria: their names; one without a name is what was learned where nothing was said.
        members: heads of each criterion.
        combine: how they become one score.
        reference: [R, H] the outputs on responses of the model that a policy starts from; None until they are known,
            and where there is one output alone.

    Raises:
        ConfigError: `combine` names criteria that there are not, or a rule for members where there is one.
    """

    def __init__(
        self, criteria: tuple[str, ...] = ("",), members: int = 1, combine: Combine | None = None, reference: Tensor | None = None
    ):
        self.criteria, self.members, self.combine = criteria, members, combine or Combine()
        check(self.combine, criteria, members)
        self.rule = RULES[self.combine.rule](self.combine)
        self.weights = torch.tensor([self.combine.weights.get(name, 1.0) for name in criteria])
        self.reference = reference if self.count > 1 else None
        self.mean, self.std = torch.zeros(self.count), torch.ones(self.count)
        self.centre, self.scale = torch.zeros(len(criteria)), torch.ones(len(criteria))
        if self.reference is not None:
            self.mean, self.std = moments(self.reference)
            if len(criteria) > 1:  # one criterion alone is normalised as the score that it is
                self.centre, self.scale = moments(self.by_criterion(self.normalised(self.reference)))

    @property
    def count(self) -> int:
        """H."""
        return len(self.criteria) * self.members

    def normalised(self, outputs: Tensor) -> Tensor:
        """[..., H] each output of mean 0 and standard deviation 1 on the reference's responses."""
        return (outputs - self.mean.to(outputs)) / self.std.to(outputs)

    def by_criterion(self, scores: Tensor) -> Tensor:
        """[..., C] from normalised [..., H]."""
        return (self.rule(self.apart(scores)) - self.centre.to(scores)) / self.scale.to(scores)

    def total(self, scores: Tensor) -> Tensor:
        """[...] the weighted sum over criteria, from normalised [..., H]; not normalised itself."""
        return (self.by_criterion(scores) * self.weights.to(scores)).sum(-1)

    def apart(self, scores: Tensor) -> Tensor:
        """[..., C, M] from [..., H]."""
        return scores.unflatten(-1, (len(self.criteria), self.members))

    def own(self, scores: Tensor, criterion: Tensor) -> Tensor:
        """[N, K, M] the members of each ranking's criterion, [N], out of [N, K, H]."""
        return self.apart(scores)[torch.arange(len(scores), device=scores.device), :, criterion]

    def components(self, scores: Tensor) -> dict[str, Tensor]:
        """What is worth a curve beside the score, [...] each: the members' disagreement, and each criterion."""
        found = {"reward_spread": ensemble_spread(self.apart(scores)).mean(-1)} if self.members > 1 else {}
        by_criterion = self.by_criterion(scores).unbind(-1) if len(self.criteria) > 1 else ()
        return found | {f"reward.{name}": score for name, score in zip(self.criteria, by_criterion, strict=False)}

    def moments(self, outputs: Tensor) -> tuple[float, float]:
        """Mean and standard deviation of `total` over responses with these outputs, [R, H]."""
        mean, std = moments(self.total(self.normalised(outputs)))
        return float(mean), float(std)

    def linear(self) -> tuple[Tensor, float]:
        """[H] what each output adds to `total` where the rule is the mean (and every `centre` 0), and what is taken off in all."""
        share = (self.weights / self.scale / self.members).repeat_interleave(self.members) / self.std
        return share, float((share * self.mean).sum())

    def combined_by(self, combine: Combine) -> "Heads":
        """The same heads, made to one score in another way."""
        return Heads(self.criteria, self.members, combine, self.reference)

    def kept(self) -> dict[str, Any]:
        """For config.json; nothing for one output without a name."""
        if self.criteria == ("",) and self.members == 1:
            return {}
        return {"criteria": list(self.criteria), "members": self.members, "combine": self.combine.model_dump(mode="json")}

    @classmethod
    def read(cls, kept: dict[str, Any], reference: Tensor | None) -> "Heads":
        """From what `kept` gave, and `reference`.  Raises ModelError."""
        if not kept.get("criteria"):
            return cls()
        heads = cls(tuple(kept["criteria"]), kept["members"], Combine.model_validate(kept["combine"]), reference)
        if reference is not None and reference.shape[1] != heads.count:
            raise ModelError(f"outputs of {reference.shape[1]} heads to normalise on", f"of the {heads.count} heads that config.json names")
        return heads


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over the first dimension."""
    return x.mean(0), x.std(0, correction=0).clamp(min=1e-6)


def check(combine: Combine, criteria: tuple[str, ...], members: int) -> None:
    """Raises ConfigError where `combine` does not fit the heads."""
    if combine.rule != "mean" and members == 1:
        raise ConfigError(
            f"combine.rule: {combine.rule}, and the reward model is no ensemble",
            "mean, or a reward model that was trained with heads=2 or more",
        )
    if combine.weights and (len(criteria) == 1 or set(combine.weights) != set(criteria)):
        several = f"one for each criterion: {', '.join(criteria)}" if len(criteria) > 1 else "none: the reward model has one criterion"
        raise ConfigError(f"combine.weights: weights for {', '.join(combine.weights)}", several)
    if combine.weights and not any(combine.weights.values()):
        raise ConfigError("combine.weights: all of them are 0", "at least one that is not")
