"""The stages of a round one after another, and where the seconds of each went."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from handrail.inspector.charts import loop_drawing
from handrail.inspector.curves import TITLES
from handrail.inspector.folders import Round, RunFolder, finite
from handrail.inspector.seconds import PARTS, REST, spent

ELSE = "all else"  # loading, testing, saving, stages that have no steps
COLOURS = {name: f"c{number}" for number, name in enumerate((*PARTS.values(), REST), 1)} | {ELSE: "muted"}


@dataclass(frozen=True)
class Row:
    """A stage: when it began and what its seconds went into, both in seconds."""

    name: str
    seconds: float | None
    skipped: bool
    start: float
    parts: dict[str, float]


@dataclass(frozen=True)
class Timeline:
    """All stages; `loop` is the drawing of a round."""

    rows: list[Row]
    total: float
    loop: Markup | None

    @property
    def sums(self) -> list[tuple[str, str, float]]:
        """(class of colour, part, its seconds in all stages together)."""
        found: dict[str, float] = defaultdict(float)
        for row in self.rows:
            for name, seconds in row.parts.items():
                found[name] += seconds
        names = [*COLOURS, *(name for name in found if name not in COLOURS)]
        return [(colour(name), name, found[name]) for name in names if found[name]]

    def bars(self, row: Row) -> list[tuple[str, str, float, float]]:
        """(class of colour, part, where it begins, how long it is), in hundredths of the whole."""
        bars, at = [], row.start
        for name, seconds in row.parts.items():
            bars.append((colour(name), name, 100 * at / (self.total or 1.0), 100 * seconds / (self.total or 1.0)))
            at += seconds
        return bars


def colour(part: str) -> str:
    """The class of colour of what seconds went into."""
    return COLOURS.get(part, "c6")


def timeline(found: Round) -> Timeline | None:
    """From what a round has noted of its stages; of a single run from its steps alone.  None where nothing was noted."""
    stages = [s for s in found.stages if isinstance(s, dict) and s.get("name")]
    stages = stages or [{"name": k, "seconds": v} for k, v in (found.summary.get("seconds") or {}).items()]
    if not stages:
        alone = [
            Row(TITLES.get(run.kind, run.name), sum(parts.values()), False, 0.0, parts)
            for run in found.last.runs
            if (parts := spent(run.timing))
        ]
        return Timeline(alone, sum(alone[0].parts.values()), None) if len(alone) == 1 else None
    rows, at = [], 0.0
    together: dict[str, float] = defaultdict(float)
    for stage in stages:
        seconds = finite(stage.get("seconds"))
        rows.append(
            Row(stage["name"], seconds, bool(stage.get("skipped") and stage.get("again", True)), at, divided(stage, seconds or 0.0, found))
        )
        together[str(stage["name"]).rsplit("/", 1)[-1]] += seconds or 0.0
        at += seconds or 0.0
    return Timeline(rows, at, loop_drawing(together))


def divided(stage: dict[str, Any], seconds: float, found: Round) -> dict[str, float]:
    """What a stage's seconds went into; not told of one that was done in several starts, of which the round has noted the last."""
    run = run_of(stage, found)
    parts = spent(run.timing) if run else {}
    inside = sum(parts.values())
    if inside > seconds:
        return {ELSE: seconds}
    return {**parts, ELSE: seconds - inside}


def run_of(stage: dict[str, Any], found: Round) -> RunFolder | None:
    """The run folder of a stage: round-2/ppo stands where it stands, from wherever the round was started."""
    place = Path(str(stage.get("folder") or "")).parts[-2:]
    return next((run for part in found.parts for run in part.runs if place and run.folder.parts[-2:] == place), None)
