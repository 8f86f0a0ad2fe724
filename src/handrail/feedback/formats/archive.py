"""A whole project as one file: a line a record, in this order, and on the last line the digest of all before it.

header   the format's version, the project's name
task     its settings, one line a revision
person   a pseudonym and what they may do; no name, no address
item     what is asked about
event    what was done, numbered from 1 without a gap
end      how many lines, and the SHA-256 of their bytes
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, FiniteFloat

from handrail.errors import DataError
from handrail.feedback.formats.folder import write_file
from handrail.feedback.formats.lines import json_line, parsed
from handrail.feedback.kinds import Item, TaskSettings
from handrail.records import Record

VERSION = 1


class ArchiveHeader(Record):
    """What the file is."""

    record: Literal["header"] = "header"
    version: int = VERSION
    project: str = Field(min_length=1)
    written: FiniteFloat = Field(description="when, seconds since 1970")


class ArchiveTask(Record):
    """A task's settings as they stood from a revision on."""

    record: Literal["task"] = "task"
    id: str = Field(min_length=1)
    revision: int = Field(1, ge=1)
    at: FiniteFloat = 0.0
    settings: TaskSettings


class ArchivePerson(Record):
    """Somebody who did something, under a pseudonym."""

    record: Literal["person"] = "person"
    pseudonym: str = Field(min_length=1)
    role: str = "labeller"


class ArchiveItem(Record):
    """An item of a task, with what the store knows of it besides."""

    record: Literal["item"] = "item"
    id: str = Field(min_length=1)
    task: str
    item: Item
    at: FiniteFloat = 0.0
    state: dict[str, Any] = {}


class ArchiveEvent(Record):
    """Something that was done; `actor` is a pseudonym, "" for the store itself; `body` is what the action needs."""

    record: Literal["event"] = "event"
    number: int = Field(ge=1)
    at: FiniteFloat
    actor: str = ""
    action: str = Field(min_length=1)
    task: str = ""
    item: str = ""
    body: dict[str, Any] = {}


class ArchiveEnd(Record):
    """The last line."""

    record: Literal["end"] = "end"
    lines: int = Field(ge=1)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class _Line(BaseModel):
    """Any line but the last."""

    line: Annotated[ArchiveHeader | ArchiveTask | ArchivePerson | ArchiveItem | ArchiveEvent, Field(discriminator="record")]


@dataclass(frozen=True, slots=True)
class Archive:
    """A project's records, each kind in its order."""

    header: ArchiveHeader
    tasks: list[ArchiveTask] = field(default_factory=list)
    people: list[ArchivePerson] = field(default_factory=list)
    items: list[ArchiveItem] = field(default_factory=list)
    events: list[ArchiveEvent] = field(default_factory=list)


def write_archive(path: Path, archive: Archive) -> str:
    """The file, whole or not at all; returns the SHA-256 that stands on its last line.

    The same archive gives the same bytes.  Raises DataError for records that do not fit together or that no file can hold,
    StorageError.
    """
    _check(archive, str(path))
    records: Iterable[Record] = (archive.header, *archive.tasks, *archive.people, *archive.items, *archive.events)
    lines = []
    for number, record in enumerate(records, start=1):
        try:
            lines.append(json_line(record.model_dump()))
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}, record {number}: {error}", "what JSON in UTF-8 can hold", "correct the record") from None
    content = b"".join(lines)
    digest = hashlib.sha256(content).hexdigest()
    write_file(path, content + json_line(ArchiveEnd(lines=len(lines), sha256=digest).model_dump()))
    return digest


def read_archive(path: Path) -> Archive:
    """A project's records.  Raises DataError for a file that is cut off, altered, of another version, or inconsistent."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}", "an archive", "check the name and the rights") from error
    content = _verified(raw, path)
    homes: dict[type, list[Any]] = {kind: [] for kind in (ArchiveHeader, ArchiveTask, ArchivePerson, ArchiveItem, ArchiveEvent)}
    order = list(homes)
    last = 0
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        where = f"{path}, line {number}"
        record = parsed(_Line, b'{"line": ' + line + b"}", where).line
        if order.index(type(record)) < last or (number == 1) != isinstance(record, ArchiveHeader):
            found = f"a record of kind {record.record} where none may stand"
            raise DataError(f"{where}: {found}", "one header first, then tasks, people, items, events", "write the archive again")
        if isinstance(record, ArchiveHeader) and record.version != VERSION:
            raise DataError(f"{where}: version {record.version}", f"version {VERSION}", "read it with the Handrail that wrote it")
        last = order.index(type(record))
        homes[type(record)].append(record)
    [header] = homes.pop(ArchiveHeader)
    archive = Archive(header, *homes.values())
    _check(archive, str(path))
    return archive


def _verified(raw: bytes, path: Path) -> bytes:
    """The lines before the last, once the last has proved that they are whole."""
    remedy = "copy or write the archive again"
    body, _, last = raw.removesuffix(b"\n").rpartition(b"\n")
    content = body + b"\n"
    if not raw.endswith(b"\n") or b'"end"' not in last[:40] or not body:
        raise DataError(
            f"{path}: it is cut off: its last line is no end of an archive", "a last line with the SHA-256 of the lines before", remedy
        )
    end = parsed(ArchiveEnd, last, f"{path}, last line")
    lines, digest = content.count(b"\n"), hashlib.sha256(content).hexdigest()
    if lines != end.lines:
        raise DataError(f"{path}: it has {lines} lines where its end counts {end.lines}", "every line that was written", remedy)
    if digest != end.sha256:
        found = f"its content has the SHA-256 {digest[:16]}..., its end says {end.sha256[:16]}..."
        raise DataError(f"{path}: it was altered: {found}", "the bytes that were written", remedy)
    return content


def _check(archive: Archive, where: str) -> None:
    """Every id once, events numbered from 1, nothing that points to what is not there."""
    tasks, items = {task.id for task in archive.tasks}, {item.id for item in archive.items}
    people = {person.pseudonym for person in archive.people}
    named: dict[str, list[Any]] = {
        "task": [(task.id, task.revision) for task in archive.tasks],
        "person": [person.pseudonym for person in archive.people],
        "item": [item.id for item in archive.items],
    }
    for kind, names in named.items():
        if len(set(names)) < len(names):
            twice = next(name for i, name in enumerate(names) if name in names[:i])
            raise DataError(f"{where}: the {kind} {twice!r} stands twice", "each once", "correct the archive's source")
    for item in archive.items:
        _known(item.task, tasks, f"{where}: item {item.id!r}", "task")
    for place, event in enumerate(archive.events, start=1):
        if event.number != place:
            raise DataError(f"{where}: event {event.number} where {place} should be", "events numbered from 1", "write the archive again")
        for kind, name, known in (("task", event.task, tasks), ("item", event.item, items), ("person", event.actor, people)):
            if name:
                _known(name, known, f"{where}: event {event.number}", kind)


def _known(name: str, known: set[str], where: str, kind: str) -> None:
    if name not in known:
        raise DataError(
            f"{where} names the {kind} {name!r}, which is not in the archive", f"a {kind} of the archive", "write the archive again"
        )
