"""What a round left on disk, read into plain types.  Whatever is missing is left out; nothing is written."""

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handrail.errors import DataError, InputError

KINDS = ("sft", "reward", "ppo", "reinforce", "best_of_n", "dpo", "relaxed")
POLICIES = {*KINDS} - {"sft", "reward"}
DEPTH = 3  # how far below a folder its run folders may stand
ASIDE = re.compile(r"\.before-\d+$")  # a stage's folder that was moved aside and done again


@dataclass(frozen=True)
class RunFolder:
    """One stage's run folder."""

    name: str
    kind: str  # one of KINDS, or "" where it cannot be told
    folder: Path
    metrics: list[dict[str, Any]]
    summary: dict[str, Any]
    config: str
    environment: dict[str, Any]
    traces: list[Path] = field(default_factory=list)
    timing: list[dict[str, Any]] = field(default_factory=list)

    def series(self, key: str) -> list[tuple[float, float]]:
        """(step, value) for each step that has a number under `key`."""
        return [
            (float(row["step"]), float(row[key]))
            for row in self.metrics
            if "step" in row and isinstance(row.get(key), int | float) and not isinstance(row[key], bool)
        ]

    @property
    def read(self) -> str:
        """What the run said of its data, or of its prompts."""
        return next((str(self.summary[key]) for key in ("data", "prompts") if isinstance(self.summary.get(key), str)), "")

    def names(self) -> list[str]:
        """Names of all numbers, in the order of their first appearance."""
        return list(dict.fromkeys(k for row in self.metrics for k, v in row.items() if isinstance(v, int | float)))


@dataclass(frozen=True)
class Part:
    """One round: its run folders by kind, and the replies that were judged."""

    number: int
    runs: list[RunFolder]
    samples: list[dict[str, Any]]

    def run(self, kind: str) -> RunFolder | None:
        return next((r for r in self.runs if r.kind == kind), None)

    def policy(self) -> RunFolder | None:
        """The run that made the policy that was judged."""
        return next((r for r in self.runs if r.kind not in ("", "sft", "reward")), None)


@dataclass(frozen=True)
class Round:
    """All that a report is made from: one or more rounds, or a single run."""

    folder: Path
    title: str
    description: str
    stages: list[dict[str, Any]]
    summary: dict[str, Any]
    parts: list[Part]
    read: list[tuple[str, str]] = field(default_factory=list)  # what was read: its name, and a sentence on what it was taken for

    @property
    def last(self) -> Part:
        return self.parts[-1]


def read_round(folder: Path) -> Round:
    """The round, or single run, in `folder`.  Raises InputError where no run folder is in it, DataError on bad JSON."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder", "a round's folder or a run folder", _instead(folder))
    about = _mapping(folder / "round.json")
    alone = (folder / "metrics.jsonl").is_file()
    stages = {stage.get("name") for stage in about.get("stages") or []}
    places = [folder] if alone else [p for p in _below(folder) if not _of_another_method(p, stages)]
    numbered: dict[int, list[RunFolder]] = {}
    for place in places:
        numbered.setdefault(_number(place, folder), []).append(_run(place))
    samples = {} if alone else {_number(p.parent, folder): _lines(p) for p in _samples(folder)}
    parts = [Part(n, numbered.get(n, []), samples.get(n, [])) for n in sorted({*numbered, *samples})]
    if not parts:
        raise InputError(
            f"{folder}: no run folder in it, nor below it",
            "a folder that holds metrics.jsonl, or whose folders do",
            "train something first: `handrail demo`, `handrail run handrail.yaml`",
        )
    return Round(
        folder=folder,
        title=about.get("title") or about.get("task") or folder.resolve().name,
        description=about.get("description") or "",
        stages=about.get("stages") or [],
        summary={} if alone else _mapping(folder / "summary.json"),
        parts=parts,
        read=[*_mapping(folder / "round-1/data/sources.json").items(), *((run.name, said) for run in parts[-1].runs if (said := run.read))],
    )


def _instead(folder: Path) -> str:
    """The rounds and runs that are near a folder which is not there."""
    above = next((path for path in folder.parents if path.is_dir()), Path())
    above = Path("runs") if above == Path() and Path("runs").is_dir() else above
    marks = ("round.json", "metrics.jsonl", "search.json", "compare.json")
    found = sorted({mark.parent for name in marks for depth in ("*", "*/*") for mark in above.glob(f"{depth}/{name}")})
    there = [str(path) for path in found if not any(ASIDE.search(name) for name in path.parts)]
    if not there:
        return "train something first: `handrail demo`, `handrail run handrail.yaml`"
    return f"there is {', '.join(there[:8])}" + (f" and {len(there) - 8} more" if there[8:] else "")


def _of_another_method(place: Path, stages: set[Any]) -> bool:
    """Whether a folder holds the policy of a method that the round has since been changed from."""
    return place.name in POLICIES and bool(stages & POLICIES) and place.name not in stages


def read_trace(path: Path) -> list[dict[str, Any]]:
    """The responses of one traced step, as rows.  Raises DataError where the file cannot be read."""
    import pyarrow  # not needed by a report without traces
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: cannot be read: {error}", "a Parquet file", "remove it to have a report without it") from error


def _below(folder: Path) -> list[Path]:
    found = []
    for depth in range(1, DEPTH + 1):
        found += [p.parent for p in folder.glob("/".join(["*"] * depth) + "/metrics.jsonl") if p.is_file()]
    found = [p for p in found if not any(ASIDE.search(name) for name in p.relative_to(folder).parts)]
    order = {kind: i for i, kind in enumerate(KINDS)}
    return sorted(found, key=lambda p: (_number(p, folder), order.get(p.name, len(KINDS)), str(p)))


def _samples(folder: Path) -> list[Path]:
    return sorted({*folder.glob("evaluation/samples.jsonl"), *folder.glob("round-*/evaluation/samples.jsonl")})


def _number(place: Path, folder: Path) -> int:
    """Of which round a folder is: N where it stands below round-N, else 1."""
    names = place.relative_to(folder).parts
    found = [n.removeprefix("round-") for n in names if n.startswith("round-")]
    return int(found[0]) if found and found[0].isdigit() else 1


def _run(folder: Path) -> RunFolder:
    metrics = _lines(folder / "metrics.jsonl")
    name = folder.resolve().name
    config = folder / "config.yaml"
    return RunFolder(
        name=name,
        kind=stage if (stage := _mapping(folder / "inputs.json").get("stage")) in KINDS else name if name in KINDS else _kind(metrics),
        folder=folder,
        metrics=metrics,
        summary=_mapping(folder / "summary.json"),
        config=config.read_text(encoding="utf-8", errors="replace") if config.is_file() else "",
        environment=_mapping(folder / "environment.json"),
        traces=sorted((folder / "tokens").glob("step-*.parquet")),
        timing=_lines(folder / "timing.jsonl"),
    )


def _kind(metrics: list[dict[str, Any]]) -> str:
    keys = {key for row in metrics for key in row}
    if {"margin", "logp_chosen"} <= keys:
        return "dpo"
    if "best_reward" in keys:
        return "best_of_n"
    if {"reward", "kl"} <= keys:
        return "ppo"
    if "accuracy" in keys:
        return "reward"
    return "sft" if "loss" in keys else ""


def _mapping(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}", "a JSON object") from error
    if not isinstance(loaded, dict):
        raise DataError(f"{path}: holds a {type(loaded).__name__}", "a JSON object")
    return loaded


def _lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file.  The last line may be cut: the run may be writing it."""
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(json.loads(line))
        except ValueError as error:
            if number == len(lines):
                break
            raise DataError(f"{path}, line {number}: not JSON: {error}", "one JSON object a line") from error
    return found


def finite(value: Any) -> float | None:
    """The value as a number, or None where it is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
