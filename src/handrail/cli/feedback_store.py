"""What the verbs of `handrail feedback` share: the store, opened when the work begins."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from handrail.cli.frame import out
from handrail.errors import InputError

if TYPE_CHECKING:
    from handrail.feedback.store import Database

STORE = "feedback.db"
GIVE = "give --db PATH|URL"
Db = Annotated[str, typer.Option("--db", metavar="PATH|URL", help="The store: an SQLite file, or postgresql://USER@HOST/NAME.")]
Project = Annotated[str, typer.Option("--project", metavar="NAME", help="The project.", show_default=False)]


@contextmanager
def store(where: str, *, make: bool = False) -> Iterator["Database"]:
    """The store while the block lasts; without `make` it must be there.  Raises InputError, StorageError."""
    from handrail.feedback.store import Database
    from handrail.feedback.store.database import file_of

    where = meant(where)
    path = file_of(where)
    new = path is not None and not path.exists()
    if path is not None:
        check(path, make)
    db = Database.open(where)
    try:
        if new:
            out.print(Text(f"a new store: {path}", "dim"))
        yield db
    finally:
        db.close()


def meant(where: str) -> str:
    """A path or URL, which an environment variable may hold: $NAME, as a round's settings name it.  Raises InputError."""
    if not where.startswith("$"):
        return where
    if where[1:] not in os.environ:
        raise InputError(f"{where}: there is no such environment variable", "the one that holds the store's URL", GIVE)
    return os.environ[where[1:]]


def check(path: Path, make: bool) -> None:
    """Whether a store is there, or may be made there; nothing is made.  Raises InputError."""
    if path.is_dir():
        raise InputError(f"{path}: a folder", "the file of a store", f"give --db {path / STORE}")
    if not path.exists():
        if not make:
            raise InputError(f"{path}: there is no store", "one that `handrail feedback serve` or `import` has made", GIVE)
        if not path.parent.is_dir():
            raise InputError(f"{path}: there is no folder {path.parent}", "a folder that is there", f"{GIVE}, or make the folder first")
        return
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as raw:
            tables = {name for (name,) in raw.execute("select name from sqlite_master where type = 'table'")}
    except sqlite3.OperationalError:  # it is in use: opening it tells more
        return
    except sqlite3.DatabaseError as error:
        raise InputError(f"{path}: {error}", "the file of a store", GIVE) from error
    if tables and "alembic_version" not in tables:
        raise InputError(f"{path}: a database of another program, with the table {min(tables)}", "the file of a store", GIVE)


def read_bytes(path: Path) -> bytes:
    """A file.  Raises InputError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}", "a file that can be read") from error
