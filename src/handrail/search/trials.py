"""A trial and what stands of it on the disk.

`trials/0007/trial.json` is written when the settings of the trial are known, and again when it has ended.  It is the
only record: the search, its report and its continuation are made from these files.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from handrail.errors import DataError
from handrail.track.storage import write_atomically

NAME = "trial.json"


@dataclass(frozen=True)
class Trial:
    """Settings that were tried, and what came of them."""

    number: int
    settings: dict[str, Any]
    origin: Literal["config", "sampler"] = "sampler"  # whether these are the config's own values
    sampler: dict[str, Any] = field(default_factory=dict)  # what the sampler remembers of it
    state: Literal["running", "complete", "failed"] = "running"
    values: dict[str, float] = field(default_factory=dict)  # objectives and constrained figures
    intervals: dict[str, list[float]] = field(default_factory=dict)  # of those that have one
    reason: str = ""  # why it failed
    same_as: int | None = None  # an earlier trial of the same settings, whose figures these are
    seconds: float = 0.0


def folder_of(search: Path, number: int) -> Path:
    return search / "trials" / f"{number:04d}"


def save(search: Path, trial: Trial) -> None:
    """Write the trial down; it is on the disk when this returns.  Raises StorageError."""
    text = json.dumps(asdict(trial), ensure_ascii=False, indent=1) + "\n"
    write_atomically(folder_of(search, trial.number) / NAME, text.encode())


def read(search: Path, number: int) -> Trial | None:
    """The trial, or None where it has not begun.  Raises DataError."""
    path = folder_of(search, number) / NAME
    if not path.exists():
        return None
    try:
        return Trial(**json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: not a trial: {error}", "", "remove the trial's folder, and it is done again") from error


def existing(search: Path) -> list[Trial]:
    """All trials on the disk, in their order."""
    numbers = sorted(int(p.parent.name) for p in search.glob(f"trials/*/{NAME}") if p.parent.name.isdigit())
    return [trial for number in numbers if (trial := read(search, number))]
