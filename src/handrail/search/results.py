"""What a search has found so far, for people and for the report: search.json and report.html."""

import json
from pathlib import Path
from typing import Any

from handrail.inspector import write_report
from handrail.search import trials
from handrail.search.base import Base, assignments
from handrail.search.front import front
from handrail.search.settings import Search
from handrail.search.space import Dimension
from handrail.search.suggest import importance
from handrail.search.trials import Trial
from handrail.track.storage import write_atomically

FILE = "search.json"


def write(folder: Path, cfg: Search, base: Base, space: list[Dimension]) -> dict[str, Any]:
    """Write both, from the trials as they stand on the disk; returns what stands in search.json."""
    found = collect(cfg, base, space, trials.existing(folder))
    write_atomically(folder / FILE, (json.dumps(found, ensure_ascii=False, indent=1) + "\n").encode())
    write_report(folder, folder / "report.html")
    return found


def collect(cfg: Search, base: Base, space: list[Dimension], history: list[Trial]) -> dict[str, Any]:
    """Every trial with its place, the front, the best, and how much each setting matters."""
    good = [t for t in history if t.state == "complete" and t.same_as is None and feasible(cfg, t)]
    points = [turned(cfg, t) for t in good]
    ahead = sorted(front(points), key=lambda i: (points[i], good[i].number))
    numbers = [good[i].number for i in ahead]
    best = next((t for t in good if t.number == numbers[0]), None) if numbers else None
    return {
        "verb": cfg.verb,
        "config": cfg.config,
        "fixed": cfg.fixed,
        "space": [d.described() for d in space],
        "objectives": dict(cfg.objectives),
        "constraints": {name: limit.model_dump() for name, limit in cfg.constraints.items()},
        "sampler": cfg.sampler,
        "seed": cfg.seed,
        "wanted": cfg.trials,
        "trials": [row(cfg, base, t, numbers) for t in history],
        "front": numbers,
        "best": best.number if best else None,
        "model": base.model(best.settings, trials.folder_of(Path(cfg.out), best.number)) if best else None,
        "again": base.again(best.settings, f"{cfg.out}-best") if best else None,
        "importance": importance(cfg, space, history),
    }


def feasible(cfg: Search, trial: Trial) -> bool:
    """Whether a complete trial keeps to every constraint."""
    return all(x <= 0 for name, limit in cfg.constraints.items() for x in limit.excess(trial.values[name]))


def turned(cfg: Search, trial: Trial) -> tuple[float, ...]:
    """The objectives of a trial, each with the sign that makes less better."""
    return tuple(trial.values[name] * (1 if way == "minimise" else -1) for name, way in cfg.objectives.items())


def row(cfg: Search, base: Base, trial: Trial, ahead: list[int]) -> dict[str, Any]:
    """A trial as the report has it."""
    return {
        "number": trial.number,
        "state": trial.state,
        "settings": trial.settings,
        "values": trial.values,
        "intervals": trial.intervals,
        "feasible": trial.state == "complete" and feasible(cfg, trial),
        "front": trial.number in ahead,
        "same_as": trial.same_as,
        "reason": trial.reason,
        "seconds": trial.seconds,
        "origin": trial.origin,
        "pasted": assignments(trial.settings),
        "command": base.command(trial.settings),
    }
