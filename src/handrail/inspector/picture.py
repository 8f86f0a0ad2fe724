"""One SVG of a round for a README: reward, gold and KL over the steps, and a reply before and after."""

import textwrap
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

from handrail.inspector.folders import Round, RunFolder, read_round
from handrail.inspector.replies import chosen, visible
from handrail.inspector.svg import Series, line, line_chart, tag, text
from handrail.inspector.words import decimal, headline, percent, span

WIDTH = 920
PANELS = (
    ("reward", "Reward", "reward", "reward"),
    ("gold", "Gold: what people truly prefer", "gold score", "gold"),
    ("kl", "KL to the start", "nats a response", "plain"),
)
COLUMN = 56  # characters to a line of a reply
LINES = 6


def picture(folder: Path) -> str:
    """The SVG as text, for light and dark pages.  Raises InputError where there is nothing to draw."""
    found = read_round(Path(folder))
    run = found.last.policy() or found.last.run("reward") or found.last.run("sft")
    parts, y = [text(28, 44, visible(title(found)), "title")], 72.0
    if run:
        drawn = panels(run)
        parts += [block(chart, 28 + 296 * i, y) for i, chart in enumerate(drawn)]
        y += 190 if drawn else 0
    if found.last.samples:
        said, height = reply(typical(found.last.samples), y + 22)
        parts += said
        y += 22 + height
    height = y + 24
    card = {"x": 0.5, "y": 0.5, "width": WIDTH - 1, "height": f"{height - 1:.0f}", "rx": 12, "class": "card"}
    outer = {
        "xmlns": "http://www.w3.org/2000/svg",
        "viewBox": f"0 0 {WIDTH} {height:.0f}",
        "role": "img",
        "aria-label": visible(title(found)),
    }
    return str(tag("svg", outer, tag("style", {}, style()), tag("rect", card), *parts)) + "\n"


def style() -> Markup:
    """The style sheets of the drawings."""
    folder = files("handrail.inspector") / "templates"
    return Markup((folder / "charts.css").read_text("utf-8") + (folder / "picture.css").read_text("utf-8"))


def title(found: Round) -> str:
    """The win rate in a line, or the round's title."""
    if headline(found.summary) is None:
        return found.title
    win = found.summary["win_rate"]
    if not isinstance(win, dict):
        return f"Preferred on {percent(win)} of held-out prompts"
    said = f"Preferred on {percent(win['value'])} of held-out prompts"
    return f"{said}, interval {span(win['low'], win['high'])}" if "low" in win and "high" in win else said


def panels(run: RunFolder) -> list[Markup]:
    """The curves that the run has, at most three."""
    found = []
    wanted = (
        PANELS if run.kind not in ("sft", "reward") else (("loss", "Loss", "nats", "plain"), ("accuracy", "Accuracy", "share", "reward"))
    )
    for key, name, unit, colour in wanted:
        if points := run.series(key):
            chart = line_chart([Series(key, colour, points)], unit, "step", name, 272, 150)
            found.append(tag("g", {}, text(4, 8, name, "name"), nested(chart, 0, 18, 272, 150)))
    return found


def block(child: Markup, x: float, y: float) -> Markup:
    return tag("g", {"transform": f"translate({x} {y})"}, child)


def nested(chart: Markup, x: float, y: float, width: float, height: float) -> Markup:
    """The chart at a place of its own inside another drawing."""
    return Markup(str(chart).replace("<svg ", f'<svg x="{x}" y="{y}" width="{width}" height="{height}" ', 1))


def typical(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """The sample in the middle by what it gained."""
    ranked = chosen(samples)
    middle = [s for why, s in ranked if why == "around the median"]
    return middle[len(middle) // 2] if middle else ranked[0][1]


def reply(sample: dict[str, Any], top: float) -> tuple[list[Markup], float]:
    """A prompt and the two replies to it, set in lines, and how high they stand."""
    prompt = wrapped(str(sample.get("prompt", "")), 2 * COLUMN + 10, 4)
    parts = [line(28, top, WIDTH - 28, top, "grid"), text(28, top + 28, "A held-out prompt", "tick")]
    parts += [text(28, top + 48 + 19 * i, row, "prompt") for i, row in enumerate(prompt)]
    y = top + 48 + 19 * len(prompt) + 16
    longest = 0
    for x, name, colour in ((28, "before", "axis"), (474, "after", "bar up")):
        rows = wrapped(str(sample.get(name, "")), COLUMN, LINES)
        score = sample.get(f"gold_{name}")
        parts.append(text(x + 14, y + 4, f"{name}{f' · gold {decimal(score)}' if isinstance(score, int | float) else ''}", "tick"))
        parts += [text(x + 14, y + 26 + 20 * i, row, "reply") for i, row in enumerate(rows)]
        parts.append(line(x, y - 8, x, y + 12 + 20 * len(rows), colour))
        longest = max(longest, len(rows))
    return parts, y + 14 + 20 * longest - top


def wrapped(words: str, width: int, lines: int) -> list[str]:
    """The text in at most `lines` lines, with an ellipsis where it was cut."""
    rows = [row for part in visible(words).splitlines() for row in textwrap.wrap(part, width)]
    return rows if len(rows) <= lines else [*rows[: lines - 1], rows[lines - 1][: width - 2].rstrip() + " …"]
