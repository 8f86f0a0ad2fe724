"""The database: SQLite beside the program, or PostgreSQL for a team.

A commit that has returned is on disk: SQLite writes ahead with synchronous=FULL, PostgreSQL as it is set up.
"""

import base64
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DatabaseError

from handrail.errors import InputError, StorageError

BUSY = 10.0  # seconds to wait for another process that writes to the same SQLite file
SECRETS = ("password", "passfile", "sslpassword")  # what PostgreSQL takes in the query of a URL
MIGRATIONS = Path(__file__).parents[1] / "migrations"


class Busy(StorageError):
    """Others have been writing for too long; nothing was written."""


class Database:
    """A database with its schema at the newest version."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.time, chance: random.Random | None = None):
        self.engine, self.clock, self.chance = engine, clock, chance or random.SystemRandom()
        self.sqlite = engine.dialect.name == "sqlite"
        self._one_writer = threading.Lock()  # SQLite has one at a time; threads that queue here do not sleep and poll

    @classmethod
    def open(cls, where: str | Path, clock: Callable[[], float] = time.time, chance: random.Random | None = None) -> "Database":
        """From a path to an SQLite file, which is made if it is absent, or a URL.

        A `chance` of one's own makes orders and ids the same each time: for simulated labellers alone.
        Raises InputError, StorageError.
        """
        try:
            engine = connect(str(where))
            database = cls(engine, clock, chance)
            database.migrate()
        except DatabaseError as error:
            reason = str(error.orig).strip().splitlines()[0]
            found = f"the feedback store {shown(str(where))} cannot be opened: {reason}"
            raise StorageError(found, "", "is the path or the server right?") from error
        except CommandError as error:
            found = f"the feedback store {shown(str(where))} was written by a newer Handrail"
            raise StorageError(found, "one of this version or older", "bring this Handrail up to date") from error
        return database

    def migrate(self) -> None:
        """Bring the schema to the newest version; two processes that start at once do it one after the other."""
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        with self.write() as connection:
            if not self.sqlite:
                connection.execute(text("select pg_advisory_xact_lock(704)"))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database."""
        with self.engine.connect() as connection, connection.begin():
            if self.sqlite:
                connection.exec_driver_sql("BEGIN")
            else:
                connection.execute(text("set transaction isolation level repeatable read read only"))
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that is on disk when the block ends, or not there at all.  Raises Busy."""
        if not self.sqlite:
            with self.engine.begin() as connection:
                yield connection
            return
        if not self._one_writer.acquire(timeout=BUSY):
            raise Busy("the database is busy", "one who writes at a time", "try again")
        try:
            with self.engine.begin() as connection:
                connection.exec_driver_sql("BEGIN IMMEDIATE")  # it takes the lock at once, so that nothing has to be done again
                yield connection
        finally:
            self._one_writer.release()

    def tidy(self) -> None:
        """Leave no trace of what was overwritten, as far as nobody is reading; PostgreSQL does it by itself in time."""
        if self.sqlite:
            with suppress(sqlite3.OperationalError), closing(self.engine.raw_connection()) as raw:
                raw.driver_connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # type: ignore[union-attr]

    def lock_project(self, connection: Connection, project: int) -> None:
        """Until the transaction ends, nobody else makes a task in this project or takes a snapshot of it."""
        if not self.sqlite:
            connection.execute(text("select pg_advisory_xact_lock(706, :project)"), {"project": project})

    def lock_people(self, connection: Connection) -> None:
        """Until the transaction ends, nobody else is deleted, so that two admins who delete each other do not both go."""
        if not self.sqlite:
            connection.execute(text("select pg_advisory_xact_lock(707)"))

    def lock_task(self, connection: Connection, task: int) -> None:
        """Until the transaction ends, nobody else gives out or takes in labels of this task."""
        if not self.sqlite:  # an SQLite transaction that writes is alone anyway
            connection.execute(text("select pg_advisory_xact_lock(705, :task)"), {"task": task})

    def now(self) -> float:
        """Seconds since 1970."""
        return self.clock()

    def opaque(self) -> str:
        """An id that tells nothing: 128 random bits."""
        return base64.urlsafe_b64encode(self.chance.randbytes(16)).decode().rstrip("=")

    def close(self) -> None:
        self.engine.dispose()


def connect(where: str) -> Engine:
    """An engine.  Raises InputError for a URL of another kind, StorageError where no file can be made."""
    url = url_of(where)
    if url.get_backend_name() == "postgresql":
        return on_server(url)
    path = Path(str(url.database))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.touch(mode=0o600)
    except OSError as error:
        raise StorageError(f"{path}: cannot be made: {error.strerror}", "a place that can be written", "give another path") from error
    options: dict[str, Any] = {"connect_args": {"timeout": BUSY, "check_same_thread": False}}
    engine = create_engine(url, pool_size=20, max_overflow=40, hide_parameters=True, **options)
    event.listen(engine, "connect", prepare)
    return engine


def url_of(where: str) -> URL:
    """A path or URL as a URL of a database on disk or on a server.  Raises InputError for any other."""
    try:
        url = make_url(where) if "://" in where else URL.create("sqlite", database=where)
        kind = url.get_backend_name()
    except ArgumentError as error:
        raise InputError(f"{shown(where)} is no database", "a path, sqlite:///PATH or postgresql://USER@HOST/NAME") from error
    if kind not in ("sqlite", "postgresql"):
        raise InputError(f"a database of kind {kind}", "sqlite or postgresql")
    if kind == "sqlite" and (not url.database or url.database == ":memory:"):
        raise InputError("a database in memory", "one that is on disk", "give a path")
    return url


def on_server(url: URL, **options: Any) -> Engine:
    """An engine over PostgreSQL; `options` go to the driver.  Raises InputError without it."""
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        raise InputError("psycopg is not installed", "PostgreSQL needs it", "pip install 'handrail[postgres]'") from error
    url = url.set(drivername="postgresql+psycopg")
    return create_engine(url, pool_size=20, max_overflow=40, pool_pre_ping=True, hide_parameters=True, connect_args=options)


def prepare(raw: Any, _: Any) -> None:
    """Settings of each connection to SQLite."""
    raw.isolation_level = None  # transactions begin where `read` and `write` say
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
        raw.execute(f"PRAGMA {pragma}")


def file_of(where: str) -> Path | None:
    """The file of a store on SQLite; None for one on a server."""
    found = where.removeprefix("sqlite:///")
    return None if "://" in found else Path(found)


def without_password(url: str) -> str:
    """The URL of a store, with nothing in it that is secret."""
    found = make_url(url).difference_update_query(SECRETS)
    plain = URL.create(found.drivername, found.username, None, found.host, found.port, found.database, found.query)
    return plain.render_as_string(hide_password=False)  # `set` takes no password away


def shown(where: str) -> str:
    """A database without its password."""
    try:
        return make_url(where).difference_update_query(SECRETS).render_as_string(hide_password=True) if "://" in where else where
    except ArgumentError:
        return "the given URL"
