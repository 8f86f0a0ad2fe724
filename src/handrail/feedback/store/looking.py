"""A store that is looked at: nothing is made, brought up to date, locked or written, and nobody who works in it waits."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, NullPool, create_engine, text
from sqlalchemy.exc import DatabaseError

from handrail.errors import InputError, StorageError
from handrail.feedback.store.database import MIGRATIONS, Database, on_server, shown, url_of

NO_WRITING = "-c default_transaction_read_only=on"


class Looked(Database):
    """A database that is read alone.  `path` is the file of one on SQLite."""

    def __init__(self, engine: Engine, path: Path | None):
        super().__init__(engine)
        self.path = path

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database.

        Raises StorageError where it cannot be read, or its file was written to meanwhile.
        """
        before = stamp(self.path)
        try:
            with super().read() as connection:
                yield connection
        except DatabaseError as error:
            raise StorageError(f"the store cannot be read: {reason_of(error)}") from error
        if stamp(self.path) != before:
            raise StorageError("the store was written to while it was read", "", "look again")

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Never.  Raises StorageError."""
        raise StorageError("the store is open to be looked at", "", "what is written goes through `handrail feedback`")
        yield  # type: ignore[unreachable]


def look(where: str) -> Looked:
    """A store from a path to an SQLite file or a URL.

    Raises InputError where there is none, or one of another version than this Handrail's, and StorageError where it cannot be
    read.
    """
    url = url_of(where)
    path = Path(str(url.database)) if url.get_backend_name() == "sqlite" else None
    if path is not None and not path.is_file():
        raise InputError(f"{path}: a folder" if path.is_dir() else f"{path}: there is no store", "the file of a store")
    looked = Looked(on_server(url, options=NO_WRITING) if path is None else lying(path), path)
    try:
        with Database.read(looked) as connection:
            version = connection.scalar(text("select version_num from alembic_version"))
    except DatabaseError as error:
        reason = reason_of(error)
        if any(sign in reason for sign in ("no such table", "not a database", "does not exist")):
            raise InputError(f"{shown(where)}: no feedback store: {reason}", "one that `handrail feedback` has made") from error
        raise StorageError(f"the feedback store {shown(where)} cannot be read: {reason}", "", "is the path or the server right?") from error
    scripts = ScriptDirectory(str(MIGRATIONS))
    if version != scripts.get_current_head():
        older = version in {one.revision for one in scripts.walk_revisions()}
        raise InputError(
            f"the feedback store {shown(where)} was written by {'an older' if older else 'a newer'} Handrail",
            "one of this version: looking changes nothing",
            f"`handrail feedback status --db {shown(where)}` brings it up to date" if older else "bring this Handrail up to date",
        )
    return looked


def reason_of(error: DatabaseError) -> str:
    """What the database says, in a line."""
    return str(error.orig).strip().splitlines()[0]


def lying(path: Path) -> Engine:
    """An engine over an SQLite file that leaves nothing beside it.

    A reader of a file that nobody has open would make the two files of its write-ahead log, and leave them there.  So such a
    file is read as one that does not change; `Looked.read` tells if it did.  Where a log is left without its index, as a copy
    of a store whose writer was killed has it, both are read in a copy.  Each transaction opens the file anew: it may have
    been made again.
    """

    def opened() -> sqlite3.Connection:
        log, shared = (path.with_name(f"{path.name}-{kind}") for kind in ("wal", "shm"))
        logged = log.is_file() and log.stat().st_size > 0
        raw = copied(path, log) if logged and not shared.is_file() else connected(path, "" if logged else "&immutable=1")
        raw.execute("PRAGMA query_only=ON")
        return raw

    return create_engine("sqlite://", creator=opened, poolclass=NullPool, hide_parameters=True)


def connected(path: Path, more: str = "") -> sqlite3.Connection:
    """An SQLite file that is read alone."""
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro{more}", uri=True, isolation_level=None, check_same_thread=False)


def copied(path: Path, log: Path) -> sqlite3.Connection:
    """What an SQLite file and its log hold together, in memory."""
    memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    with TemporaryDirectory() as folder:
        try:
            for one in (log, path):  # a log that is taken up between the two changes the file, and `Looked.read` tells
                shutil.copyfile(one, Path(folder) / one.name)
        except OSError as error:
            raise sqlite3.OperationalError(f"it cannot be copied: {error}") from error
        with closing(connected(Path(folder) / path.name)) as raw:
            raw.backup(memory)
    return memory


def stamp(path: Path | None) -> tuple[int, int, int] | None:
    """What changes when an SQLite file is written to."""
    try:
        found = path.stat() if path else None
    except OSError as error:
        raise StorageError(f"{path}: there is no store any more") from error
    return found and (found.st_ino, found.st_size, found.st_mtime_ns)
