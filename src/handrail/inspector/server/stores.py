"""Which feedback stores are looked at: the one that was named, or those that belong to the runs."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from handrail.errors import DataError, HandrailError
from handrail.feedback import provenance
from handrail.feedback.store.database import file_of, shown, without_password
from handrail.feedback.store.looking import Looked, look
from handrail.inspector.origins import Origin, files_at, leaves, path_of
from handrail.inspector.server.runs import Runs

FILE = "feedback.db"  # what a store is called unless somebody calls it otherwise
NOTE = ".snapshot.json"
LASTS = 3.0  # seconds until it is searched anew
UNOPENED = "It is named by a run, and no file: by itself the inspector opens files alone. `handrail inspect --db` opens it."


@dataclass(frozen=True)
class Store:
    """A store; `name` is what pages call it, `where` may hold a password and is shown nowhere.  One that cannot be read has a
    `problem` in place of `db`."""

    name: str
    where: str
    db: Looked | None = None
    problem: str = ""


class Stores:
    """The stores of the runs below a folder, those that come while the pages are open too; of a store that was `named`, that alone.

    Files called feedback.db below the folder or in the working folder, and what the notes of labels name that runs have learnt
    from.  Raises what `look` raises for the one that was named.
    """

    def __init__(self, runs: Runs, named: str = ""):
        self.runs = runs
        self._named = Store(shown(named), named, look(named)) if named else None
        self._known: dict[str, Store] = {}
        self._found, self._until = list[Store](), 0.0

    def all(self) -> list[Store]:
        """Every store, by its name."""
        if self._named:
            return [self._named]
        if time.monotonic() > self._until:
            self._found = sorted(self._search(), key=lambda store: store.name)
            self._until = time.monotonic() + LASTS
        return self._found

    def find(self, name: str) -> Store | None:
        """The store of that name, None where none of these has it."""
        return next((store for store in self.all() if store.name == name), None)

    def at(self, where: str) -> Store | None:
        """The store that a note means by `where`."""
        return next((store for store in self.all() if meant(store.where) == meant(where)), None)

    def _search(self) -> Iterator[Store]:
        noted = dict.fromkeys(where for note in self._notes() if (where := store_in(note)))
        files = [Path(FILE), *(folder / FILE for folder, files in self.runs.walk() if FILE in files)]
        files += [path for where in noted if not where.startswith("$") and (path := file_of(where)) is not None]
        yield from (self._file(path) for path in dict.fromkeys(path.resolve() for path in files) if path.is_file())
        yield from (Store(shown(where), where, problem=UNOPENED) for where in noted if where.startswith("$") or file_of(where) is None)

    def _notes(self) -> list[Path]:
        """The notes that stand among the runs, and those beside files that runs have read."""
        notes = {folder / name for folder, files in self.runs.walk() for name in files if name.endswith(NOTE)}
        for entry in self.runs.all():
            files = (file for _, value in leaves(entry.config) for file in files_at(path_of(value)))
            notes |= {note.resolve() for file in files if (note := provenance.beside(file)).is_file()}
        return sorted(notes)

    def _file(self, path: Path) -> Store:
        """The store in a file; looked at again while there is something wrong with it."""
        where, root = str(path), self.runs.root
        known = self._known.get(where)
        if known is None or known.db is None:
            name = path.relative_to(root).as_posix() if path.is_relative_to(root) else where
            try:
                known = Store(name, where, look(where))
            except HandrailError as error:
                known = Store(name, where, problem=". ".join(part for part in (error.found, error.remedy) if part))
            self._known[where] = known
        return known


def store_in(note: Path) -> str:
    """The store that a note names; "" where it names none, or is damaged: the page of the run that reads it says so."""
    try:
        found = provenance.note_of(note.with_name(note.name.removesuffix(NOTE)))
    except DataError:
        return ""
    return provenance.store_of(found, note.parent) if found else ""


def may_keep(store: Store, origin: Origin) -> bool:
    """Whether a file's labels are this store's: their ids alone do not tell, those of simulated labellers are alike in every round.

    Of a file that nothing is known of they have to tell.
    """
    return not origin.store or meant(origin.store) == meant(store.where)


def meant(where: str) -> str:
    """One way of writing each path or URL."""
    where = os.environ.get(where[1:], where) if where.startswith("$") else where
    path = file_of(where)
    return str(path.resolve()) if path is not None else without_password(where)
