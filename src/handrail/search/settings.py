"""The settings of a search."""

from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from handrail.config import Settings

Direction = Literal["maximise", "minimise"]


class Limit(Settings):
    """Between which values a figure of the summary must lie."""

    least: float | None = Field(None, description="of a figure of the summary, none: no such bound")
    most: float | None = Field(None, description="likewise")

    @model_validator(mode="after")
    def _one_side(self) -> "Limit":
        if self.least is None and self.most is None:
            raise ValueError("give least, most or both")
        return self

    def excess(self, value: float) -> list[float]:
        """How far `value` is beyond each side, at most 0 where it is within."""
        below = [] if self.least is None else [self.least - value]
        return below if self.most is None else [*below, value - self.most]


Verb = Literal["run", "sft", "reward", "ppo", "reinforce", "best_of_n", "dpo", "relaxed", "evaluate"]


class Search(Settings):
    """Settings of `handrail search`.  A trial is the command `handrail VERB CONFIG key=value ...` with values of the space."""

    out: str = Field("runs/search", description="the folder of the search; each trial has one in trials/")
    seed: int = Field(0, description="of the suggestions; that of the trials stands in their own config")
    verb: Literal["run", "sft", "reward", "ppo", "reinforce", "best_of_n", "dpo", "relaxed", "evaluate"] = Field(
        "run", description="what a trial does"
    )
    config: str = Field(description="the file that the verb takes: its own, or a whole round's")
    fixed: dict[str, Any] = Field({}, description="key: value over that file, the same in every trial")
    space: dict[str, Any] = Field(description="key: {low, high, log, step} or key: [choices], with the keys of the verb's key=value")
    objectives: dict[str, Direction] = Field(min_length=1, description="figures of the verb's summary, the first the most important")
    constraints: dict[str, Limit] = Field({}, description="figure: {least, most}; a trial beyond them is never the best")
    trials: int = Field(24, ge=1, description="in all; may be raised later")
    sampler: Literal["tpe", "nsga2", "random"] = Field("tpe", description="a model of good and bad values, a genetic algorithm, chance")
    startup: int = Field(8, ge=1, description="trials drawn by chance before tpe learns from them")
    population: int = Field(8, ge=2, description="trials of a generation of nsga2")
    config_first: bool = Field(True, description="the first trial takes the config's own values, where they lie in the space")
    time_limit: float = Field(0.0, ge=0, description="minutes of work after which no trial begins, 0: none")
    keep_checkpoints: bool = Field(False, description="of finished trials; they take several times the room of the models")

    @field_validator("space", mode="before")
    @classmethod
    def _flat_space(cls, given: Any) -> Any:
        return flat(given, lambda tree: not tree or bool(tree.keys() & {"low", "high"}))

    @field_validator("fixed", mode="before")
    @classmethod
    def _flat_fixed(cls, given: Any) -> Any:
        return flat(given, lambda tree: not tree)

    @model_validator(mode="after")
    def _apart(self) -> "Search":
        if not self.space:
            raise ValueError("space is empty: nothing is to be searched")
        if both := self.space.keys() & self.fixed.keys():
            raise ValueError(f"{', '.join(sorted(both))} stands in space and in fixed")
        if "out" in self.space or "out" in self.fixed:
            raise ValueError("out cannot be searched or fixed: each trial has a folder of its own")
        return self


def flat(tree: Any, leaf: Callable[[dict], bool], prefix: str = "") -> Any:
    """A mapping of mappings as one of dotted keys, down to what `leaf` says is one: both ways of writing mean the same."""
    if not isinstance(tree, dict):
        return tree
    found: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        found |= flat(value, leaf, f"{name}.") if isinstance(value, dict) and not leaf(value) else {name: value}
    return found
