"""Methods against each other, from compare.json: gold against KL, and a line for each."""

import json
from pathlib import Path
from typing import Any

from markupsafe import Markup

from handrail.errors import DataError
from handrail.inspector.scatter import Mark, linear, scatter

FILE = "compare.json"
COLUMNS = {  # figure: heading, how it is written
    "score": ("score", "{:+.2f}"),
    "gain": ("gain over the start", "{:+.2f}"),
    "kl": ("KL", "{:.1f}"),
    "win_rate": ("win rate", "{:.3f}"),
    "length_ratio": ("length", "{:.2f}"),
    "seconds": ("seconds", "{:.0f}"),
    "memory_mib": ("peak MiB", "{:.0f}"),
}


def is_comparison(folder: Path) -> bool:
    return (folder / FILE).is_file()


def page(folder: Path) -> dict[str, Any]:
    """What the template of a comparison's report is filled with.  Raises DataError where compare.json is damaged."""
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
        config = folder / "config.yaml"
        return {
            "title": found["title"],
            "found": found,
            "heading": heading(found),
            "picture": picture(found),
            "columns": COLUMNS,
            "said": said,
            "failures": [(row["name"], failed) for row in found["rows"] for failed in row["failed"]],
            "config": config.read_text(encoding="utf-8", errors="replace") if config.is_file() else "",
        }
    except (ValueError, KeyError, TypeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise DataError(
            f"{folder / FILE}: not what a comparison writes: {what}", "", "the comparison's own command writes it anew from its rounds"
        ) from error


def heading(found: dict[str, Any]) -> tuple[str, str]:
    """What it is, and what came out of it."""
    done = [row for row in found["rows"] if "gain" in row["figures"]]
    count = len(found["seeds"])
    title = f"{len(found['rows'])} methods, {count} seed{'s' * (count > 1)}"
    if not done:
        return title, "No round is done yet."
    best = max(done, key=lambda row: row["figures"]["gain"]["value"])
    several = [row["figures"]["gain"]["low"] for row in done if row["figures"]["gain"]["low"] is not None]
    score = "the gold score, which no training saw," if found["score"] == "gold" else "the reward"
    lead = f"Measured by {score} {best['name']} gains most: {said(best, 'gain')}."
    if several:
        lead += f" Over the seeds the interval of the gain lies above zero for {sum(low > 0 for low in several)} of {len(several)}."
    return title, lead


def said(row: dict[str, Any], name: str) -> str:
    """A figure, with half the width of its interval where there are several seeds."""
    found = row["figures"].get(name)
    if not found:
        return "–"
    form = COLUMNS[name][1]
    value = form.format(found["value"])
    if found["low"] is None or name in ("seconds", "memory_mib"):
        return value
    return f"{value} ± {form.replace('+', '').format((found['high'] - found['low']) / 2)}"


def picture(found: dict[str, Any]) -> Markup | None:
    """Score against KL: a dot a method, the bar its interval over the seeds; the line is the best of n."""
    rows = [row for row in found["rows"] if "score" in row["figures"] and "kl" in row["figures"]]
    if not rows:
        return None
    line = [(y["kl"], y["score"]["value"]) for y in found["yardstick"]]
    values = [row["figures"]["score"] for row in rows]
    heights = [x for v in values for x in (v["value"], v["low"], v["high"]) if x is not None] + [y for _, y in line]
    across = linear("KL to the start, nats a response", [0.0, *(row["figures"]["kl"]["value"] for row in rows), *(x for x, _ in line)])
    up = linear(f"{found['score']} score", heights)
    marks = []
    for number, row in enumerate(rows, 1):
        of = row["figures"]["score"]
        interval = (of["low"], of["high"]) if of["low"] is not None else None
        told = f"{row['name']}: {said(row, 'score')} at {said(row, 'kl')} nats"
        marks.append(Mark(row["figures"]["kl"]["value"], of["value"], "front", told, str(number), interval))
    marks += [Mark(x, y, "other", f"best of {found['yardstick'][i]['n']}") for i, (x, y) in enumerate(line)]
    return scatter(marks, across, up, "Score against KL for each method", stairs=line, width=680, height=340)
