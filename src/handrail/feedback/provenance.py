"""Where a file of labels comes from: a note beside the file, from which one walks back to every label."""

import hashlib
import json
import os
from pathlib import Path

from pydantic import Field, ValidationError

from handrail.errors import DataError
from handrail.feedback.store.database import file_of, without_password
from handrail.feedback.store.snapshots import Rules, Snapshot
from handrail.records import Record


class Provenance(Record):
    """The snapshot that a file was written from."""

    snapshot: str
    project: str
    rules: Rules
    upto: int
    labels: int
    labels_sha256: str
    file: str
    file_sha256: str
    created: float = Field(description="when the snapshot was taken, seconds since 1970")
    format: str = "handrail"
    records: dict[str, int] = Field({}, description="of all files that were written with it")
    left_out: dict[str, int] = Field({}, description="what the format cannot hold, by reason")
    weights: dict[str, float] = Field({}, description="that labellers' rankings were given, 1 where there is none")
    store: str = Field("", description="the store: a path from the folder of this note, a URL without password, or $NAME")


def beside(path: Path) -> Path:
    """Where the note of a file stands."""
    return path.with_name(f"{path.name}.snapshot.json")


def of(snapshot: Snapshot, file: str, content_sha256: str) -> Provenance:
    """The note of a file with these bytes."""
    return Provenance(
        snapshot=snapshot.id,
        project=snapshot.project,
        rules=snapshot.rules,
        upto=snapshot.upto,
        labels=snapshot.labels,
        labels_sha256=snapshot.sha256,
        file=file,
        file_sha256=content_sha256,
        created=snapshot.created,
    )


def seen_from(folder: Path, store: str) -> str:
    """A store as a note in `folder` names it, so that the two can be moved together."""
    path = None if store.startswith("$") else file_of(store)
    return os.path.relpath(path, folder) if path else store if store.startswith("$") else without_password(store)


def store_of(note: Provenance, folder: Path) -> str:
    """The store that a note in `folder` names; "" where it names none, or a file that is not there."""
    if note.store.startswith("$") or not note.store or file_of(note.store) is None:
        return note.store
    path = Path(os.path.normpath(folder / note.store))
    return str(path) if path.is_file() else ""


def text(note: Provenance) -> str:
    """The note as it stands in its file."""
    return json.dumps(note.model_dump(mode="json"), indent=2) + "\n"


def write(snapshot: Snapshot, path: Path, store: str = "") -> Provenance:
    """Note that the file at `path` was written from a snapshot of a store."""
    found = of(snapshot, path.name, sha256(path))
    if store:
        found = found.model_copy(update={"store": seen_from(path.parent, store)})
    beside(path).write_text(text(found), encoding="utf-8")
    return found


def note_of(path: Path) -> Provenance | None:
    """The note of a file, which may itself be gone; None where it has none.  Raises DataError for a damaged one."""
    note = beside(path)
    if not note.exists():
        return None
    try:
        return Provenance.model_validate_json(note.read_bytes())
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise DataError(f"{note}: {where}: {fault['msg']}", "the note that an export wrote", "export the file again") from None


def read(path: Path) -> Provenance | None:
    """The note of a file; None where it has none.  Raises DataError where the file is not the one that was noted."""
    found = note_of(path)
    if found is not None and sha256(path) != found.file_sha256:
        raise DataError(f"{path} is not the file that was written from snapshot {found.snapshot}", "", "export it again")
    return found


def sha256(path: Path) -> str:
    """Of the bytes of a file."""
    return digest(path.read_bytes())


def digest(content: bytes) -> str:
    """Of bytes."""
    return hashlib.sha256(content).hexdigest()
