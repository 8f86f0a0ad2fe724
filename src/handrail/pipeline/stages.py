"""One stage of a round: done once, taken up where it was interrupted, redone when what it depends on has changed."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import Any

from handrail.config import Settings
from handrail.recipes.parts import RunSettings
from handrail.recipes.progress import console


@dataclass
class Log:
    """What happened to each stage, for round.json."""

    stages: list[dict] = field(default_factory=list)

    def add(self, name: str, folder: Path, seconds: float, skipped: bool) -> None:
        self.stages.append({"name": name, "folder": str(folder), "seconds": seconds, "skipped": skipped})
        console.print(f"[green]✓[/] {name:<11} [dim]{'as before' if skipped else f'{seconds:.0f} s'}  {folder}[/]")


def plain(cfg: Settings) -> dict:
    """The settings that a run may not change once it has begun."""
    kept = cfg.model_dump(mode="json", exclude={"micro_tokens"})
    if "run" in kept:
        kept["run"] = {key: value for key, value in kept["run"].items() if f"run.{key}" not in RunSettings.FREE}
    return kept


def stage(log: Log, name: str, folder: Path, settings: dict, inputs: dict[str, str], work: Callable[[], Any]) -> None:
    """Do the work unless it is done; note what it was done from."""
    identity = hashlib.sha256(json.dumps([settings, inputs], sort_keys=True).encode()).hexdigest()
    note = folder / "stage.json"
    before = json.loads(note.read_text()) if note.exists() else None
    if before and before["identity"] == identity and before["finished"]:
        log.add(name, folder, before["seconds"], skipped=True)
        return
    if folder.exists() and (before is None or before["identity"] != identity):
        number = 1
        while (aside := folder.with_name(f"{folder.name}.before-{number}")).exists():
            number += 1
        folder.rename(aside)
    folder.mkdir(parents=True, exist_ok=True)
    spent = before["seconds"] if before and before["identity"] == identity else 0.0
    write(note, {"identity": identity, "finished": False, "seconds": spent})
    started = time.perf_counter()
    try:
        work()
    except BaseException:
        write(note, {"identity": identity, "finished": False, "seconds": spent + time.perf_counter() - started})
        raise
    seconds = spent + time.perf_counter() - started
    write(note, {"identity": identity, "finished": True, "seconds": seconds})
    log.add(name, folder, seconds, skipped=False)


def files(*paths: Path) -> dict[str, str]:
    """SHA-256 of each file that exists, and of those in folders and those that a pattern matches."""
    found: list[Path] = []
    for path in paths:
        inside = path.rglob("*") if path.is_dir() else map(Path, glob(str(path), recursive=True))
        found += sorted(p for p in inside if p.is_file())
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


def write(path: Path, content: dict) -> None:
    """JSON that a person can read, replaced in one step."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)
