"""What the verbs of `handrail feedback` share: the store, opened when the work begins."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from handrail.errors import InputError

if TYPE_CHECKING:
    from handrail.feedback.store import Database

STORE = "feedback.db"
Db = Annotated[str, typer.Option("--db", metavar="PATH|URL", help="The store: an SQLite file, or postgresql://USER@HOST/NAME.")]
Project = Annotated[str, typer.Option("--project", metavar="NAME", help="The project.", show_default=False)]


@contextmanager
def store(where: str, *, make: bool = False) -> Iterator["Database"]:
    """The store while the block lasts; without `make` it must be there.  Raises InputError, StorageError."""
    if not make and "://" not in where and not Path(where).exists():
        raise InputError(f"{where}: there is no store", "one that `handrail feedback serve` or `import` has made", "give --db PATH|URL")
    from handrail.feedback.store import Database

    db = Database.open(where)
    try:
        yield db
    finally:
        db.close()


def read_bytes(path: Path) -> bytes:
    """A file.  Raises InputError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}", "a file that can be read") from error
