"""One step's file of responses: single columns of it, and single rows of it."""

from collections import OrderedDict
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet as parquet

NUMBERS = ("score", "kl_sum", "length", "advantage_mean")  # of a whole response: what rows are sorted by
OF_TOKENS = {"kl_sum": "kl", "length": "tokens", "advantage_mean": "advantage"}  # what an older trace has them from
ROOM = 192 * 2**20  # bytes of columns that are kept in memory


class Kept:
    """Columns of row groups that were read last, as long as there is room."""

    def __init__(self) -> None:
        self._found: OrderedDict[tuple[str, int, int, str], pyarrow.Array] = OrderedDict()
        self._bytes, self._lock = 0, Lock()

    def get(self, key: tuple[str, int, int, str]) -> pyarrow.Array | None:
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
            return self._found.get(key)

    def put(self, key: tuple[str, int, int, str], values: pyarrow.Array) -> None:
        with self._lock:
            if key not in self._found:
                self._found[key] = values
                self._bytes += values.nbytes
            while self._bytes > ROOM and len(self._found) > 1:
                self._bytes -= self._found.popitem(last=False)[1].nbytes


KEPT = Kept()


def column(path: Path, name: str) -> pyarrow.Array:
    """A whole column; nulls where the file has none of this name."""
    with parquet.ParquetFile(path, memory_map=True) as file:
        table = file.read([name], use_threads=False)
        return whole(table[name]) if table.num_columns else pyarrow.nulls(file.metadata.num_rows, pyarrow.string())


def whole(chunked: pyarrow.ChunkedArray) -> pyarrow.Array:
    found = chunked.combine_chunks()
    return found if isinstance(found, pyarrow.Array) else found.chunk(0)


def numbers(path: Path) -> dict[str, np.ndarray]:
    """[rows] float32 of each of NUMBERS; where a file has only what stands at the tokens it is taken from there."""
    found: dict[str, np.ndarray] = {}
    with parquet.ParquetFile(path, memory_map=True) as file:  # columns that are not there are not read, without an error
        table = file.read(list(NUMBERS), use_threads=False)
        older = file.read([OF_TOKENS[name] for name in OF_TOKENS if name not in table.column_names], use_threads=False)
        for name in NUMBERS:
            if name in table.column_names:
                found[name] = plain(whole(table[name]))
            elif OF_TOKENS.get(name) in older.column_names:
                found[name] = of_lists(name, whole(older[OF_TOKENS[name]]))
            else:
                found[name] = np.full(file.metadata.num_rows, np.nan, np.float32)
    return found


def plain(values: pyarrow.Array) -> np.ndarray:
    return values.cast(pyarrow.float32()).fill_null(float("nan")).to_numpy(zero_copy_only=False)


def of_lists(name: str, lists: pyarrow.Array) -> np.ndarray:
    """Length, sum or mean of each row's list."""
    lengths = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.float32)
    if name == "length":
        return lengths
    flat = plain(lists.flatten())
    ends = np.cumsum(lengths.astype(np.int64))
    total = np.concatenate([[0.0], np.nancumsum(flat, dtype=np.float64)])
    sums = (total[ends] - total[ends - lengths.astype(np.int64)]).astype(np.float32)
    return sums if name == "kl_sum" else np.divide(sums, lengths, out=np.full_like(sums, np.nan), where=lengths > 0)


def groups(path: Path, wanted: list[str] | None, rows: list[int]) -> list[dict[str, Any]]:
    """The values of some columns, or of all, in some rows: of those columns that the file has, and only the row groups in which
    the rows stand are read.  Raises IndexError where there is no such row, OSError where there is no such file."""
    stamp = path.stat().st_mtime_ns
    with parquet.ParquetFile(path, memory_map=True) as file:
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        firsts = np.concatenate([[0], np.cumsum(sizes)])
        wanted = list(file.schema_arrow.names) if wanted is None else wanted
        found: list[dict[str, Any]] = []
        for row in rows:
            group = int(np.searchsorted(firsts, row, side="right")) - 1
            if not 0 <= group < len(sizes):
                raise IndexError(f"row {row} of {int(firsts[-1])}")
            columns = {name: KEPT.get((str(path), stamp, group, name)) for name in wanted}
            if missing := [name for name, values in columns.items() if values is None]:
                table = file.read_row_group(group, missing, use_threads=False)  # what is not there is not read, without an error
                for name in table.column_names:
                    columns[name] = whole(table[name])
                    KEPT.put((str(path), stamp, group, name), columns[name])
            place = row - int(firsts[group])
            found.append({name: values[place].as_py() for name, values in columns.items() if values is not None})
    return found


def row(path: Path, number: int) -> dict[str, Any]:
    """All columns of one row.  Raises IndexError where there is no such row, OSError where there is no such file."""
    return groups(path, None, [number])[0]
