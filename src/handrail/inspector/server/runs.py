"""Which run folders stand below a folder, and what each of them is doing."""

import json
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handrail.config import read_yaml
from handrail.errors import HandrailError, InputError
from handrail.inspector.curves import MAIN, TITLES
from handrail.inspector.folders import ASIDE, finite
from handrail.inspector.seconds import seconds
from handrail.inspector.server.growing import Shelf
from handrail.track.lock import process_start

DEPTH = 6  # how far below the folder a run may stand
WITHIN = frozenset({"checkpoints", "tokens", "model", "bad-batches", "tensorboard", "wandb", "mlruns"})  # of a run folder; no runs in them
POINTS = 48  # of the small curve in the list
SEED = frozenset({"seed", "out"})  # what runs may differ in and still be the same but for chance


@dataclass(frozen=True)
class Entry:
    """One run as the list shows it."""

    path: str  # below the folder, as the address has it
    folder: Path
    stage: str
    config: dict[str, Any]

    @property
    def title(self) -> str:
        return TITLES.get(self.stage, self.stage) or self.stage

    @property
    def planned(self) -> int | None:
        steps = self.config.get("steps")
        return steps if isinstance(steps, int) else None

    @property
    def without_seed(self) -> str:
        """Equal for runs that differ in nothing but their seed."""
        return json.dumps({k: v for k, v in self.config.items() if k not in SEED} | {"stage": self.stage}, sort_keys=True, default=str)


class Runs:
    """The runs below a folder.  A run that begins while the pages are open is found when it is there."""

    def __init__(self, root: Path):
        self.root, self.shelf = root.resolve(), Shelf()
        self._configs: dict[Path, tuple[int, str, dict[str, Any]]] = {}
        if not self.root.is_dir():
            raise InputError(f"{root}: there is no such folder", "a folder with run folders in it, or a run folder", "give another")

    def all(self) -> list[Entry]:
        """Every run, by its path."""
        found = [entry for folder in self._folders() if (entry := self._entry(folder))]
        return sorted(found, key=lambda entry: entry.path)

    def find(self, path: str) -> Entry | None:
        """The run with this path, None where there is none: only what stands below the folder is found."""
        parts = path.split("/")
        if any(part in ("", ".", "..") for part in parts):
            return None
        folder = self.root if path == self.root.name and is_run(self.root) else self.root.joinpath(*parts)
        if not is_run(folder) or not folder.resolve().is_relative_to(self.root):
            return None
        return self._entry(folder)

    def _folders(self) -> Iterator[Path]:
        return (folder for folder, _ in self.walk() if is_run(folder))

    def walk(self) -> Iterator[tuple[Path, list[str]]]:
        """(folder, names of the files in it) of the folder and all below it where a run may stand."""
        for place, below, files in os.walk(self.root, followlinks=False):
            folder = Path(place)
            depth = len(folder.relative_to(self.root).parts)
            below[:] = [] if depth >= DEPTH else [n for n in below if n not in WITHIN and n[0] != "." and not ASIDE.search(n)]
            yield folder, files

    def _entry(self, folder: Path) -> Entry | None:
        try:
            written = (folder / "config.yaml").stat().st_mtime_ns
            if self._configs.get(folder, (0,))[0] != written:
                stage = str(json.loads((folder / "inputs.json").read_bytes()).get("stage", ""))
                self._configs[folder] = (written, stage, read_yaml(folder / "config.yaml"))
        except (OSError, ValueError, AttributeError, HandrailError):
            return None  # it is being written, or it is none
        _, stage, config = self._configs[folder]
        return Entry(folder.relative_to(self.root).as_posix() if folder != self.root else self.root.name, folder, stage, config)

    def metrics(self, entry: Entry) -> list[dict[str, Any]]:
        """A line a step."""
        return self.shelf.of(entry.folder / "metrics.jsonl").read()

    def timing(self, entry: Entry) -> list[dict[str, Any]]:
        """A line a step: seconds, memory, the time of day."""
        return self.shelf.of(entry.folder / "timing.jsonl").read()

    def told(self, entry: Entry) -> dict[str, Any]:
        """What the list says of a run."""
        metrics, timing = self.metrics(entry), self.timing(entry)
        main = [panel for panel in MAIN.get(entry.stage, []) if any(panel.keys[0] in line for line in metrics[-1:])]
        key = main[0].keys[0] if main else ""
        values = [value for line in metrics if (value := finite(line.get(key))) is not None]
        thin = max(1, len(values) // POINTS)
        times = [line["time"] for line in timing if isinstance(line.get("time"), float | int)]
        last = {
            name: value for name in ("reward", "gold", "kl", "length") if metrics and (value := finite(metrics[-1].get(name))) is not None
        }
        return {
            "path": entry.path,
            "stage": entry.title,
            "state": state(entry.folder),
            "steps": len(metrics),
            "planned": entry.planned,
            "main": {"name": key, "points": [*values[:-1:thin], *values[-1:]]} if key else None,
            "last": last,
            "seconds": sum(seconds(line) for line in timing),
            "changed": times[-1] if times else None,
            "seed": entry.config.get("seed"),
            "traced": (entry.folder / "tokens").is_dir(),
        }


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's."""
    return (folder / "inputs.json").is_file() and (folder / "config.yaml").is_file()


def state(folder: Path) -> str:
    """finished, running, failed or stopped."""
    if (folder / "summary.json").is_file():
        return "finished"
    try:
        holder = json.loads((folder / "lock").read_bytes() or b"{}")
        at_work = holder["host"] != socket.gethostname() or process_start(int(holder["pid"])) == holder["started"] > 0
    except (OSError, ValueError, KeyError, TypeError):
        at_work = False
    if at_work:
        return "running"
    return "failed" if " ERROR ended by " in end_of_log(folder) else "stopped"


def end_of_log(folder: Path) -> str:
    """The last line of the log."""
    try:
        with (folder / "log.txt").open("rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - 4096))
            lines = stream.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return lines[-1] if lines else ""
