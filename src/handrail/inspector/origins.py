"""From a trained model back to the labels: which files of labels a run was trained on, and the notes beside them."""

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from handrail.errors import DataError, InputError
from handrail.feedback import provenance
from handrail.feedback.provenance import Provenance

DEPTH = 3  # how far below a round's folder its run folders may stand
LONGEST = 2**28  # bytes of a file that is searched for the ids of labels
BEGINNING = 2**16  # bytes in which the first of them would stand
NAME = 255  # bytes of a file's name at most
LINES = (".jsonl", ".ndjson", ".json")


@dataclass(frozen=True)
class Origin:
    """A file of labels that a run read.

    `note` says from which snapshot it was written, None where it has no note; `labels` are the ids in its lines.  `same` is
    whether the bytes that the run was started with are those of the note: None where that cannot be told.
    """

    run: Path
    key: str
    file: Path
    note: Provenance | None
    labels: tuple[str, ...]
    same: bool | None

    @property
    def store(self) -> str:
        """Where its labels are kept, as its note says, or beside it, as in a round; "" where neither tells."""
        noted = provenance.store_of(self.note, self.file.parent) if self.note else ""
        beside = self.file.with_name("feedback.db")
        return noted or (str(beside) if beside.is_file() else "")


def origins(folder: Path) -> list[Origin]:
    """The files of labels behind a run folder or a round's: its own, and those of the runs whose models it began with.

    Raises InputError where there is no run, DataError for a note that does not fit its file.
    """
    found: dict[tuple[Path, str], Origin] = {}
    for run, key, file in read_by(folder):
        origin = origin_of(run, key, file, read_inputs(run))
        if origin is not None:
            found.setdefault((file.resolve(), str(run)), origin)
    return list(found.values())


def leads_to_labels(folder: Path) -> bool:
    """Whether `origins` of a run folder may find something: only the beginnings of files are read.  Raises DataError."""
    return any(provenance.beside(file).is_file() or b'"label' in beginning(file) for _, _, file in read_by(folder))


def read_by(folder: Path) -> Iterator[tuple[Path, str, Path]]:
    """(run, key of its config, file) of all that a run folder, or those of a round, and the runs behind it read.

    Raises InputError where there is no run, DataError.
    """
    runs = [folder] if (folder / "inputs.json").is_file() else sorted(runs_below(folder))
    if not runs:
        raise InputError(f"{folder}: no run folder in it", "a folder that training has written: with config.yaml and inputs.json")
    seen: set[Path] = set()
    while runs:
        run = runs.pop(0)
        if run.resolve() in seen:
            continue
        seen.add(run.resolve())
        for key, value in leaves(read_config(run)):
            path = path_of(value)
            if (behind := run_of(path)) is not None:
                runs.append(behind)
            yield from ((run, key, file) for file in files_at(path))


def trace_command(folder: Path, found: Sequence[Origin]) -> str:
    """What to type to walk back to each label."""
    stores = {origin.store for origin in found}
    store = ["--db", min(stores)] if len(stores) == 1 and stores != {""} else []
    return shlex.join(["handrail", "feedback", "trace", str(folder), *store])


def runs_below(folder: Path) -> Iterator[Path]:
    """The run folders in a round's folder."""
    for depth in range(1, DEPTH + 1):
        yield from (path.parent for path in folder.glob("/".join(["*"] * depth) + "/inputs.json"))


def path_of(text: str) -> Path:
    """A text as a path, whatever it is."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # the home of somebody who is not there
        return Path(text)


def run_of(path: Path) -> Path | None:
    """The run folder that a path names, as itself or as its model; None where it names none."""
    return next((one for one in (path, path.parent) if one != Path() and path.is_dir() and (one / "inputs.json").is_file()), None)


def files_at(path: Path) -> list[Path]:
    """The file itself, also where only its note is left, or the files with notes in a folder."""
    if path.is_dir():
        return [note.with_name(note.name.removesuffix(".snapshot.json")) for note in sorted(path.glob("*.snapshot.json"))]
    return [path] if path.is_file() or (path.name and provenance.beside(path).is_file()) else []


def origin_of(run: Path, key: str, file: Path, trained_on: set[str]) -> Origin | None:
    """What is known of a file; None where it holds no labels of a store."""
    note = provenance.note_of(file)
    labels = ids_in(file)
    if note is None and not labels:
        return None
    return Origin(run, key, file, note, labels, note.file_sha256 in trained_on if note else None)


def ids_in(file: Path) -> tuple[str, ...]:
    """The ids of labels that the lines of a file carry, each once, in order."""
    if file.suffix not in LINES or not file.is_file():
        return ()
    found = file.stat()
    return ids_of(file, found.st_size, found.st_mtime_ns) if found.st_size <= LONGEST else ()


@lru_cache(maxsize=32)
def ids_of(file: Path, size: int, written: int) -> tuple[str, ...]:
    """The same of a file of this size that was written then: it is read once."""
    found: dict[str, None] = {}
    with file.open("rb") as lines:
        for line in lines:
            if b'"label' not in line:
                continue
            try:
                told = json.loads(line)
            except ValueError:
                continue
            for name in ("label", "label_id") if isinstance(told, dict) else ():
                if isinstance(told.get(name), str) and told[name]:
                    found[told[name]] = None
    return tuple(found)


def beginning(file: Path) -> bytes:
    """The first bytes of a file whose lines may carry ids of labels, b"" of any other."""
    if file.suffix not in LINES or not file.is_file():
        return b""
    with file.open("rb") as stream:
        return stream.read(BEGINNING)


def read_config(run: Path) -> dict[str, Any]:
    """The settings of a run.  Raises DataError."""
    try:
        return parsed(run / "config.yaml", (run / "config.yaml").stat().st_mtime_ns)
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{run / 'config.yaml'}: cannot be read: {error}", "the config that the run wrote") from error


@lru_cache(maxsize=1024)
def parsed(path: Path, written: int) -> dict[str, Any]:
    """The settings in a file that was written then: a run's never change."""
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}


def read_inputs(run: Path) -> set[str]:
    """The SHA-256s of what a run was started with.  Raises DataError."""
    try:
        return {str(value) for value in json.loads((run / "inputs.json").read_bytes())["inputs"].values()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(f"{run / 'inputs.json'}: cannot be read: {error}", "what the run wrote at its start") from error


def leaves(settings: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(key, text) of every text in settings that could be a path."""
    if isinstance(settings, dict):
        for key, value in settings.items():
            yield from leaves(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(settings, list):
        for value in settings:
            yield from leaves(value, prefix)
    elif isinstance(settings, str) and 0 < len(settings) < 1000 and "\n" not in settings and "\0" not in settings:
        longest = max(len(part.encode("utf-8", "replace")) for part in settings.split("/"))
        yield from [(prefix, settings)] if longest <= NAME else []
