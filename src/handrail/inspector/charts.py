"""The report's other charts: calibration, shares with intervals, parts before and after, the loop."""

import math
from dataclasses import dataclass

from markupsafe import Markup

from handrail.inspector.svg import Frame, dot, drawing, label, line, tag, text, ticks
from handrail.inspector.words import change_of, decimal, duration, percent, span


@dataclass(frozen=True)
class Share:
    """A share with its interval, if it has one."""

    name: str
    value: float
    low: float | None
    high: float | None
    colour: str


def calibration_chart(bins: list[dict]) -> Markup:
    """Observed share against predicted probability, over the line of perfect calibration; a dot's area is its count."""
    low = min(0.5, *(min(b["observed"], b["predicted"]) for b in bins))
    low = 0.5 if low >= 0.5 else max(0.0, int(low * 10) / 10)
    frame = Frame(44, 22, 328, 226, (low, 1), (low, 1))
    parts = [text(4, 11, "share observed", "unit"), text(328, 257, "probability predicted", "unit", "end")]
    marks = [t for t in ticks(low, 1, 5) if low <= t <= 1]
    for t in marks:
        px, py = frame.at(t, t)
        parts += [
            line(44, py, 328, py, "axis" if t == low else "grid"),
            text(38, py + 3.5, label(t, 0.1), "tick", "end"),
        ]
        parts += [line(px, 226, px, 230, "axis"), text(px, 241, label(t, 0.1), "tick", "middle")]
    parts.append(line(*frame.at(low, low), *frame.at(1, 1), "diagonal"))
    most = max(b["n"] for b in bins)
    for b in bins:
        said = f"predicted {percent(b['predicted'])}, observed {percent(b['observed'])}, {b['n']} pairs"
        parts.append(dot(*frame.at(b["predicted"], b["observed"]), 2.5 + 7 * (b["n"] / most) ** 0.5, "bubble", said))
    return drawing(340, 262, "Calibration: observed share against predicted probability", *parts)


def share_chart(shares: list[Share], title: str, low: float = 0.4, high: float = 1.0) -> Markup:
    """One row a share: its dot, its interval as a bar, and a thin line at one half."""
    least = min([low, *(s.low if s.low is not None else s.value for s in shares)])
    low = math.floor(10 * least + 1e-9) / 10
    marks = [m / 10 for m in range(round(10 * low), round(10 * high) + 1, 1 if high - low < 0.75 else 2)]
    height = 34 * len(shares) + 30
    frame = Frame(12, 0, 328, height - 26, (low, high), (0, 1))
    parts = []
    for t in marks:
        parts.append(text(frame.at(t, 0)[0], height - 10, percent(t, 0), "tick", "middle"))
    half = frame.at(0.5, 0)[0]
    for row, s in enumerate(shares):
        y = 34 * row + 24
        parts += beside_text([frame.at(t, 0)[0] for t in marks], y, "grid") + beside_text([half], y, "zero")
        parts.append(text(8, y - 10, s.name, "name halo"))
        said = percent(s.value)
        if s.low is not None and s.high is not None:
            said += f"  ({span(s.low, s.high)})"
            bar = {"class": f"interval {s.colour}"}
            parts.append(tag("path", {"d": f"M{frame.at(s.low, 0)[0]:.1f} {y}H{frame.at(s.high, 0)[0]:.1f}", **bar}))
        parts.append(text(332, y - 10, said, "value halo", "end"))
        parts.append(dot(frame.at(s.value, 0)[0], y, 4, f"fill {s.colour}", said))
    return drawing(340, height, f"{title}: " + "; ".join(f"{s.name} {percent(s.value)}" for s in shares), *parts)


def beside_text(across: list[float], y: float, kind: str) -> list[Markup]:
    """Upright lines through a row at `y`, below its text and not through it."""
    return [line(x, y - 6, x, y + 8, kind) for x in across]


def dumbbell_chart(rows: list[tuple[str, float, float]], title: str, bounds: tuple[float, float]) -> Markup:
    """One row a part: a hollow dot before, a full dot after, a line between; `bounds` make charts comparable."""
    marks = ticks(*bounds)
    height = 34 * len(rows) + 26
    frame = Frame(12, 0, 328, height - 24, (marks[0], marks[-1]), (0, 1))
    parts = []
    for t in marks:
        parts.append(text(frame.at(t, 0)[0], height - 8, label(t, marks[1] - marks[0]), "tick", "middle"))
    for row, (name, before, after) in enumerate(rows):
        y = 34 * row + 24
        for t in marks:
            parts += beside_text([frame.at(t, 0)[0]], y, "grid" if t else "zero")
        (x1, _), (x2, _) = frame.at(before, 0), frame.at(after, 0)
        way = "up" if after >= before else "down"
        parts += [text(8, y - 10, name, "name halo"), line(x1, y, x2, y, f"bar {way}")]
        said = change_of(before, after)
        parts.append(text(332, y - 10, said, "value halo", "end"))
        parts += [
            dot(x1, y, 4, "hollow", f"before: {decimal(before)}"),
            dot(x2, y, 4.5, f"fill {way}", f"after: {decimal(after)}"),
        ]
    said = "; ".join(f"{name} {change_of(before, after)}" for name, before, after in rows)
    return drawing(340, height, f"{title}: {said}", *parts)


def histogram(bins: list[dict], title: str, across: str) -> Markup:
    """Counts as bars over [low, high) of each bin."""
    low, high = min(b["low"] for b in bins), max(b["high"] for b in bins)
    marks = ticks(0, max(b["n"] for b in bins) or 1)
    frame = Frame(44, 22, 328, 158, (low, high), (0, marks[-1]))
    parts = [text(4, 11, "pairs", "unit"), text(328, 187, across, "unit", "end")]
    for t in marks:
        y = frame.at(low, t)[1]
        parts += [line(44, y, 328, y, "grid" if t else "axis"), text(38, y + 3.5, label(t, marks[1]), "tick", "end")]
    for b in bins:
        (x1, y), (x2, base) = frame.at(b["low"], b["n"]), frame.at(b["high"], 0)
        box = {
            "x": f"{x1 + 0.5:.1f}",
            "y": f"{y:.1f}",
            "width": f"{max(0.5, x2 - x1 - 1):.1f}",
            "height": f"{base - y:.1f}",
        }
        parts.append(tag("rect", {**box, "class": "block"}, tag("title", {}, f"{b['n']} pairs")))
    spread = ticks(low, high)
    for t in (t for t in spread if low <= t <= high):
        parts.append(text(frame.at(t, 0)[0], 173, label(t, spread[1] - spread[0]), "tick", "middle"))
    return drawing(340, 190, title, *parts)


BOXES = {  # the loop's boxes: column, row, and which stage's seconds stand in them
    "demonstrations": (0, 0, "data"),
    "SFT": (1, 0, "sft"),
    "responses": (2, 0, "responses"),
    "rankings": (2, 1, "labels"),
    "reward model": (1, 1, "reward"),
    "policy": (0, 1, "ppo"),
    "evaluation": (0, 2, "evaluation"),
}
METHODS = {"ppo": "PPO", "reinforce": "REINFORCE", "best_of_n": "best of n", "dpo": "DPO", "relaxed": "relaxed"}
WIDE, HIGH = 108, 40


def loop_drawing(seconds: dict[str, float]) -> Markup:
    """The loop with the seconds of each stage: what leads to what, and where the next round begins."""
    corner = {name: (4 + 122 * column, 8 + 72 * row) for name, (column, row, _) in BOXES.items()}
    arrows = ["M112 28h10", "M234 28h10", "M302 48v28", "M248 100h-10", "M126 100h-10", "M58 120v28"]
    head = tag("path", {"d": "M0 0L6 3L0 6z", "class": "fill muted"})
    marker = {"id": "head", "markerWidth": 6, "markerHeight": 6, "refX": 5, "refY": 3, "orient": "auto"}
    parts = [tag("defs", {}, tag("marker", marker, head))]
    parts += [tag("path", {"d": d, "class": "arrow", "marker-end": "url(#head)"}) for d in arrows]
    back = "M112 172H292a10 10 0 0 0 10 -10V124"
    parts.append(tag("path", {"d": back, "class": "arrow again", "marker-end": "url(#head)"}))
    parts.append(text(236, 188, "next round: the new policy's responses", "unit", "middle"))
    method = next((name for name in METHODS if name in seconds), "ppo")
    for name, (x, y) in corner.items():
        took = seconds.get(method if name == "policy" else BOXES[name][2])
        name = METHODS[method] if name == "policy" else name
        box = {"x": x, "y": y, "width": WIDE, "height": HIGH, "rx": 7, "class": "box" if took is None else "box done"}
        parts.append(tag("rect", box))
        parts.append(text(x + WIDE / 2, y + (24 if took is None else 18), name, "name", "middle"))
        if took is not None:
            parts.append(text(x + WIDE / 2, y + 32, duration(took), "tick", "middle"))
    return drawing(360, 196, "The loop: demonstrations, SFT, responses, rankings, reward model, policy, evaluation", *parts)
