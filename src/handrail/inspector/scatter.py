"""Points over two axes, either of which may be linear, logarithmic or a row of choices: what a search has tried."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from handrail.inspector.svg import Frame, Point, dot, drawing, label, line, tag, text, ticks

LOG_MARKS = (1, 2, 5)


@dataclass(frozen=True)
class Axis:
    """A title, the bounds of the positions, and where which text stands."""

    title: str
    low: float
    high: float
    marks: list[tuple[float, str]]
    log: bool = False

    def at(self, value: float) -> float:
        return math.log10(value) if self.log else value


@dataclass(frozen=True)
class Mark:
    """A trial: where it stands, of which kind it is, what the pointer is told, and its interval upwards if it has one."""

    x: float
    y: float
    kind: str  # front, other, beyond
    said: str
    name: str = ""
    interval: tuple[float, float] | None = None
    ringed: bool = False


def linear(title: str, values: Sequence[float], share: bool = False) -> Axis:
    """An axis that holds all the values; a share is written in percent."""
    low, high = min(values), max(values)
    if not high - low > 1e-9 * max(1.0, abs(high)):
        pad = abs(high) * 0.1 or 0.5
        low, high = low - pad, high + pad
    found = ticks(low, high, 5)
    step = found[1] - found[0]
    return Axis(title, found[0], found[-1], [(t, f"{label(100 * t, 100 * step)} %" if share else label(t, step)) for t in found])


def logarithmic(title: str, low: float, high: float) -> Axis:
    """An axis of powers of ten from `low` to `high`, both above 0."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [m * 10.0**p for p in powers for m in LOG_MARKS if low * (1 - 1e-9) <= m * 10.0**p <= high * (1 + 1e-9)]
    if len(found) > 6:
        found = [x for x in found if f"{x:e}".startswith("1")]
    return Axis(title, math.log10(low), math.log10(high), [(math.log10(x), _short(x)) for x in found or [low, high]], log=True)


def choices(title: str, names: Sequence[str]) -> Axis:
    """An axis with a place for each name."""
    return Axis(title, -0.5, len(names) - 0.5, [(i, name if len(name) <= 12 else f"{name[:11]}…") for i, name in enumerate(names)])


def _short(value: float) -> str:
    return f"{value:g}".replace("e-0", "e−").replace("e+0", "e").replace("-", "−")


def scatter(
    marks: Sequence[Mark],
    across: Axis,
    up: Axis,
    said: str,
    *,
    stairs: Sequence[tuple[float, float]] = (),
    limits: Sequence[tuple[str, float]] = (),
    width: float = 340,
    height: float = 210,
) -> Markup:
    """The marks, the front's over the others; `stairs` are corners of a line, `limits` dashed lines at ("x" or "y", value)."""
    frame = Frame(48, 24, width - 12, height - 34, (across.low, across.high), (up.low, up.high))
    parts = [text(4, 11, up.title, "unit"), text(frame.right, height - 3, across.title, "unit", "end")]
    for position, name in up.marks:
        y = frame.at(across.low, position)[1]
        parts += [line(frame.left, y, frame.right, y, "axis" if position == up.low else "grid"), text(42, y + 3.5, name, "tick", "end")]
    for position, name in across.marks:
        x = frame.at(position, up.low)[0]
        parts += [line(x, frame.bottom, x, frame.bottom + 4, "axis"), text(x, frame.bottom + 16, name, "tick", "middle")]
    for which, value in limits:
        if which == "x" and across.low <= across.at(value) <= across.high:
            x = frame.at(across.at(value), up.low)[0]
            parts.append(line(x, frame.top, x, frame.bottom, "diagonal"))
        elif which == "y" and up.low <= up.at(value) <= up.high:
            y = frame.at(across.low, up.at(value))[1]
            parts.append(line(frame.left, y, frame.right, y, "diagonal"))
    if len(stairs) > 1:
        corners = [frame.at(across.at(x), up.at(y)) for x, y in stairs]
        parts.append(tag("path", {"d": "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in corners), "class": "curve plain stairs"}))
    for mark in sorted(marks, key=lambda m: ("beyond", "other", "front").index(m.kind)):
        parts += _drawn(mark, frame, across, up)
    parts += _names(marks, frame, across, up)
    return drawing(width, height, said, *parts)


def _drawn(mark: Mark, frame: Frame, across: Axis, up: Axis) -> list[Markup]:
    x, y = frame.at(across.at(mark.x), up.at(mark.y))
    parts = []
    if mark.interval:
        (_, low), (_, high) = (frame.at(across.at(mark.x), up.at(end)) for end in mark.interval)
        parts.append(tag("path", {"d": f"M{x:.1f} {low:.1f}V{high:.1f}", "class": "interval after thin"}))
    if mark.ringed:
        parts.append(dot(x, y, 7.5, "ring"))
    kind = {"front": "fill after", "other": "fill muted", "beyond": "hollow"}[mark.kind]
    parts.append(dot(x, y, 4.5 if mark.kind == "front" else 3.2, kind, mark.said))
    return parts


def _names(marks: Sequence[Mark], frame: Frame, across: Axis, up: Axis) -> list[Markup]:
    """The names beside their dots; of two that would cover each other the first."""
    parts: list[Markup] = []
    taken: list[Point] = []
    for mark in (m for m in marks if m.name):
        x, y = frame.at(across.at(mark.x), up.at(mark.y))
        if all(abs(x - a) > 8 * len(mark.name) + 4 or abs(y - b) > 13 for a, b in taken):
            parts.append(text(x - 7, y - 7, mark.name, "value halo", "end"))
            taken.append((x, y))
    return parts


def corners(points: Sequence[tuple[float, float]], less_is_better: bool) -> list[tuple[float, float]]:
    """The stairs through a front: what has been reached, and nothing between that has not.

    `less_is_better` says so of the horizontal axis: then what one trial has reached holds to its right, else to its left.
    """
    ordered = sorted(points)
    found = ordered[:1]
    for (x1, y1), (x2, y2) in itertools.pairwise(ordered):
        found += [(x2, y1) if less_is_better else (x1, y2), (x2, y2)]
    return found
