"""One stage of a round: done once, taken up where it was interrupted, redone when what it depends on has changed."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import Any

from handrail.config import Settings, read_yaml
from handrail.data import Source
from handrail.errors import ConfigError, InputError
from handrail.evaluate import EndpointSettings, PeopleSettings
from handrail.models import ModelSettings
from handrail.recipes.evaluate import Evaluate
from handrail.recipes.parts import RunSettings, fingerprint, source_of
from handrail.recipes.progress import console
from handrail.recipes.relaxed import Relaxed
from handrail.recipes.rewards import RewardSettings, reward_inputs
from handrail.recipes.sample import Priority

NOTE = "stage.json"  # what the stage in a folder was done from, and whether it is finished


@dataclass
class Log:
    """What happened to each stage of the round in `root`, for round.json; `peers` are rounds that may have done one already."""

    root: Path
    peers: Sequence[Path] = ()
    stages: list[dict] = field(default_factory=list)
    again: bool = field(init=False)  # the round was done to its end before

    def __post_init__(self) -> None:
        self.again = (self.root / "round.json").exists()

    def add(self, name: str, folder: Path, seconds: float, skipped: bool) -> None:
        self.stages.append({"name": name, "folder": str(folder), "seconds": seconds, "skipped": skipped, "again": self.again})
        told = f"{seconds:.0f} s" if not skipped else "as before" if self.again else "done already"
        console.print(f"[green]✓[/] {name:<11} [dim]{told}  {folder}[/]", soft_wrap=True)


def plain(cfg: Settings) -> dict:
    """The settings that a run may not change once it has begun."""
    patience = {"concurrency", "timeout", "retries"}  # of a judge at an endpoint, whose answers are kept
    return bound(cfg.model_dump(mode="json", exclude={"judge": patience}))


def bound(settings: dict) -> dict:
    """A stage's settings without those that change nothing but memory, or how a run is kept."""
    kept = {key: value for key, value in settings.items() if key not in ("micro_tokens", "rows")}
    if "run" in kept:
        kept["run"] = {key: value for key, value in kept["run"].items() if f"run.{key}" not in RunSettings.FREE}
    return kept


def begun_by_itself(folder: Path, settings: dict) -> bool:
    """Whether the verb of a stage has worked here, with the settings that the round has for it; then the round goes on from there."""
    config = folder / "config.yaml"
    return config.is_file() and bound(read_yaml(config)) == settings


def content(name: str, settings: dict, inputs: dict[str, str], root: Path) -> str:
    """A hash of what a stage is done from, wherever its round stands: equal for two rounds whose stage would come out the same."""
    here = json.dumps(f"{root}/")[1:-1]
    anywhere = json.loads(json.dumps([name, settings, inputs]).replace(f'"{here}', '"./'))
    return hashlib.sha256(json.dumps(anywhere, sort_keys=True).encode()).hexdigest()


def done_elsewhere(log: Log, wanted: str) -> Path | None:
    """The folder of a finished stage with this content in another round, if there is one."""
    for peer in log.peers:
        for note in sorted(peer.glob(f"round-*/*/{NOTE}")):
            found = json.loads(note.read_text())
            if found["finished"] and found.get("content") == wanted and peer.resolve() != log.root.resolve():
                return note.parent
    return None


def take_over(source: Path, folder: Path, note: dict) -> None:
    """A copy of a finished stage with its own note, whole or not there at all.  Weights are hard links and take no room."""

    def copy(old: str, new: str) -> str:
        if old.endswith(".safetensors"):
            try:
                os.link(old, new)
                return new
            except OSError:  # another disk, or one that has no links
                pass
        return str(shutil.copy2(old, new))

    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".tmp-{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(source, temporary, copy_function=copy, ignore=shutil.ignore_patterns("lock", NOTE, "checkpoints"))
    write(temporary / NOTE, note)
    temporary.rename(folder)


def identity_of(settings: dict, inputs: dict[str, str]) -> str:
    """A hash of what a stage in its folder is done from."""
    return hashlib.sha256(json.dumps([settings, inputs], sort_keys=True).encode()).hexdigest()


def noted(folder: Path) -> dict | None:
    """What stands in the note of the stage in this folder; None where there is none."""
    note = folder / NOTE
    return json.loads(note.read_text()) if note.exists() else None


def stage(
    log: Log,
    name: str,
    folder: Path,
    settings: dict,
    inputs: dict[str, str],
    work: Callable[[], Any],
    check: Callable[[], Any] = lambda: None,
) -> None:
    """Do the work unless it is done; note what it was done from.

    `check` raises what is wrong before anything is moved or made.  Where the work itself raises InputError before it has
    written anything, all is as it was.
    """
    identity, before = identity_of(settings, inputs), noted(folder)
    if before and before["identity"] == identity and before["finished"]:
        log.add(name, folder, before["seconds"], skipped=True)
        return
    stale = folder.exists() and (before["identity"] != identity if before else not begun_by_itself(folder, settings))
    same = content(name, settings, inputs, log.root)
    other = done_elsewhere(log, same) if stale or not folder.exists() else None
    if other is None:
        check()
    aside = moved_aside(folder) if stale else None
    if other is not None:
        took = json.loads((other / NOTE).read_text())["seconds"]  # as long as it took where it was done
        take_over(other, folder, {"identity": identity, "content": same, "finished": True, "seconds": took})
        log.add(name, folder, took, skipped=True)
        return
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    spent = before["seconds"] if before and before["identity"] == identity else 0.0
    write(folder / NOTE, {"identity": identity, "finished": False, "seconds": spent})
    started = time.perf_counter()
    try:
        work()
    except BaseException as error:
        if isinstance(error, Exception):
            console.print(f"[red]✗[/] {name:<11} [dim]{folder}[/]")
        if isinstance(error, InputError) and made and [path.name for path in folder.iterdir()] == [NOTE]:
            undo(folder, made, aside)
        else:
            write(folder / NOTE, {"identity": identity, "finished": False, "seconds": spent + time.perf_counter() - started})
        raise
    seconds = spent + time.perf_counter() - started
    write(folder / NOTE, {"identity": identity, "content": same, "finished": True, "seconds": seconds})
    log.add(name, folder, seconds, skipped=False)


def moved_aside(folder: Path) -> Path:
    """Where the folder stands from now on."""
    number = 1
    while (aside := folder.with_name(f"{folder.name}.before-{number}")).exists():
        number += 1
    return folder.rename(aside)


def undo(folder: Path, made: list[Path], aside: Path | None) -> None:
    """Take back a stage that has done nothing: its note, the folders that were made for it, and the move of what was there."""
    (folder / NOTE).unlink()
    with suppress(OSError):  # one that others have written to since stays
        for path in made:
            path.rmdir()
    if aside:
        aside.rename(folder)


def refuse_another(folder: Path, cfg: Settings) -> None:
    """Raises ConfigError where the folder holds a finished stage of a round that was done from other settings or inputs."""
    before = noted(folder)
    if before and before["finished"] and before["identity"] != identity_of(plain(cfg), reads(cfg)):
        raise ConfigError(
            f"{folder} holds a stage of a round, done from other settings or other inputs; it would be lost",
            "a folder of its own for everything else",
            "give another place with out=..., or change the round's file and let `handrail run` do the stage anew",
        )


def reads(settings: Settings) -> dict[str, str]:
    """Fingerprints of all that a stage reads: its data, its models, its functions, wherever in its settings they are named."""
    found: dict[str, str] = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, Source):
            found |= files(Path(value.path))
        elif isinstance(value, ModelSettings):
            found[value.path] = fingerprint(value.path)
        elif isinstance(value, RewardSettings):
            found |= reward_inputs(value)
        elif isinstance(value, Settings):
            found |= reads(value)
        elif name == "reward" and isinstance(settings, Relaxed | Evaluate | Priority):
            found["reward"] = fingerprint(value)
        elif isinstance(settings, EndpointSettings | PeopleSettings) and name in ("rubric", "path"):
            found |= files(Path(value)) if value else {}
        elif name in ("function", "monitor") and isinstance(value, str):
            found[f"{type(settings).__name__}.{name}"] = source_of(value)
    return found


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
