"""Where a file of labels comes from: a note beside the file, from which one walks back to every label."""

import hashlib
import json
from pathlib import Path

from handrail.errors import DataError
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
    created: float


def beside(path: Path) -> Path:
    """Where the note of a file stands."""
    return path.with_name(f"{path.name}.snapshot.json")


def write(snapshot: Snapshot, path: Path) -> Provenance:
    """Note that the file at `path` was written from a snapshot."""
    found = Provenance(
        snapshot=snapshot.id,
        project=snapshot.project,
        rules=snapshot.rules,
        upto=snapshot.upto,
        labels=snapshot.labels,
        labels_sha256=snapshot.sha256,
        file=path.name,
        file_sha256=sha256(path),
        created=snapshot.created,
    )
    beside(path).write_text(json.dumps(found.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")
    return found


def read(path: Path) -> Provenance | None:
    """The note of a file; None where it has none.  Raises DataError where the file is not the one that was noted."""
    note = beside(path)
    if not note.exists():
        return None
    found = Provenance.model_validate_json(note.read_text(encoding="utf-8"))
    if sha256(path) != found.file_sha256:
        raise DataError(f"{path} is not the file that was written from snapshot {found.snapshot}", "", "export it again")
    return found


def sha256(path: Path) -> str:
    """Of the bytes of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
