"""The sampled responses of a run: a row each over all its traced steps, read by column and by range.

Row numbers count over the steps in order.  What a table is sorted by is read once and kept, a few bytes a row; the texts of
what is on the screen are read when they are.
"""

import re
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute as pc
import pyarrow.parquet as parquet

from handrail.inspector.server.traces import NUMBERS, column, groups, numbers
from handrail.track.traces import trace_steps

SLICE = 0.35  # seconds that a search through texts takes before what it has found so far is shown
KEPT = 24  # orders of rows that are remembered: 4 bytes a row each


@dataclass
class Search:
    """A search through the texts that has come as far as `done` steps; `found` says of each row whether it has the words."""

    words: str
    done: int = 0
    found: list[np.ndarray] = field(default_factory=list)


class Rows:
    """All rows of one run's traces.  `refresh` sees what has come since."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.steps: list[int] = []
        self.starts = np.zeros(1, dtype=np.int64)  # of each step the number of its first row, and how many there are in all
        self._stamps: list[int] = []
        self._numbers: list[dict[str, np.ndarray]] = []
        self._prompts: list[np.ndarray] = []
        self._codes: dict[str, int] = {}
        self._orders: OrderedDict[tuple, np.ndarray] = OrderedDict()
        self._searches: OrderedDict[str, Search] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return int(self.starts[-1])

    def path(self, step: int) -> Path:
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
            self.steps, self._stamps = steps[:kept], self._stamps[:kept]
            counts = np.diff(self.starts[: kept + 1]).tolist()
            for step in steps[kept:]:
                path = self.path(step)
                counts.append(parquet.read_metadata(path).num_rows)
                self._stamps.append(path.stat().st_mtime_ns)
                self.steps.append(step)
            self.starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)
            self._numbers, self._prompts = self._numbers[:kept], self._prompts[:kept]
            self._orders.clear()
            self._searches.clear()

    def _same(self, place: int) -> bool:
        # A few of the newest are enough: a step is written anew only when the run goes on from before it.
        return place < len(self.steps) - 3 or self.path(self.steps[place]).stat().st_mtime_ns == self._stamps[place]

    def place(self, row: int) -> tuple[int, int]:
        """(which step, which row in it) of a row's number."""
        at = int(np.searchsorted(self.starts, row, side="right")) - 1
        return at, row - int(self.starts[at])

    def numbers(self) -> dict[str, np.ndarray]:
        """[rows] of each number that rows are sorted by; NaN where a trace has none."""
        with self._lock:
            for step in self.steps[len(self._numbers) :]:
                self._numbers.append(numbers(self.path(step)))
            parts = self._numbers
        return {name: np.concatenate([part[name] for part in parts]) if parts else np.zeros(0, np.float32) for name in NUMBERS}

    def prompts(self) -> np.ndarray:
        """[rows] a number for each prompt, the same for rows that answer the same."""
        with self._lock:
            for step in self.steps[len(self._prompts) :]:
                ids = column(self.path(step), "prompt_id")
                coded = pyarrow.array(ids).dictionary_encode() if not isinstance(ids, pyarrow.Array) else ids.dictionary_encode()
                codes = np.array([self._codes.setdefault(str(one), len(self._codes)) for one in coded.dictionary.to_pylist()], np.int32)
                self._prompts.append(codes[coded.indices.to_numpy(zero_copy_only=False)])
        return np.concatenate(self._prompts) if self._prompts else np.zeros(0, np.int32)

    def order(self, by: str, falling: bool, words: str, prompt: int | None) -> tuple[np.ndarray, float]:
        """Row numbers as they are shown, and the share of the texts that has been searched for `words` so far.

        `prompt` keeps the rows that answer the prompt of that row.
        """
        search = self._search(words) if words else None
        share = 1.0 if search is None else search.done / max(1, len(self.steps))
        key = (by, falling, words, prompt, search.done if search else 0, len(self))
        with self._lock:
            if key in self._orders:
                self._orders.move_to_end(key)
                return self._orders[key], share
        kept = np.arange(len(self), dtype=np.int32)
        if search is not None:
            found = np.concatenate([*search.found, np.zeros(0, bool)])
            kept = kept[: len(found)][found]
        if prompt is not None and 0 <= prompt < len(self):
            codes = self.prompts()
            kept = kept[codes[kept] == codes[prompt]]
        if by in NUMBERS:
            values = self.numbers()[by][kept]
            values = np.where(np.isnan(values), np.inf, -values if falling else values)  # what has none comes last either way
            kept = kept[np.argsort(values, kind="stable")]
        elif falling:
            kept = kept[::-1]
        with self._lock:
            self._orders[key] = kept
            if len(self._orders) > KEPT:
                self._orders.popitem(last=False)
        return kept, share

    def _search(self, words: str) -> Search:
        """The search for these words, a little further than before."""
        with self._lock:
            search = self._searches.setdefault(words, Search(words))
            self._searches.move_to_end(words)
            if len(self._searches) > KEPT:
                self._searches.popitem(last=False)
            until = time.monotonic() + SLICE
            while search.done < len(self.steps) and time.monotonic() < until:
                path = self.path(self.steps[search.done])
                texts = column(path, "response")
                search.found.append(has(texts, words))
                search.done += 1
        return search

    def window(self, order: np.ndarray, start: int, count: int) -> list[dict[str, Any]]:
        """`count` rows of the table from `start`: where they stand, their texts and numbers."""
        wanted = order[start : start + count].tolist()
        by_step: dict[int, list[int]] = {}
        for row in wanted:
            by_step.setdefault(self.place(row)[0], []).append(row)
        found: dict[int, dict[str, Any]] = {}
        for at, rows in by_step.items():
            first, path = int(self.starts[at]), self.path(self.steps[at])
            named = ["prompt", "response", *(name for name in ("ended", "gold", *NUMBERS))]
            inside = [row - first for row in rows]
            plain = groups(path, named, inside)
            for row, values in zip(rows, plain, strict=True):
                found[row] = {"row": row, "step": self.steps[at], "in_step": row - first, **values}
        return [found[row] for row in wanted]


def has(texts: pyarrow.Array, words: str) -> np.ndarray:
    """[rows] bool: all the words stand in the text, whatever their case; "several words" in quotes stand as they are."""
    parts = [a or b for a, b in re.findall(r'"([^"]+)"|(\S+)', words)]
    found = np.ones(len(texts), bool)
    for part in parts:
        found &= pc.match_substring(texts, part, ignore_case=True).fill_null(False).to_numpy(zero_copy_only=False)
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
