"""Charts as SVG: no script, no font and no colour of their own, only classes that a style sheet fills.

Points are raw data; nothing is smoothed.  All text passes through `tag`, which escapes it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

Point = tuple[float, float]
NEIGHBOURS = 26  # marks that are nearer to each other than the width of their names
POINTS = 400  # a line of more points keeps the least and greatest of each bucket


@dataclass(frozen=True)
class Series:
    """A line: its label, its class of colour and its raw points."""

    label: str
    colour: str
    points: list[Point]


@dataclass(frozen=True)
class Mark:
    """Something at a step of a run: what stands there, what the pointer is told, and its class of colour."""

    step: float
    name: str
    said: str
    colour: str


def tag(name: str, attributes: Mapping[str, object], *children: str) -> Markup:
    """An element with every attribute and every child escaped, unless it is Markup already."""
    written = "".join(f' {key}="{escape(value)}"' for key, value in attributes.items())
    return Markup("<{0}{1}>{2}</{0}>").format(name, Markup(written), Markup("").join(children))


def text(x: float, y: float, content: str, kind: str = "", anchor: str = "start") -> Markup:
    return tag("text", {"x": _n(x), "y": _n(y), "class": kind, "text-anchor": anchor}, content)


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return tag("line", {"x1": _n(x1), "y1": _n(y1), "x2": _n(x2), "y2": _n(y2), "class": kind})


def dot(x: float, y: float, r: float, kind: str, title: str = "") -> Markup:
    inside = [tag("title", {}, title)] if title else []
    return tag("circle", {"cx": _n(x), "cy": _n(y), "r": _n(r), "class": kind}, *inside)


def drawing(width: float, height: float, label: str, *children: str, data: str = "") -> Markup:
    """The outer element.  `label` is what a screen reader says; `data` is what the pointer reads."""
    attributes: dict[str, object] = {"viewBox": f"0 0 {_n(width)} {_n(height)}", "role": "img", "aria-label": label}
    if data:
        attributes["data-chart"] = data
    return tag("svg", attributes, *children)


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9)) * power
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def label(value: float, step: float) -> str:
    """A tick's text with as many decimals as the step needs."""
    if value and (abs(value) >= 1e6 or (abs(step) < 1e-3 and abs(value) < 1e-2)):
        return f"{value:.3g}".replace("e-0", "e-").replace("-", "−")
    places = max(0, -math.floor(math.log10(abs(step)) + 1e-9))
    if abs(step * 10**places - round(step * 10**places)) > 1e-9:  # 0.25, 2.5
        places += 1
    return f"{value:,.{places}f}".replace(",", " ").replace("-", "−")


@dataclass(frozen=True)
class Frame:
    """The box that a chart draws in, and its two scales."""

    left: float
    top: float
    right: float
    bottom: float
    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> Point:
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return self.left + across * (self.right - self.left), self.bottom - up * (self.bottom - self.top)


def line_chart(
    series: list[Series], unit: str, across: str, title: str, width: float = 340, height: float = 190, marks: Sequence[Mark] = ()
) -> Markup:
    """Lines over steps with both axes named: `unit` above the vertical one, `across` below the horizontal one."""
    real = [p for s in series for p in s.points if math.isfinite(p[1])]
    if not real:
        return drawing(
            width,
            height,
            f"{title}: no finite number",
            text(width / 2, height / 2, "no finite number", "tick", "middle"),
        )
    ys = ticks(*_room(min(y for _, y in real), max(y for _, y in real)))
    low, high = min(x for x, _ in real), max(x for x, _ in real)
    high = high if high > low else low + 1
    frame = Frame(44, 22, width - 12, height - 32, (low, high), (ys[0], ys[-1]))
    parts = [*_horizontals(frame, ys), text(4, 11, unit, "unit"), text(frame.right, height - 3, across, "unit", "end")]
    for x in (t for t in ticks(low, high, 4) if low <= t <= high and t == int(t)):
        px = frame.at(x, ys[0])[0]
        parts += [
            line(px, frame.bottom, px, frame.bottom + 4, "axis"),
            text(px, frame.bottom + 15, label(x, 1), "tick", "middle"),
        ]
    if ys[0] < 0 < ys[-1]:
        parts.append(line(*frame.at(low, 0), *frame.at(high, 0), "zero"))
    for one in series:
        parts += _curve(one, frame)
    if len(series) > 1:
        parts += _legend(series, frame)
    parts += _marks([mark for mark in marks if low <= mark.step <= high], frame)
    return drawing(width, height, _said(title, series, unit), *parts, data=_data(series, frame))


def _room(low: float, high: float) -> Point:
    if high - low > 1e-9 * max(1.0, abs(high)):
        return low, high
    if abs(high) < 1e-9:  # what rounding left of zero
        return 0.0, 1.0
    pad = abs(high) * 0.1
    return low - pad, high + pad


def _horizontals(frame: Frame, ys: list[float]) -> list[Markup]:
    parts = []
    for y in ys:
        py = frame.at(frame.x[0], y)[1]
        parts.append(line(frame.left, py, frame.right, py, "axis" if y == ys[0] else "grid"))
        parts.append(text(frame.left - 6, py + 3.5, label(y, ys[1] - ys[0]), "tick", "end"))
    return parts


def _curve(one: Series, frame: Frame) -> list[Markup]:
    pieces, pen = [], "M"
    for x, y in _thinned(one.points):
        if math.isfinite(y):
            px, py = frame.at(x, y)
            pieces.append(f"{pen}{_n(px)} {_n(py)}")
            pen = "L"
        else:
            pen = "M"  # a gap where there is no number
    last = [p for p in one.points if math.isfinite(p[1])][-1:]
    ends = [dot(*frame.at(*p), 2.6, f"fill {one.colour}") for p in last]
    return [tag("path", {"d": "".join(pieces), "class": f"curve {one.colour}"}), *ends]


def _marks(marks: list[Mark], frame: Frame) -> list[Markup]:
    """An upright line each; at its upper end the names, those of neighbours together."""
    together: list[list[tuple[float, Mark]]] = []
    for x, mark in sorted(((frame.at(mark.step, frame.y[0])[0], mark) for mark in marks), key=lambda one: one[0]):
        if together and x - together[-1][0][0] < NEIGHBOURS:
            together[-1].append((x, mark))
        else:
            together.append([(x, mark)])
    parts = []
    for here in together:
        x, first = here[0]
        side, anchor = (-3, "end") if x > frame.right - NEIGHBOURS else (3, "start")
        name = text(x + side, frame.top + 8, ",".join(mark.name for _, mark in here), "tick halo", anchor)
        lines = [line(at, frame.top, at, frame.bottom, "") for at in dict.fromkeys(at for at, _ in here)]
        said = tag("title", {}, "; ".join(mark.said for _, mark in here))
        parts.append(tag("g", {"class": f"finding {first.colour}"}, said, *lines, name))
    return parts


def _thinned(points: list[Point]) -> list[Point]:
    if len(points) <= POINTS:
        return points
    size = math.ceil(2 * len(points) / POINTS)
    kept: list[Point] = []
    for start in range(0, len(points), size):
        bucket = points[start : start + size]
        real = [p for p in bucket if math.isfinite(p[1])]
        kept += sorted({min(real, key=lambda p: p[1]), max(real, key=lambda p: p[1])}) if real else bucket[:1]
    return kept


def _legend(series: list[Series], frame: Frame) -> list[Markup]:
    parts, x = [], frame.right
    for one in reversed(series):
        parts.append(text(x, 11, one.label, "legend", "end"))
        x -= 6.2 * len(one.label) + 6
        parts.append(line(x - 10, 7.5, x, 7.5, f"curve {one.colour}"))
        x -= 24
    return parts


def _said(title: str, series: list[Series], unit: str) -> str:
    ends = []
    for one in series:
        real = [y for _, y in one.points if math.isfinite(y)]
        if real:
            ends.append(f"{one.label} from {real[0]:.4g} to {real[-1]:.4g} {unit}")
    return f"{title}: {'; '.join(ends)}"


def _data(series: list[Series], frame: Frame) -> str:
    """label|x:value:px:py;... for each series, a line each: what the pointer reads out."""
    rows = []
    for one in series:
        cells = []
        for x, y in _thinned(one.points):
            if math.isfinite(y):
                px, py = frame.at(x, y)
                cells.append(f"{x:g}:{y:.4g}:{_n(px)}:{_n(py)}")
        rows.append(f"{one.label.replace('|', '/')}|{';'.join(cells)}")
    return "\n".join(rows)


def _n(x: float) -> str:
    return f"{x:.1f}".removesuffix(".0")
