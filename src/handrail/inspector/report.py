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
from handrail.inspector import attributed, compare, frontier, reward_model, search, words
from handrail.inspector.charts import Share, dumbbell_chart, share_chart
from handrail.inspector.curves import Chart, alone, curves
from handrail.inspector.folders import POLICIES, Round, finite, read_round
from handrail.inspector.health import health
from handrail.inspector.origins import origins, trace_command
from handrail.inspector.replies import chosen, differences, gain, visible
from handrail.inspector.slide import shortened, traced
from handrail.inspector.timeline import timeline

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

TEMPLATES = Path(__file__).parent / "templates"
FILTERS = {
    "decimal": words.decimal,
    "percent": words.percent,
    "duration": words.duration,
    "visible": visible,
    "shortened": shortened,
    "signed": attributed.signed,
    "drawn": attributed.drawn,
}
ATTRIBUTED, MISTAKES = 6, 4  # pairs that are shown; the inspector's page has all


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
    environment.filters |= FILTERS
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
    said = health(found)
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
        done=timeline(found),
        read=found.read,
        health=said,
        curves=[one for part in found.parts for one in curves(part, len(found.parts), {h.folder: h.marks for h in said})],
        frontiers=frontiers(found),
        **rewarded(found),
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


def frontiers(found: Round) -> list[dict[str, Any]]:
    """Reward and gold against the distance from the reference, of each policy that has left it."""
    seen = []
    for part in found.parts:
        for run in (one for one in part.runs if one.kind in POLICIES):
            place = run.folder.resolve()
            read = frontier.read_frontier(place, place.parents[min(3, len(place.parents) - 1)], run.metrics)
            if picture := frontier.picture(read, 640, 360):
                title = f"Round {part.number}" if len(found.parts) > 1 else ""
                seen.append({"title": title, "told": frontier.told(read), "picture": picture, "found": read})
    return seen


def rewarded(found: Round) -> dict[str, Any]:
    """What is shown of the last round's reward model: of mistakes and attributions a few."""
    run = found.last.run("reward")
    told = reward_model.told(run.folder if run else None, run.summary if run else {}, found.summary)
    return {"reward": told, "pairs": attributed.few(told.looked_into, ATTRIBUTED), "mistakes": told.mistakes[:MISTAKES]}


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
        before, after = shortened(str(sample.get("before", ""))), shortened(str(sample.get("after", "")))
        left, right, marked = differences(before, after)
        old, new = sample.get("parts_before") or {}, sample.get("parts_after") or {}
        moved = [p for p in old if finite(old[p]) is not None and finite(new.get(p)) is not None and abs(new[p] - old[p]) > 1e-9]
        moved.sort(key=lambda p: -abs(new[p] - old[p]))
        found.append(
            {
                "why": why,
                "gain": gain(sample),
                "prompt": shortened(str(sample.get("prompt", ""))),
                "before": left,
                "after": right,
                "marked": marked,
                "scores": {k: finite(sample.get(k)) for k in ("gold_before", "gold_after", "reward_before", "reward_after")},
                "moved": [(p.replace("_", " "), words.change_of(old[p], new[p])) for p in moved],
                "demonstration": shortened(str(sample.get("demonstration") or "")),
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
