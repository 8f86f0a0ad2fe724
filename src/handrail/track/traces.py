"""Token traces: the sampled responses of a step, a Parquet file a step, a row a response."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handrail.track.storage import storing, sync_folder

if TYPE_CHECKING:
    import pyarrow

GROUP = 128  # rows that are read together, so that one response of a large batch costs little
_NAME = re.compile(r"^step-(\d{6,})\.parquet$")


def write_trace(folder: Path, step: int, columns: dict[str, list[Any]]) -> Path:
    """The rows of `step`: each column one value a response, per-token columns lists.  Raises StorageError.

    Numbers in lists are kept in 32 bits, as the tensors have them that they come from.
    """
    import pyarrow
    import pyarrow.parquet

    path = folder / f"step-{step:06d}.parquet"
    temporary = folder / f".tmp-{path.name}"
    table = pyarrow.table(columns)
    table = table.cast(pyarrow.schema([(field.name, narrow(field.type, inside=False)) for field in table.schema]))
    with storing(path):
        folder.mkdir(exist_ok=True)
        try:
            with temporary.open("wb") as stream:
                pyarrow.parquet.write_table(table, stream, compression="zstd", row_group_size=GROUP)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(folder)
    return path


def narrow(kind: "pyarrow.DataType", inside: bool) -> "pyarrow.DataType":
    """The type with 32 bits for each number within a list."""
    import pyarrow

    if pyarrow.types.is_list(kind):
        return pyarrow.list_(narrow(kind.value_type, inside=True))
    return {pyarrow.float64(): pyarrow.float32(), pyarrow.int64(): pyarrow.int32()}.get(kind, kind) if inside else kind


def trace_steps(folder: Path) -> list[int]:
    """The steps that have a trace, in order."""
    if not folder.is_dir():
        return []
    found = (_NAME.match(path.name) for path in folder.iterdir())
    return sorted(int(match[1]) for match in found if match)


def read_trace(folder: Path, step: int, columns: Sequence[str] | None = None) -> "pyarrow.Table":
    """The trace of `step`, all of it or those of the `columns` that it has.  Raises FileNotFoundError."""
    import pyarrow.parquet

    path = folder / f"step-{step:06d}.parquet"
    if columns is not None:
        there = pyarrow.parquet.read_schema(path).names
        columns = [name for name in columns if name in there]
    return pyarrow.parquet.read_table(path, columns=columns)


def cut_traces(folder: Path, step: int) -> None:
    """Remove the traces of `step` and later, and what was not written to its end."""
    with storing(folder):
        for later in trace_steps(folder):
            if later >= step:
                (folder / f"step-{later:06d}.parquet").unlink()
        for temporary in folder.glob(".tmp-*"):
            temporary.unlink()
