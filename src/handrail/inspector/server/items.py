"""The items of a project in a table: which fit what is asked for, in which order; texts are read for what is on the screen."""

import re
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal

import numpy as np

from handrail.feedback.store import browse as store
from handrail.feedback.store import projects, review
from handrail.feedback.store.looking import Looked
from handrail.inspector.server.said import said
from handrail.records import Record

By = Literal["at", "size", "labels"]
SHORT = 300  # characters of a prompt in a table
NONE = np.zeros(0, int)
TABLES, SEARCHES = 6, 24  # that are remembered
PIECE = re.compile(r'"([^"]+)"|(\S+)')


class Wanted(Record):
    """Which items, in which order; what is empty is not asked for."""

    by: By = "at"
    falling: bool = True
    task: str = ""
    kind: str = ""
    person: str = ""
    words: str = ""
    disputed: bool = False
    skipped: bool = False
    flagged: bool = False


@dataclass(frozen=True)
class Index:
    """All items of a project at one state of the store, N of them; numbers and times, no texts."""

    project: str
    made: float  # when the project was
    places: list[store.Place]
    row: dict[str, int]  # of each item
    kinds: dict[str, str]  # of each task
    task: np.ndarray
    labels: np.ndarray  # [N] answers, those of who settles left out
    skipped: np.ndarray  # [N] how many left it to others
    at: np.ndarray  # [N] when something was last done, NaN where nothing was
    flagged: np.ndarray  # [N] whether a flag stands
    settled: np.ndarray  # [N] whether somebody has settled it
    by: dict[str, np.ndarray]  # [n] the items that each person answered or skipped
    item_of: dict[str, int]  # of each label
    done: list[store.Done]


def index(db: Looked, project: str, made: float) -> Index:
    """Everything but texts of a project that was made then.  Raises InputError, StorageError."""
    places = store.places(db, project)
    row = {place.id: number for number, place in enumerate(places)}
    labels, skips, at, settled = [0] * len(places), [0] * len(places), [np.nan] * len(places), [False] * len(places)
    by: dict[str, list[int]] = {}
    item_of: dict[str, int] = {}
    done = [one for one in store.done(db, project) if one.item in row]  # another may have come in between the two questions
    for one in done:
        number = item_of[one.id] = row[one.item]
        at[number] = one.last if at[number] != at[number] else max(at[number], one.last)
        if one.purpose == "adjudication":
            settled[number] = settled[number] or one.state == "done"
            continue
        labels[number] += one.state == "done"
        skips[number] += one.state == "skipped"
        by.setdefault(one.person, []).append(number)
    flagged = np.zeros(len(places), bool)
    flagged[[row[flag.item] for flag in review.flags(db, project, judged=True) if flag.verdict != "dismiss" and flag.item in row]] = True
    return Index(
        project=project,
        made=made,
        places=places,
        row=row,
        kinds={task.name: task.settings.kind for task in projects.all_tasks(db, project)},
        task=np.array([place.task for place in places], object),
        labels=np.array(labels, int),
        skipped=np.array(skips, int),
        at=np.array(at, float),
        flagged=flagged,
        settled=np.array(settled, bool),
        by={name: np.array(rows) for name, rows in sorted(by.items())},
        item_of=item_of,
        done=done,
    )


def chosen(found: Index, wanted: Wanted, sizes: Mapping[str, float], among: Collection[int] | None = None) -> np.ndarray:
    """[n] the items that are wanted, in order; `sizes` say how far the answers to each are apart, `among` leaves the others out.

    What has no value to be sorted by comes last either way.
    """
    size = np.array([sizes.get(place.id, np.nan) for place in found.places], float)
    kept = np.ones(len(found.places), bool)
    if among is not None:
        kept &= np.isin(np.arange(len(kept)), [*among])
    if wanted.person:
        kept &= np.isin(np.arange(len(kept)), found.by.get(wanted.person, NONE))
    if wanted.task:
        kept &= found.task == wanted.task
    if wanted.kind:
        kept &= np.isin(found.task, [task for task, kind in found.kinds.items() if kind == wanted.kind])
    kept &= ((size > 0) | (not wanted.disputed)) & ((found.skipped > 0) | (not wanted.skipped)) & (found.flagged | (not wanted.flagged))
    values = {"at": found.at, "size": size, "labels": found.labels.astype(float)}[wanted.by][kept]
    values = np.where(np.isnan(values), np.inf, -values if wanted.falling else values)
    return np.flatnonzero(kept)[np.argsort(values, kind="stable")]


def having(db: Looked, project: str, words: str) -> set[str]:
    """The items in which all the words stand, whatever their case; "several words" in quotes stand as they are."""
    pieces = [(quoted or bare).lower() for quoted, bare in PIECE.findall(words)]
    return {item for item, text in store.texts(db, project) if all(piece in text for piece in pieces)}


class Items:
    """The tables that were looked at last, each as the store is now."""

    def __init__(self) -> None:
        self._tables: OrderedDict[Any, tuple[Any, Index]] = OrderedDict()
        self._words: OrderedDict[Any, set[str]] = OrderedDict()
        self._lock = Lock()

    def of(self, db: Looked, project: str) -> Index:
        """The table of a project.  Raises InputError, StorageError."""
        version = store.version(db, project)
        with self._lock:
            known = self._tables.get((db, project))
            if known is None or known[0] != version:
                known = version, index(db, project, version[0])
            keep(self._tables, (db, project), known, TABLES)
        return known[1]

    def rows(
        self, db: Looked, found: Index, wanted: Wanted, sizes: Mapping[str, float], labels: Collection[str] | None = None
    ) -> np.ndarray:
        """[n] rows of a table that are wanted, in order; of items that have one of these `labels` alone, where they are given."""
        among = None if labels is None else {found.item_of[label] for label in labels if label in found.item_of}
        if wanted.words:
            key = (db, found.project, found.made, len(found.places), wanted.words)
            with self._lock:
                having_them = self._words.get(key)
                if having_them is None:
                    having_them = having(db, found.project, wanted.words)
                keep(self._words, key, having_them, SEARCHES)
            rows = {found.row[item] for item in having_them if item in found.row}
            among = rows if among is None else among & rows
        return chosen(found, wanted, sizes, among)


def window(db: Looked, found: Index, rows: np.ndarray, sizes: Mapping[str, float]) -> list[dict[str, Any]]:
    """Some rows of a table, with the beginning of what each item asks."""
    mine = [found.places[row] for row in rows.tolist()]
    contents = review.contents(db, [place.id for place in mine])
    return [
        {
            "id": place.id,
            "number": place.position + 1,
            "task": place.task,
            "kind": found.kinds[place.task],
            "purpose": place.purpose,
            "labels": int(found.labels[row]),
            "skipped": int(found.skipped[row]),
            "flagged": bool(found.flagged[row]),
            "settled": bool(found.settled[row]),
            "size": sizes.get(place.id),
            "at": float(found.at[row]),
            "prompt": said(contents[place.id][1].prompt.messages[-1].content, SHORT),
        }
        for row, place in zip(rows.tolist(), mine, strict=True)
    ]


def keep(kept: OrderedDict, key: Any, value: Any, most: int) -> None:
    """Remember it as the newest; the oldest is forgotten where there are too many."""
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > most:
        kept.popitem(last=False)
