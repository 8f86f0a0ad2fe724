"""What is searched: each setting with the values that it may take, checked against the schema before the first trial."""

import difflib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from handrail.config import Settings, validate
from handrail.errors import ConfigError
from handrail.pipeline.settings import SCHEMAS, Round

GRID = 16  # values of a range of whole numbers that are all checked; of a longer one only its ends are
CORNERS = 512  # combinations that are all checked; of more, each value by itself


class Bounds(Settings):
    """How a range is written."""

    low: float
    high: float
    log: bool = False
    step: float | None = None


@dataclass(frozen=True)
class Range:
    """A number between two bounds, both included."""

    key: str
    low: float
    high: float
    log: bool
    step: float | None
    whole: bool

    def points(self) -> list[Any]:
        """Values whose validity speaks for the others."""
        if self.whole and (self.high - self.low) / (self.step or 1) < GRID:
            return list(range(int(self.low), int(self.high) + 1, int(self.step or 1)))
        return [self.tidy(self.low), self.tidy(self.high)]

    def contains(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        steps = (value - self.low) / (self.step or (1 if self.whole else value or 1))
        return (self.step is None and not self.whole) or abs(steps - round(steps)) < 1e-9

    def tidy(self, value: float) -> float:
        """The value with four digits, so that what is written down is what was tried."""
        if self.whole:
            return int(value)
        return min(self.high, max(self.low, float(f"{value:.12g}" if self.step else f"{value:.4g}")))

    def described(self) -> dict[str, Any]:
        return {"key": self.key, "low": self.tidy(self.low), "high": self.tidy(self.high), "log": self.log, "step": self.step}


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    key: str
    values: tuple[Any, ...]

    def points(self) -> list[Any]:
        return list(self.values)

    def contains(self, value: Any) -> bool:
        return json.dumps(value) in map(json.dumps, self.values)  # JSON tells 1 from true

    def described(self) -> dict[str, Any]:
        return {"key": self.key, "choices": list(self.values)}


Dimension = Range | Choice


def dimensions(space: dict[str, Any], verb: str, source: str) -> list[Dimension]:
    """The space as its dimensions.  Raises ConfigError for an unknown key, or values that the key cannot take."""
    return [dimension(key, given, kinds(key, verb, source), f"{source}: space.{key}") for key, given in space.items()]


def dimension(key: str, given: Any, allowed: set[type], where: str) -> Dimension:
    """One key of the space: a list is a choice, a mapping a range."""
    if isinstance(given, list):
        if len({json.dumps(value) for value in given}) < 2:
            raise ConfigError(f"{where}: found {given}", "at least two different choices", "put a single value into `fixed`")
        return Choice(key, tuple(given))
    if not isinstance(given, dict):
        raise ConfigError(f"{where}: found {given!r}", "{low, high, log, step}, or a list of choices", "put a single value into `fixed`")
    if not allowed & {int, float}:
        raise ConfigError(f"{where}: found a range, but this setting is no number", "a list of choices")
    bounds = validate(Bounds, given, where)
    low, high, step, whole = bounds.low, bounds.high, bounds.step, float not in allowed
    if not low < high:
        raise ConfigError(f"{where}: low is {low:g} and high is {high:g}", "low below high")
    if bounds.log and (low <= 0 or step is not None):
        raise ConfigError(f"{where}: log with low {low:g}{' and a step' if step else ''}", "log: a low above 0, and no step")
    if step is not None and not 0 < step <= high - low:
        raise ConfigError(f"{where}: step is {step:g}", f"above 0 and at most {high - low:g}, which is the whole range")
    if whole and any(x != int(x) for x in (low, high, step or 1)):
        raise ConfigError(f"{where}: found {given}", "whole numbers, which this setting takes")
    if step is not None:  # the last value that the steps reach, as the samplers have it
        high = low + step * int((high - low) / step + 1e-9)
    return Range(key, low, high, bounds.log, step, whole)


def kinds(key: str, verb: str, source: str) -> set[type]:
    """The types of the values that a dotted key takes.  Raises ConfigError with the nearest name where there is no such key."""
    schema: type[Settings] = Round if verb == "run" else SCHEMAS[verb]
    *path, last = key.split(".")
    walked = ""
    for part in path:
        inner = group(schema, part)
        if inner is None:
            raise unknown(schema, part, source, key, walked)
        schema, walked = inner, f"{walked}{part}."
    if last not in schema.model_fields:
        raise unknown(schema, last, source, key, walked)
    if inner := group(schema, last):
        raise ConfigError(f"{source}: space.{key}: this is a group of settings", f"one of them: {', '.join(inner.model_fields)}")
    found = set(leaves(schema.model_fields[last].annotation))
    return found - {int} if bool in found else found


def group(schema: type[Settings], name: str) -> type[Settings] | None:
    """The settings behind a name: a group, or a stage's section of a round."""
    if schema is Round and name in SCHEMAS:
        return SCHEMAS[name]
    if name not in schema.model_fields:
        return None
    return next((x for x in leaves(schema.model_fields[name].annotation) if isinstance(x, type) and issubclass(x, Settings)), None)


def leaves(annotation: Any) -> Iterator[Any]:
    """The types of an annotation without unions; the values of a Literal count as theirs."""
    if get_origin(annotation) is Literal:
        yield from map(type, get_args(annotation))
    elif get_args(annotation) and get_origin(annotation) not in (list, dict, tuple):
        for inner in get_args(annotation):
            yield from leaves(inner)
    else:
        yield annotation


def unknown(schema: type[Settings], name: str, source: str, key: str, walked: str) -> ConfigError:
    """That there is no such setting, with the nearest one that there is."""
    near = difflib.get_close_matches(name, schema.model_fields, n=1)
    hint = f"did you mean '{walked}{near[0]}'?" if near else f"known there: {', '.join(walked + known for known in schema.model_fields)}"
    return ConfigError(f"{source}: space.{key}: there is no such setting", hint)


def probes(found: list[Dimension]) -> Iterator[dict[str, Any]]:
    """Settings that are to be valid before the first trial begins: each value by itself, then together where they are few."""
    first = {d.key: d.points()[0] for d in found}
    for d in found:
        for value in d.points():
            yield first | {d.key: value}
    points = [d.points() for d in found]
    count = 1
    for some in points:
        count *= len(some)
    if count <= CORNERS:
        for values in itertools.product(*points):
            yield dict(zip(first, values, strict=True))
