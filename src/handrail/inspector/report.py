"""One self-contained HTML file over a round's folder or a run folder: it opens from disk, offline, and prints."""

import base64
import hashlib
import os
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from handrail.errors import StorageError
from handrail.inspector import compare, search, words
from handrail.inspector.charts import (
    Share,
    calibration_chart,
    dumbbell_chart,
    histogram,
    loop_drawing,
    share_chart,
)
from handrail.inspector.curves import Chart, alone, curves
from handrail.inspector.folders import Round, finite, read_round
from handrail.inspector.health import health
from handrail.inspector.origins import origins, trace_command
from handrail.inspector.replies import chosen, differences, gain, traced, visible

QUANTITIES = {  # heading and meaning of each column of the token table
    "logp": ("log p", "log-probability of the token under the policy at this step, in nats; 0 is certain"),
    "logp_old": ("log p", "log-probability of the token under the policy that sampled it, in nats; 0 is certain"),
    "logp_ref": ("log p ref", "the same under the reference, the model that the policy began as"),
    "kl": ("KL", "log p − log p ref: above 0 where the policy has grown fonder of this token than the reference is"),
    "reward": ("reward", "what the token earns: −β · KL each, and the whole response’s score on its last token"),
    "value": ("value", "what the critic expected to be earned from here on, before the token was chosen"),
    "return": ("return", "what was earned from here on, as GAE estimates it: what the critic should have said"),
    "advantage": ("advantage", "how much better than expected the token turned out; above 0 it is made more likely"),
    "entropy": ("entropy", "how undecided the policy was at this token, in nats"),
}


def write_report(folder: Path, out: Path) -> Path:
    """Write the report over a round's folder, a single run folder, a search or a comparison, to the file `out`; returns `out`.

    Raises InputError where there is nothing to report on, DataError on a damaged file, StorageError where `out` cannot
    be written.  An existing file is replaced in one step.
    """
    folder = Path(folder)
    if search.is_search(folder):
        page = render_search(folder)
    elif compare.is_comparison(folder):
        page = templates().get_template("compare.html.j2").render(style=style(templates()), **compare.page(folder))
    else:
        page = render(read_round(folder))
    out = Path(out)
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(out)
    except OSError as error:
        if temporary.exists():
            temporary.unlink()
        raise StorageError(f"{out}: cannot be written: {error}", "a path in a folder that can be written") from error
    return out


@cache
def templates() -> Environment:
    """The templates of the pages, with everything escaped; once a process, since compiling one takes a tenth of a second."""
    environment = Environment(
        loader=PackageLoader("handrail.inspector"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "decimal": words.decimal,
        "percent": words.percent,
        "duration": words.duration,
        "visible": visible,
    }
    return environment


def style(environment: Environment) -> Markup:
    """The style sheet of every page."""
    return Markup("\n").join(Markup(environment.get_template(name).render()) for name in ("charts.css", "report.css"))


def render_search(folder: Path) -> str:
    """The page over a search as text."""
    environment = templates()
    return environment.get_template("search.html.j2").render(style=style(environment), figure=search.figure, **search.page(folder))


def render(found: Round) -> str:
    """The page as text."""
    environment = templates()
    script = environment.get_template("report.js").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html.j2").render(
        style=style(environment),
        script=Markup(script),
        script_hash=digest,
        round=found,
        headline=words.headline(found.summary),
        alone=alone(found),
        judge=str(found.summary.get("judged_by") or found.summary.get("judge") or ""),
        judges=words.judges(found.summary),
        caveats=words.caveats(found.summary),
        tiles=tiles(found.summary),
        win=win_chart(found.summary),
        done=done(found),
        read=found.read,
        health=health(found),
        curves=[(title, charts, more) for part in found.parts for title, charts, more in curves(part, len(found.parts))],
        reward_model=reward_model(found),
        gains=gains(found.summary),
        overlap=overlap(found.summary),
        replies=replies(found.last.samples),
        sampled=len(found.last.samples),
        traces=[t for run in found.last.runs if run.kind not in ("sft", "reward") for t in traced(run)],
        quantities=QUANTITIES,
        runs=[(part.number, run) for part in found.parts for run in part.runs],
        origins=labels_of(found),
        environment=environment_of(found),
    )


def tiles(summary: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(name, figure, note) of the figures at the head of the page."""
    found = []
    before, after = finite(summary.get("gold_before")), finite(summary.get("gold_after"))
    if before is not None and after is not None:
        found.append(("Gold score", words.change_of(before, after), "mean, before and after"))
    before, after = words.mean(summary.get("reward_before")), words.mean(summary.get("reward_after"))
    if before is not None and after is not None:
        found.append(("Reward", words.change_of(before, after), "mean, before and after"))
    if (kl := finite(summary.get("kl"))) is not None:
        found.append(("KL", words.decimal(kl, 2), "nats a response, to the model before"))
    if (ratio := finite(summary.get("length_ratio"))) is not None:
        found.append(("Length", f"{words.decimal(ratio, 2)} ×", "of the model’s before"))
    return found


def win_chart(summary: dict[str, Any]) -> Markup | None:
    """The win rate and the control with their intervals, against one half."""
    shares = []
    for key, name, colour in (
        ("win_rate", "trained against start", "after"),
        ("control", "start against itself", "muted"),
    ):
        if (share := words.interval(summary.get(key))) and share["value"] is not None:
            shares.append(Share(name, share["value"], share["low"], share["high"], colour))
    for judge in words.listed(summary):
        share = words.interval(judge.get("win_rate"))
        if judge["name"] != summary.get("judge") and share and share["value"] is not None:
            shares.append(Share(f"by {visible(judge['name'])}", share["value"], share["low"], share["high"], "after"))
    rounds = summary.get("rounds")
    if isinstance(rounds, list) and len(rounds) > 1:
        for number, value in enumerate(rounds[:-1], 1):
            if (share := words.interval(value)) and share["value"] is not None:
                shares.append(Share(f"after round {number}, against start", share["value"], share["low"], share["high"], "muted"))
    return share_chart(shares, "Share of prompts won", low=0.3) if shares else None


def done(found: Round) -> dict[str, Any] | None:
    """The stages with their seconds, and the drawing of the loop."""
    stages = [s for s in found.stages if isinstance(s, dict) and s.get("name")]
    if not stages:
        stages = [{"name": k, "seconds": v} for k, v in (found.summary.get("seconds") or {}).items()]
    if not stages:
        return None
    seconds: dict[str, float] = {}
    for stage in stages:
        key = str(stage["name"]).rsplit("/", 1)[-1]
        seconds[key] = seconds.get(key, 0.0) + (finite(stage.get("seconds")) or 0.0)
    longest = max((finite(s.get("seconds")) or 0.0 for s in stages), default=0.0) or 1.0
    rows = [
        {
            "name": s["name"],
            "folder": s.get("folder") or "",
            "seconds": finite(s.get("seconds")),
            "skipped": bool(s.get("skipped") and s.get("again", True)),
        }
        for s in stages
    ]
    total = sum(row["seconds"] or 0.0 for row in rows)
    return {"rows": rows, "longest": longest, "total": total, "loop": loop_drawing(seconds)}


def reward_model(found: Round) -> dict[str, Any] | None:
    """Accuracy beside what it must be compared with, calibration, margins; of the last round."""
    run = found.last.run("reward")
    own = run.summary if run else {}
    given = found.summary.get("reward_accuracy")
    given = given if isinstance(given, dict) else {}
    reached = words.interval(own.get("accuracy")) or words.interval(found.summary.get("reward_accuracy"))
    shares, figures = [], {}
    for name, value, colour in (
        ("reward model", reached, "after"),
        *((f"by {name}", found.get("accuracy"), "after") for name, found in (own.get("criteria") or {}).items()),
        ("length alone", own.get("length_baseline", given.get("length_baseline")), "muted"),
        ("two labellers agree", own.get("agreement", given.get("agreement")), "muted"),
        ("ceiling: the labellers’ noise", own.get("ceiling", given.get("ceiling")), "muted"),
    ):
        if (share := words.interval(value)) and share["value"] is not None:
            figures[name] = share["value"]
            shares.append(Share(name, share["value"], share["low"], share["high"], colour))
    bins = [b for b in own.get("calibration") or [] if isinstance(b, dict) and b.get("n")]
    if not shares and not bins:
        return None
    ceiling = figures.get("ceiling: the labellers’ noise")
    part = (figures["reward model"] - 0.5) / (ceiling - 0.5) if ceiling and ceiling > 0.5 and "reward model" in figures else None
    margins = [b for b in own.get("margins") or [] if isinstance(b, dict)]
    return {
        "sentence": accuracy_sentence(reached, figures.get("length alone")),
        "share": part,
        "people": words.agreement(found.summary.get("agreement")),
        "disagreement": words.disagreement(own.get("disagreement")),
        "accuracy": share_chart(shares, "Accuracy on held-out pairs") if shares else None,
        "calibration": calibration_chart(bins) if bins else None,
        "error": sum(b["n"] * abs(b["observed"] - b["predicted"]) for b in bins) / sum(b["n"] for b in bins) if bins else None,
        "margins": histogram(margins, "Margins", "reward, chosen − rejected") if margins else None,
    }


def accuracy_sentence(reached: dict[str, float | None] | None, length: float | None) -> str:
    """What the accuracy is, and whether it is more than length."""
    if reached is None or reached["value"] is None:
        return ""
    pairs = f"{words.decimal(reached['n'], 0)} pairs" if reached["n"] else "pairs"
    said = f"On held-out prompts the reward model puts {words.percent(reached['value'])} of {pairs} in the labellers’ order"
    if reached["low"] is not None and reached["high"] is not None:
        said += f" (95\u202f% interval {words.span(reached['low'], reached['high'])})"
    if length is None:
        return said + "."
    low = reached["low"] if reached["low"] is not None else reached["value"]
    if low > length:
        return f"{said}; going by length alone reaches {words.percent(length)}, which lies below that interval."
    return f"{said}; going by length alone reaches {words.percent(length)}, so it is not shown to know more than length."


def gains(summary: dict[str, Any]) -> dict[str, Any] | None:
    """The gold's parts before and after, content apart from manner."""
    before, after = summary.get("parts_before") or {}, summary.get("parts_after") or {}
    both = [p for p in before if finite(before[p]) is not None and finite(after.get(p)) is not None]
    if not both:
        return None
    grouped = {
        "Content": [p for p in both if p in (summary.get("content_parts") or [])],
        "Manner": [p for p in both if p in (summary.get("manner_parts") or [])],
    }
    other = [p for p in both if not any(p in names for names in grouped.values())]
    grouped["Parts" if len(other) == len(both) else "Other"] = other
    values = [0.0, *(m[p] for m in (before, after) for p in both)]
    low, high = min(values), max(values)
    bounds = (low, high) if high > low else (low, low + 1)
    charts = []
    for name, names in grouped.items():
        if names:
            rows = [(p.replace("_", " "), float(before[p]), float(after[p])) for p in names]
            rise = sum(b - a for _, a, b in rows)
            note = f"together {'+' if rise >= 0 else ''}{words.decimal(rise)}"
            charts.append(Chart(name, dumbbell_chart(rows, name, bounds), note))
    return {"charts": charts}


def overlap(summary: dict[str, Any]) -> dict[str, Any] | None:
    """Overlap with the demonstrations beside the preference."""
    names = {
        "gold": "gold score",
        "reward": "reward",
        "rouge": "ROUGE-L",
        "bleu": "BLEU",
        "distinct": "different word pairs",
        "repetition": "word triples said before",
        "length": "tokens a reply",
    }
    rows = []
    for key, name in names.items():
        before, after = words.mean(summary.get(f"{key}_before")), words.mean(summary.get(f"{key}_after"))
        if before is not None and after is not None:
            places = words.places_of(before, after)
            rows.append((name, *(words.decimal(x, places) for x in (before, after)), after - before, places))
    if not any(name in ("ROUGE-L", "BLEU", "different word pairs") for name, *_ in rows):
        return None
    return {"rows": rows, "sentence": words.overlap_sentence(summary)}


def replies(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The replies that are shown, with their differences marked."""
    found = []
    for why, sample in chosen(samples):
        before, after = visible(str(sample.get("before", ""))), visible(str(sample.get("after", "")))
        left, right, marked = differences(before, after)
        old, new = sample.get("parts_before") or {}, sample.get("parts_after") or {}
        moved = [p for p in old if finite(old[p]) is not None and finite(new.get(p)) is not None and abs(new[p] - old[p]) > 1e-9]
        moved.sort(key=lambda p: -abs(new[p] - old[p]))
        found.append(
            {
                "why": why,
                "gain": gain(sample),
                "prompt": visible(str(sample.get("prompt", ""))),
                "before": left,
                "after": right,
                "marked": marked,
                "scores": {k: finite(sample.get(k)) for k in ("gold_before", "gold_after", "reward_before", "reward_after")},
                "moved": [(p.replace("_", " "), words.change_of(old[p], new[p])) for p in moved],
                "demonstration": visible(str(sample.get("demonstration") or "")),
            }
        )
    return found


def labels_of(found: Round) -> dict[str, Any] | None:
    """The files of people's labels that the runs learned from, with the snapshots that they were written from."""
    if not any((run.folder / "inputs.json").is_file() for part in found.parts for run in part.runs):
        return None
    labelled = origins(found.folder)
    files: dict[Path, dict[str, Any]] = {}
    for one in labelled:
        row = files.setdefault(
            one.file.resolve(), {"file": str(one.file), "note": one.note, "labels": len(one.labels), "runs": [], "other": []}
        )
        name = one.run.name
        if name not in row["runs"]:
            row["runs"].append(name)
        if one.same is False:
            row["other"].append(name)
    return {"files": list(files.values()), "command": trace_command(found.folder, labelled)} if files else None


def environment_of(found: Round) -> list[tuple[str, str]]:
    """What the first run that tells of it ran on, as (name, value)."""
    first = next((r.environment for part in found.parts for r in part.runs if r.environment), {})
    rows = []
    for key, value in first.items():
        if isinstance(value, dict):
            rows += [(f"{key}: {name}", str(x)) for name, x in value.items() if not isinstance(x, dict | list)]
        elif isinstance(value, list):
            rows.append((key, ", ".join(map(str, value))))
        else:
            rows.append((key, str(value)))
    return [(visible(name), visible(value)) for name, value in rows]
