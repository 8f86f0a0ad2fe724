"""The sampled responses of a run: a row each over all its traced steps, read by column and by range.

Row numbers count over the steps in order.  What rows are sorted and chosen by is read once and kept, a few bytes a row, for
a moment at each question: a long run shows what has been read so far and goes on.  The texts of what is on the screen are
read when they are.
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
KEPT = 24  # searches and orders of rows that are remembered, 1 and 4 bytes a row each
Read = Callable[[Path], Any]


class Gathered:
    """What is read of one file after the other; `found` has an entry a step, for as many steps as were reached."""

    def __init__(self, read: Read):
        self.read, self.found = read, list[Any]()

    def go_on(self, paths: list[Path], until: float) -> None:
        """Read further steps until that time, and of one group at least."""
        with ThreadPoolExecutor(READERS) as readers:
            while len(self.found) < len(paths):
                self.found += readers.map(self.read, paths[len(self.found) : len(self.found) + 2 * READERS])
                if time.monotonic() > until:
                    return


class Rows:
    """All rows of one run's traces.  `refresh` sees what has come since."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.steps: list[int] = []
        self.starts = np.zeros(1, dtype=np.int64)  # of each step the number of its first row, and how many there are in all
        self._stamps: list[int] = []
        self._codes: dict[str, int] = {}
        self._gathered: OrderedDict[str, Gathered] = OrderedDict()
        self._orders: OrderedDict[tuple, np.ndarray] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return int(self.starts[-1])

    def path(self, step: int) -> Path:
        """The file of a step."""
        return self.folder / f"step-{step:06d}.parquet"

    def refresh(self) -> None:
        """See which steps there are now.  A step that was done again is read anew, with all that come after it."""
        with self._lock:
            steps = trace_steps(self.folder)
            kept = 0
            while kept < min(len(steps), len(self.steps)) and steps[kept] == self.steps[kept] and self._same(kept):
                kept += 1
            if kept == len(steps) == len(self.steps):
                return
            paths = [self.path(step) for step in steps[kept:]]
            with ThreadPoolExecutor(READERS) as readers:
                fresh = list(readers.map(lambda path: parquet.read_metadata(path).num_rows, paths))
            self.steps = steps
            self._stamps = self._stamps[:kept] + [path.stat().st_mtime_ns for path in paths]
            self.starts = np.concatenate([[0], np.cumsum(np.diff(self.starts[: kept + 1]).tolist() + fresh)]).astype(np.int64)
            for gathered in self._gathered.values():
                del gathered.found[kept:]
            self._orders.clear()

    def _same(self, place: int) -> bool:
        # A few of the newest are enough: a step is written anew only when the run goes on from before it.
        return place < len(self.steps) - 3 or self.path(self.steps[place]).stat().st_mtime_ns == self._stamps[place]

    def place(self, row: int) -> tuple[int, int]:
        """(which step, which row in it) of a row's number."""
        at = int(np.searchsorted(self.starts, row, side="right")) - 1
        return at, row - int(self.starts[at])

    def order(self, by: str, falling: bool, words: str, prompt: int | None, seconds: float = SLICE) -> tuple[np.ndarray, float]:
        """Row numbers as they are shown, and the share of the steps that was read for it so far.

        `words` must stand in the text; `prompt` keeps the rows that answer the prompt of that row.
        """
        with self._lock:
            wanted: dict[str, Gathered] = {}
            if by in NUMBERS:
                wanted["numbers"] = self._of("numbers", numbers)
            if words:
                wanted["words"] = self._of(f"words:{words}", partial(having, words))
            if prompt is not None:
                wanted["prompts"] = self._of("prompts", self._coded)
            paths, until = [self.path(step) for step in self.steps], time.monotonic() + seconds
            for gathered in wanted.values():
                gathered.go_on(paths, until)
            reached = min([len(paths), *(len(gathered.found) for gathered in wanted.values())])
            key = (by, falling, words, prompt, reached)
            if key not in self._orders:
                parts = {name: gathered.found[:reached] for name, gathered in wanted.items()}
                self._orders[key] = self._ordered(by, falling, prompt, reached, parts)
            self._orders.move_to_end(key)
            while len(self._orders) > KEPT:
                self._orders.popitem(last=False)
            return self._orders[key], reached / max(1, len(paths))

    def _of(self, name: str, read: Read) -> Gathered:
        found = self._gathered.setdefault(name, Gathered(read))
        self._gathered.move_to_end(name)
        while len(self._gathered) > KEPT:
            self._gathered.popitem(last=False)
        return found

    def _coded(self, path: Path) -> np.ndarray:
        """[rows] a number for each prompt, the same for rows that answer the same."""
        ids = column(path, "prompt_id").dictionary_encode()
        codes = np.array([self._codes.setdefault(str(one), len(self._codes)) for one in [*ids.dictionary.to_pylist(), None]], np.int32)
        return codes[ids.indices.fill_null(-1).to_numpy(zero_copy_only=False)]

    def _ordered(self, by: str, falling: bool, prompt: int | None, reached: int, parts: dict[str, list[Any]]) -> np.ndarray:
        kept = np.arange(int(self.starts[reached]), dtype=np.int32)
        if "words" in parts:
            kept = kept[np.concatenate([*parts["words"], np.zeros(0, bool)])]
        if prompt is not None and 0 <= prompt < len(self):
            at, inside = self.place(prompt)
            mine = self._coded(self.path(self.steps[at]))[inside]
            kept = kept[np.concatenate([*parts["prompts"], np.zeros(0, np.int32)])[kept] == mine]
        if by in NUMBERS:
            values = np.concatenate([*(part[by] for part in parts["numbers"]), np.zeros(0, np.float32)])[kept]
            values = np.where(np.isnan(values), np.inf, -values if falling else values)  # what has none comes last either way
            return kept[np.argsort(values, kind="stable")]
        return kept[::-1] if falling else kept

    def window(self, order: np.ndarray, start: int, count: int) -> list[dict[str, Any]]:
        """`count` rows of the table from `start`: where they stand, their texts and numbers."""
        wanted = order[start : start + count].tolist()
        by_step: dict[int, list[int]] = {}
        for row in wanted:
            by_step.setdefault(self.place(row)[0], []).append(row)
        found: dict[int, dict[str, Any]] = {}
        named = ["prompt", "response", "ended", "gold", *NUMBERS]

        def read(at: int) -> list[dict[str, Any]]:
            return groups(self.path(self.steps[at]), named, [row - int(self.starts[at]) for row in by_step[at]])

        with ThreadPoolExecutor(READERS) as readers:
            for (at, rows), values in zip(by_step.items(), readers.map(read, by_step), strict=True):
                for row, one in zip(rows, values, strict=True):
                    found[row] = {"row": row, "step": self.steps[at], "in_step": row - int(self.starts[at]), **one}
        return [found[row] for row in wanted]


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
