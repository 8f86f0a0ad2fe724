"""The sampled responses of a run: a row each over all its traced steps, read by column and by range.

A row is named by one number, its step and its place in it (`name_of`), which stays the same while the run goes on.  What rows
are sorted and chosen by is read once and kept, a few bytes a row, for a moment at each question: a long run shows what has
been read so far and goes on.  The texts of what is on the screen are read when they are.
"""

import re
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as parquet

from handrail.inspector.server.traces import NUMBERS, column, groups, numbers
from handrail.track.traces import trace_steps

SLICE = 0.4  # seconds that a question reads for before what has been found so far is shown
READERS = 4  # files at once: reading and unpacking lets go of Python's own lock
KEPT = 24  # searches and orders of rows that are remembered, 1 and 8 bytes a row each
NEWEST = 3  # steps whose files are looked at again: a run that goes on from a checkpoint writes these anew
PLACES = 2**20  # rows that a step may have
Read = Callable[[Path], Any]


def name_of(step: int, place: int) -> int:
    """The number that names a row."""
    return step * PLACES + place


class Gathered:
    """What is read of one file after the other: `found` has an entry a step that was reached."""

    def __init__(self, read: Read):
        self.read, self.found = read, dict[int, Any]()

    def go_on(self, files: dict[int, Path], until: float) -> None:
        """Read further steps, in the order of `files`, until that time, and some at least."""
        left = [step for step in files if step not in self.found]
        if not left:
            return
        with ThreadPoolExecutor(READERS) as readers:
            for start in range(0, len(left), 2 * READERS):
                some = left[start : start + 2 * READERS]
                self.found |= zip(some, readers.map(self.read, [files[step] for step in some]), strict=True)
                if time.monotonic() > until:
                    return


class Rows:
    """All rows of one run's traces.  `refresh` sees what has come since."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.steps: list[int] = []
        self._stamps: dict[int, int] = {}
        self._codes: dict[str, int] = {}
        self._gathered: OrderedDict[str, Gathered] = OrderedDict()
        self._orders: OrderedDict[tuple, np.ndarray] = OrderedDict()
        self._lock = Lock()

    def path(self, step: int) -> Path:
        """The file of a step."""
        return self.folder / f"step-{step:06d}.parquet"

    def refresh(self) -> None:
        """See which steps there are now, and forget what was read of those that are gone or were done again."""
        with self._lock:
            steps = trace_steps(self.folder)
            stamps = {step: self.path(step).stat().st_mtime_ns for step in {*self.steps[-NEWEST:], *steps[-NEWEST:]} & {*steps}}
            stale = {*self.steps} - {*steps} | {step for step, stamp in stamps.items() if self._stamps.get(step, stamp) != stamp}
            if stale or steps != self.steps:
                self.steps, self._stamps = steps, stamps
                self._orders.clear()
            for gathered in self._gathered.values():
                for step in stale & gathered.found.keys():
                    del gathered.found[step]

    def place(self, row: int) -> tuple[int, int, int]:
        """(step, place in it, rows in it) of a row's number; beyond the last of a step is the last.  Raises IndexError."""
        step, place = divmod(row, PLACES)
        if step not in self.steps:
            raise IndexError(f"step {step} has no trace")
        count = parquet.read_metadata(self.path(step)).num_rows
        return step, max(0, min(place, count - 1)), count

    def around(self, step: int, place: int, count: int) -> tuple[int | None, int | None]:
        """The rows before and after one, in the order of the steps."""
        at = self.steps.index(step)
        before = name_of(step, place - 1) if place else name_of(self.steps[at - 1], PLACES - 1) if at else None
        after = name_of(step, place + 1) if place + 1 < count else name_of(self.steps[at + 1], 0) if at + 1 < len(self.steps) else None
        return before, after

    def order(self, by: str, falling: bool, words: str, prompt: int | None, seconds: float = SLICE) -> tuple[np.ndarray, float]:
        """Rows in the order in which they are shown, and the share of the steps that was read for it so far.

        `words` must stand in the text; `prompt` keeps the rows that answer the prompt of that row.  Raises IndexError.
        """
        mine = None if prompt is None else self._prompt(prompt)
        with self._lock:
            wanted = {"count": self._of("count", lambda path: parquet.read_metadata(path).num_rows)}
            if by in NUMBERS:
                wanted = {"numbers": self._of("numbers", numbers)}
            if words:
                wanted["words"] = self._of(f"words:{words}", partial(having, words))
            if mine is not None:
                wanted["prompts"] = self._of("prompts", self._coded)
            files = {step: self.path(step) for step in (self.steps[::-1] if falling else self.steps)}
            until = time.monotonic() + seconds
            for gathered in wanted.values():
                gathered.go_on(files, until)
            reached = [step for step in files if all(step in gathered.found for gathered in wanted.values())]
            key = (by, falling, words, mine, len(reached))
            if key not in self._orders:
                parts = {name: [gathered.found[step] for step in reached] for name, gathered in wanted.items()}
                self._orders[key] = ordered(by, falling, reached, parts, mine)
            self._orders.move_to_end(key)
            while len(self._orders) > KEPT:
                self._orders.popitem(last=False)
            return self._orders[key], len(reached) / max(1, len(files))

    def _of(self, name: str, read: Read) -> Gathered:
        found = self._gathered.setdefault(name, Gathered(read))
        self._gathered.move_to_end(name)
        while len(self._gathered) > KEPT:
            self._gathered.popitem(last=False)
        return found

    def _prompt(self, row: int) -> int:
        """The number of the prompt that a row answers."""
        step, place, _ = self.place(row)
        return int(self._coded(self.path(step))[place])

    def _coded(self, path: Path) -> np.ndarray:
        """[rows] a number for each prompt, the same for rows that answer the same."""
        ids = column(path, "prompt_id").dictionary_encode()
        codes = np.array([self._codes.setdefault(str(one), len(self._codes)) for one in [*ids.dictionary.to_pylist(), None]], np.int32)
        return codes[ids.indices.fill_null(-1).to_numpy(zero_copy_only=False)]

    def window(self, order: np.ndarray, start: int, count: int) -> list[dict[str, Any]]:
        """`count` rows of the table from `start`: where they stand, their responses and numbers."""
        wanted = order[start : start + count].tolist()
        by_step: dict[int, list[int]] = {}
        for row in wanted:
            by_step.setdefault(row // PLACES, []).append(row)
        found: dict[int, dict[str, Any]] = {}
        named = ["response", "gold", *NUMBERS]

        def read(step: int) -> list[dict[str, Any]]:
            return groups(self.path(step), named, [row % PLACES for row in by_step[step]])

        with ThreadPoolExecutor(READERS) as readers:
            for (step, rows), values in zip(by_step.items(), readers.map(read, by_step), strict=True):
                for row, one in zip(rows, values, strict=True):
                    found[row] = {"row": row, "step": step, "in_step": row % PLACES, **one}
        return [found[row] for row in wanted]


def ordered(by: str, falling: bool, steps: list[int], parts: dict[str, list[Any]], mine: int | None) -> np.ndarray:
    """[rows] int64 the names of the rows that are wanted, in order; `parts` has what was read of each of the steps."""
    counts = [len(part["score"]) for part in parts["numbers"]] if "numbers" in parts else parts["count"]
    whole = [np.arange(count, dtype=np.int64) + name_of(step, 0) for step, count in zip(steps, counts, strict=True)]
    rows = np.concatenate([*(part[::-1] if falling else part for part in whole), np.zeros(0, np.int64)])

    def joined(name: str, kind: type, key: str = "") -> np.ndarray:
        each = [part[key] if key else part for part in parts[name]]
        return np.concatenate([*(part[::-1] if falling else part for part in each), np.zeros(0, kind)])

    kept = np.ones(len(rows), bool)
    if "words" in parts:
        kept &= joined("words", bool)
    if mine is not None:
        kept &= joined("prompts", np.int32) == mine
    if by not in NUMBERS:
        return rows[kept]
    values = joined("numbers", np.float32, by)[kept]
    values = np.where(np.isnan(values), np.inf, -values if falling else values)  # what has none comes last either way
    return rows[kept][np.argsort(values, kind="stable")]


def having(words: str, path: Path) -> np.ndarray:
    """[rows] bool: all the words stand in the response, whatever their case; "several words" in quotes stand as they are."""
    texts = column(path, "response")
    found = np.ones(len(texts), bool)
    for quoted, bare in re.findall(r'"([^"]+)"|(\S+)', words):
        found &= pc.match_substring(texts, quoted or bare, ignore_case=True).fill_null(False).to_numpy(zero_copy_only=False)
    return found


class Library:
    """The rows of the runs that were looked at last."""

    MOST = 6

    def __init__(self) -> None:
        self._kept: OrderedDict[Path, Rows] = OrderedDict()
        self._lock = Lock()

    def of(self, run: Path) -> Rows:
        """The rows of a run, as they are now."""
        with self._lock:
            rows = self._kept.setdefault(run, Rows(run / "tokens"))
            self._kept.move_to_end(run)
            if len(self._kept) > self.MOST:
                self._kept.popitem(last=False)
        rows.refresh()
        return rows
