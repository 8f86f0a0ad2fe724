"""Memory and time of each stage, before anything is loaded; what would fit otherwise; what runs have used since."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handrail.config import Settings, override, read_yaml, validate
from handrail.errors import ConfigError, HandrailError
from handrail.models.load import new_config
from handrail.pipeline.records import gather
from handrail.pipeline.settings import METHODS, SCHEMAS, Round, is_round, stage_settings
from handrail.plan.machine import Machine, started
from handrail.plan.rehearsal import Rehearsal, Shape
from handrail.plan.stages import REHEARSALS, Texts
from handrail.plan.texts import of_round, of_stage
from handrail.track.metrics import read_lines

FEW = 4  # layers of the smaller of two rehearsals


@dataclass(frozen=True)
class Foreseen:
    """What one stage takes."""

    stage: str
    parameters: int  # of all its models
    trained: int  # of them
    memory: int  # bytes at the peak, the process and what the allocator keeps included
    steps: int
    seconds: dict[str, float]  # by phase
    used: dict[str, float] = field(default_factory=dict)  # what a run in its folder has used: memory in bytes, seconds

    @property
    def total(self) -> float:
        """Seconds of the whole stage."""
        return sum(self.seconds.values())


@dataclass(frozen=True)
class Otherwise:
    """The same stage with other settings: the assignments that make it so."""

    assignments: tuple[str, ...]
    foreseen: Foreseen


@dataclass(frozen=True)
class Plan:
    """Every stage of a round, or one stage."""

    machine: Machine
    rounds: int
    whole: bool  # a round's file, in which a stage's settings stand below its name
    stages: list[Foreseen]
    settings: dict[str, Settings]  # of each stage
    texts: dict[str, Texts]
    shapes: dict[str, Shape]

    @property
    def hungriest(self) -> Foreseen:
        """Of the stages that learn, the one that needs most memory; of others where none does."""
        return max(self.stages, key=lambda s: (s.trained > 0, s.memory))

    def otherwise(self) -> list[Otherwise]:
        """The hungriest stage with other settings."""
        name = self.hungriest.stage
        found = otherwise(name, self.settings[name], self.texts[name], self.machine, self.shapes)
        above = f"{name}." if self.whole else ""
        return [Otherwise(tuple(f"{above}{a}" for a in other.assignments), other.foreseen) for other in found]

    @property
    def memory(self) -> int:
        """Bytes that the whole needs: stages come one after another."""
        return max(stage.memory for stage in self.stages)

    @property
    def seconds(self) -> float:
        """Seconds of all rounds; demonstrations are learned from once."""
        once = sum(stage.total for stage in self.stages if stage.stage == "sft")
        return once + self.rounds * sum(stage.total for stage in self.stages if stage.stage != "sft")

    @property
    def fits(self) -> bool:
        """Whether the machine has that much."""
        return self.memory <= self.machine.free


def plan(config: Path, assignments: Sequence[str], stage: str, machine: Machine) -> Plan:
    """What the round of a file takes, or the stage; `stage` names it where the file itself leaves that open.

    Raises ConfigError, DataError, ModelError: what the stages themselves would say of settings, data and models.
    """
    found = override(read_yaml(config), list(assignments))
    if is_round(found):
        cfg = validate(Round, found, str(config))
        settings, texts, shapes, rounds = *of_whole(cfg), cfg.rounds
        if stage:
            settings = {name: one for name, one in settings.items() if name == stage}
            if not settings:
                raise ConfigError(f"{config}: this round has no stage '{stage}'", f"one of {', '.join(texts)}")
    else:
        name = stage or told(found, config)
        settings, rounds = {name: validate(schema(name), found, str(config))}, 1
        read, shape = of_stage(settings[name])
        texts, shapes = {name: read}, {"": Shape(shape)} if shape else {}
    machine = started(machine)
    stages = [rehearse(name, one, texts[name], machine, shapes) for name, one in settings.items()]
    return Plan(machine, rounds, is_round(found), stages, settings, texts, shapes)


def schema(name: str) -> type[Settings]:
    """The settings of a stage.  Raises ConfigError for one that is not known."""
    if name not in SCHEMAS:
        raise ConfigError(f"--stage {name}: there is no such stage", f"one of {', '.join(SCHEMAS)}")
    return SCHEMAS[name]


def told(found: dict, config: Path) -> str:
    """The stage that a file is for, as its settings tell.  Raises ConfigError where they are several stages' or none's."""
    fits = [name for name, kind in SCHEMAS.items() if _takes(kind, found)]
    if len(fits) == 1:
        return fits[0]
    which = f"settings that {' and '.join(fits)} take" if fits else "neither a round nor the settings of a stage"
    raise ConfigError(f"{config}: {which}", "a round's file, or a stage's", f"say which: --stage {fits[0] if fits else 'ppo'}")


def _takes(kind: type[Settings], found: dict) -> bool:
    try:
        kind.model_validate(found)
    except ValueError:
        return False
    return True


def of_whole(cfg: Round) -> tuple[dict[str, Settings], dict[str, Texts], dict[str, Shape]]:
    """The stages of a round, their texts, and the models that they are going to leave to each other."""
    stages: dict[str, Any] = stage_settings(cfg, Path(cfg.out))[0]
    if cfg.labels == "given":
        stages.pop("sample", None)
    texts, tokenizer = of_round(cfg, stages, gather(cfg, stages["reward"]))
    first = Shape(new_config(cfg.model.new, tokenizer)) if cfg.model.new else Rehearsal.of_disk(cfg.model)
    shapes = {"": first} | {stage.out: first for name, stage in stages.items() if name in ("sft", *METHODS)}
    shapes[stages["reward"].out] = dataclasses.replace(first, heads=stages["reward"].heads)
    return stages, texts, shapes


def rehearse(name: str, settings: Settings, texts: Texts, machine: Machine, shapes: dict[str, Shape]) -> Foreseen:
    """Go through one step of a stage without numbers.  Raises ModelError for a model that is not there.

    Where all models have many layers, and as many, two rehearsals with a few of them tell the rest: bytes, operations and
    weights grow with the number of layers along a line.
    """

    def whole(few: int) -> tuple[Rehearsal, Foreseen]:
        rehearsal = Rehearsal(machine, shapes, few)
        REHEARSALS[name](rehearsal, settings, texts)
        return rehearsal, Foreseen(
            stage=name,
            parameters=rehearsal.parameters,
            trained=sum(p.numel() for p in rehearsal.weights),
            memory=machine.memory_of(rehearsal.meter.peak, rehearsal.moving),
            steps=rehearsal.steps,
            seconds=dict(rehearsal.meter.seconds),
            used=used(Path(settings.out)),  # type: ignore[attr-defined]
        )

    first, some = whole(FEW)
    if 0 not in first.layers and max(first.layers) <= FEW:  # nothing was left out
        return some
    (layers,) = first.layers if len(first.layers) == 1 else (0,)
    if layers <= 2 * FEW:
        return whole(0)[1]
    more, share = whole(2 * FEW)[1], (layers - FEW) / FEW

    def along(a: float, b: float) -> float:
        return a + (b - a) * share

    return dataclasses.replace(
        some,
        parameters=round(along(some.parameters, more.parameters)),
        trained=round(along(some.trained, more.trained)),
        memory=round(along(some.memory, more.memory)),
        seconds={phase: along(seconds, more.seconds[phase]) for phase, seconds in some.seconds.items()},
    )


def used(folder: Path) -> dict[str, float]:
    """What a run in this folder has used, by its own timing; nothing where there is none."""
    try:
        lines = read_lines(folder / "timing.jsonl")
    except OSError:
        return {}
    peaks = [float(line.get("device_mib", line.get("memory_mib", 0))) for line in lines]
    spent = [v for line in lines for k, v in line.items() if k not in ("step", "time", "memory_mib", "device_mib") and isinstance(v, float)]
    return {"memory": max(peaks) * 2**20, "seconds": sum(spent)} if peaks else {}


def choices(name: str, settings: Settings, machine: Machine) -> list[dict[str, Any]]:
    """Settings that differ in one thing that changes memory or time, as far as the stage has it: {dotted name: value}."""
    model = "policy" if hasattr(settings, "policy") else "model"
    held = getattr(settings, model, None)
    if held is None or name in ("sample", "evaluate"):
        return []
    tokens = getattr(settings, "micro_tokens", 0) or machine.tokens
    found: list[dict[str, Any]] = [{f"{model}.autocast": True}] if not held.autocast else []
    if not held.gradient_checkpointing and not held.compile and name != "relaxed":
        found.append({f"{model}.gradient_checkpointing": True})
    if hasattr(settings, "micro_tokens") and tokens >= 128:
        found.append({"micro_tokens": tokens // 4})
    if not held.lora and getattr(settings, "roles", "separate") == "separate":
        found.append({f"{model}.lora.rank": 16})
    if getattr(settings, "roles", "") == "separate":
        found += [{"roles": "one_trunk"}, {"roles": "one_trunk_shared"}]
    if found and not held.gradient_checkpointing and not held.compile and getattr(settings, "roles", "") == "separate":
        found.append({"roles": "one_trunk_shared", f"{model}.gradient_checkpointing": True, "micro_tokens": tokens // 4})
    return found


def changed(settings: Settings, change: dict[str, Any]) -> Settings | None:
    """The settings with some of them replaced; none where they do not go together."""
    plain = settings.model_dump()
    for path, value in change.items():
        *groups, last = path.split(".")
        place = plain
        for group in groups:
            place[group] = place[group] if isinstance(place[group], dict) else {}
            place = place[group]
        place[last] = value
    try:
        return type(settings).model_validate(plain)
    except (ValueError, HandrailError):
        return None


def otherwise(name: str, settings: Settings, texts: Texts, machine: Machine, shapes: dict[str, Shape]) -> list[Otherwise]:
    """The stage in the other ways that its settings allow."""
    found = []
    for change in choices(name, settings, machine):
        if other := changed(settings, change):
            said = tuple(f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in change.items())
            found.append(Otherwise(said, rehearse(name, other, texts, machine, shapes)))
    return found
