"""The settings of a comparison, and the rounds that follow from them."""

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from handrail.config import Settings, read_yaml, validate
from handrail.pipeline.settings import Round, merge, stage_settings
from handrail.tasks import TASKS

SLUG = re.compile(r"[^a-z0-9]+")


class Comparison(Settings):
    """Settings of `handrail compare`."""

    out: str = Field("runs/compare", description="the folder of all rounds, of compare.json and report.html")
    title: str = ""
    round: str = Field(description="what all methods have in common: the file of a round, as `handrail run` takes it, or a built-in task")
    common: dict[str, Any] = Field({}, description="dotted keys of the round and their values, for all methods")
    methods: dict[str, dict[str, Any]] = Field(description="a name for each, and the dotted keys in which it differs, `method` among them")
    seeds: list[int] = Field([0, 1, 2], min_length=1, description="of the rounds; every method is done with each")
    best_of: list[int] = Field([2, 4, 8, 16], description="the yardstick: the best of so many responses of the starting model; []: none")
    prompts: int = Field(256, ge=2, description="for the yardstick")
    workers: int = Field(1, ge=1, description="rounds at once, each a process with its share of the cores")

    @model_validator(mode="after")
    def _methods(self) -> "Comparison":
        if not self.methods:
            raise ValueError("methods is empty: give at least one")
        slugs = [slug(name) for name in self.methods]
        if twice := sorted({s for s in slugs if slugs.count(s) > 1}):
            raise ValueError(f"two methods would share the folder {twice[0]!r}: give them other names")
        if any(n < 2 for n in self.best_of):
            raise ValueError("best_of: the best of one response is the response: give numbers from 2 on")
        return self


def slug(name: str) -> str:
    """A folder's name for a method's."""
    return SLUG.sub("-", name.lower()).strip("-") or "method"


def place(cfg: Comparison, seed: int, name: str = "") -> Path:
    """The folder of a seed, or of a method's round in it."""
    return Path(cfg.out) / f"seed-{seed}" / slug(name) if name else Path(cfg.out) / f"seed-{seed}"


def round_of(cfg: Comparison, seed: int, name: str) -> Round:
    """The round of a method.  Raises ConfigError."""
    found = read_yaml(file_of(cfg.round))
    for keys in (cfg.common, cfg.methods.get(name, {}), {"seed": seed, "out": str(place(cfg, seed, name))}):
        for key, value in keys.items():
            found = merge(found, nested(key, value))
    made: Round = validate(Round, found, f"methods.{name}" if name in cfg.methods else cfg.round)
    stage_settings(made, Path(made.out))  # sections are checked there
    return made


def file_of(name: str) -> Path:
    """The file of a round; for a built-in task that of its demonstration."""
    return Path(str(files("handrail.cli.demo") / f"{name}.yaml")) if name in TASKS else Path(name)


def nested(key: str, value: Any) -> dict[str, Any]:
    """a.b: c as {a: {b: c}}."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def sampled(cfg: Round) -> int:
    """How many responses the method samples to learn from, in all rounds; those of a round's own labels are not counted."""
    settings: Any = stage_settings(cfg, Path(cfg.out))[0][cfg.method]
    if cfg.method == "best_of_n":
        count = settings.steps * settings.batch_size * settings.n
    elif cfg.method == "dpo":
        count = settings.online.steps * settings.batch_size * settings.online.responses if settings.online else 0
    else:
        count = 0 if getattr(settings, "ratings", None) else settings.steps * settings.batch_size
    return cfg.rounds * count
