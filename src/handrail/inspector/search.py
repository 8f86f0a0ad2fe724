"""What a search has found, from its search.json: the trade-off, which settings matter, every trial."""

import json
from pathlib import Path
from typing import Any

from markupsafe import Markup

from handrail.errors import DataError
from handrail.inspector import words
from handrail.inspector.curves import Chart
from handrail.inspector.scatter import Axis, Mark, choices, corners, linear, logarithmic, scatter

FILE = "search.json"
SHARES = ("win_rate", "reward_win_rate", "control", "accuracy", "reward_accuracy", "ended_after", "ended_before", "ended")
UNITS = {"kl": "nats a response", "length_after": "tokens", "length_before": "tokens", "length": "tokens", "eval_loss": "nats a token"}
NAMED = 12  # points of the front beyond which their numbers would cover each other


def is_search(folder: Path) -> bool:
    return (folder / FILE).is_file()


def page(folder: Path) -> dict[str, Any]:
    """What the template of a search's report is filled with.  Raises DataError where search.json is damaged."""
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
        names = list(found["objectives"])
        good = [t for t in found["trials"] if t["state"] == "complete"]
        config = folder / "config.yaml"
        return {
            "title": folder.resolve().name,
            "found": found,
            "heading": heading(found),
            "caveats": caveats(found),
            "picture": trade_off(found, good, names[0], names[1]) if len(names) > 1 and good else None,
            "ahead": [t for number in found["front"] for t in found["trials"] if t["number"] == number],
            "columns": [(name, titled(name)) for name in [*names, *(n for n in found["constraints"] if n not in names)]],
            "histories": [history(found, good, name) for name in names] if good else [],
            "slices": [(titled(name), [slice_of(d, good, name) for d in found["space"]]) for name in names] if good else [],
            "importance": importance(found),
            "config": config.read_text(encoding="utf-8", errors="replace") if config.is_file() else "",
        }
    except (ValueError, KeyError, TypeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise DataError(
            f"{folder / FILE}: not what a search writes: {what}", "", "the search's own command writes it anew from its trials"
        ) from error


def titled(name: str) -> str:
    """win_rate as "Win rate"."""
    said = {"kl": "KL"}.get(name, name.replace("_", " ").replace(".", ": "))
    return said[0].upper() + said[1:]


def figure(name: str, value: float | None) -> str:
    """A figure as a person writes it."""
    if value is None:
        return "–"
    return words.percent(value) if name in SHARES else words.decimal(value)


def axis_title(found: dict[str, Any], name: str, arrows: tuple[str, str] = ("↑", "↓")) -> str:
    """The figure with its unit and which way is better; `arrows` point to more and to less."""
    unit = f", {UNITS[name]}" if name in UNITS else ""
    more, less = arrows
    way = {"maximise": f"  {more} more is better", "minimise": f"  {less} less is better"}.get(found["objectives"].get(name, ""), "")
    return f"{titled(name)}{unit}{way}"


def heading(found: dict[str, Any]) -> tuple[str, str]:
    """A headline and a sentence."""
    trials = {t["number"]: t for t in found["trials"]}
    ended = sum(t["state"] != "running" for t in trials.values())
    failed = sum(t["state"] == "failed" for t in trials.values())
    (first, *rest), best = list(found["objectives"]), trials.get(found["best"])
    counted = f"{ended} of {found['wanted']} trials have ended" + (f", {failed} of them failed" if failed else "")
    if best is None:
        return "No trial has come to an end within the constraints.", f"{counted}."
    said = f"{titled(first)} {figure(first, best['values'][first])} in trial {best['number']}"
    if rest:
        others = [f"{titled(name)} {figure(name, best['values'][name])}" for name in rest]
        said += f", with {', '.join(others)}"
        several = len(found["front"])
        head = f"{several} {'trials are' if several > 1 else 'trial is'} beaten by none."
        return head, f"{counted}. The first objective goes furthest with: {said}."
    own = next((t for t in trials.values() if t.get("origin") == "config" and t["state"] == "complete"), None)
    beside = f" The config’s own values gave {figure(first, own['values'][first])}." if own else ""
    return f"{said}.", f"{counted}.{beside}"


def caveats(found: dict[str, Any]) -> list[str]:
    """What the figures do not say."""
    trials = {t["number"]: t for t in found["trials"]}
    good = [t for t in trials.values() if t["feasible"]]
    if len(good) < 2:
        return []
    said = [
        f"The best of {len(good)} trials was chosen by the prompts that it is judged on, so it looks better than it is. "
        "One more run with another seed says by how much."
    ]
    name = next(iter(found["objectives"]))
    interval = trials[found["best"]]["intervals"].get(name)
    if interval:
        value = trials[found["best"]]["values"][name]
        near = sum(interval[0] <= t["values"][name] <= interval[1] for t in good if t["number"] != found["best"])
        if near:
            said.append(
                f"{near} other {'trials lie' if near > 1 else 'trial lies'} within the 95{words.NARROW}% interval of the best "
                f"{titled(name).lower()} ({figure(name, value)}): their order is not settled."
            )
    return said


def kind_of(trial: dict[str, Any]) -> str:
    return "front" if trial["front"] else "other" if trial["feasible"] else "beyond"


def told(found: dict[str, Any], trial: dict[str, Any]) -> str:
    """What the pointer is told of a trial."""
    figures = ", ".join(f"{titled(name)} {figure(name, value)}" for name, value in trial["values"].items())
    return f"trial {trial['number']}: {figures}; {', '.join(f'{k}={v}' for k, v in trial['settings'].items())}"


def trade_off(found: dict[str, Any], good: list[dict[str, Any]], up: str, across: str) -> Markup:
    """The first objective over the second: every trial, the stairs of the front, the limits."""
    ahead = [t for t in good if t["front"]]
    drawn = {name: limit for name, limit in found["constraints"].items() if name in (across, up)}
    limits = [("x" if name == across else "y", v) for name, limit in drawn.items() for v in limit.values() if v is not None]
    marks = []
    for t in good:
        interval = t["intervals"].get(up) if t["front"] else None
        name = str(t["number"]) if t["front"] and len(ahead) <= NAMED else ""
        marks.append(
            Mark(
                x=t["values"][across],
                y=t["values"][up],
                kind=kind_of(t),
                said=told(found, t),
                name=name,
                interval=tuple(interval) if interval else None,  # type: ignore[arg-type]
                ringed=t.get("origin") == "config",
            )
        )
    heights = [y for m in marks for y in (m.y, *(m.interval or ()))]
    return scatter(
        marks,
        linear(axis_title(found, across, ("→", "←")), [m.x for m in marks], across in SHARES),
        linear(axis_title(found, up), heights, up in SHARES),
        f"{titled(up)} over {titled(across)}: {len(good)} trials, {len(ahead)} of them on the front",
        stairs=corners([(t["values"][across], t["values"][up]) for t in ahead], found["objectives"][across] == "minimise"),
        limits=limits,
        width=620,
        height=400,
    )


def history(found: dict[str, Any], good: list[dict[str, Any]], name: str) -> Chart:
    """A figure in the order of the trials, with the best so far."""
    sign = 1 if found["objectives"][name] == "minimise" else -1
    best: list[tuple[float, float]] = []
    for t in good:
        if t["feasible"] and (not best or sign * t["values"][name] < sign * best[-1][1]):
            best += [*([(t["number"], best[-1][1])] if best else []), (t["number"], t["values"][name])]
    if best:
        best.append((max(t["number"] for t in good), best[-1][1]))
    marks = [Mark(t["number"], t["values"][name], kind_of(t), told(found, t), ringed=t.get("origin") == "config") for t in good]
    numbers = linear("trial", [0, *(m.x for m in marks)])
    numbers = Axis("trial", numbers.low, numbers.high, [(x, f"{x:.0f}") for x, _ in numbers.marks if x == int(x)])
    heights = linear(axis_title(found, name), [m.y for m in marks], name in SHARES)
    return Chart(titled(name), scatter(marks, numbers, heights, f"{titled(name)} by trial", stairs=best), "The line is the best so far.")


def slice_of(dimension: dict[str, Any], good: list[dict[str, Any]], name: str) -> Chart:
    """A figure over one setting, whatever the others were."""
    key, values = dimension["key"], dimension.get("choices")
    if values is not None:
        known = [json.dumps(v) for v in values]
        axis, place = choices(key, [str(v) for v in values]), lambda v: float(known.index(json.dumps(v)))
    elif dimension["log"]:
        axis, place = logarithmic(key, dimension["low"], dimension["high"]), float
    else:
        axis, place = linear(key, [dimension["low"], dimension["high"]]), float
    marks = [
        Mark(
            place(t["settings"][key]),
            t["values"][name],
            kind_of(t),
            f"trial {t['number']}: {key}={t['settings'][key]}, {figure(name, t['values'][name])}",
        )
        for t in good
    ]
    return Chart(key, scatter(marks, axis, linear(titled(name), [m.y for m in marks], name in SHARES), f"{titled(name)} over {key}"))


def importance(found: dict[str, Any]) -> list[tuple[str, list[tuple[str, float]]]]:
    """(objective, (setting, share), the largest first)."""
    return [(titled(name), sorted(shares.items(), key=lambda item: -item[1])) for name, shares in found["importance"].items() if shares]
