"""Records to files."""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from handrail.errors import DataError, StorageError
from handrail.records import Demonstration, Pair, Prompt, Ranking, Rating, Response


def write_records(path: str | Path, records: Iterable[Prompt | Demonstration | Response | Pair | Ranking | Rating]) -> None:
    """One JSON record a line, whole or not at all: a temporary file beside `path`, on disk, then renamed.

    Raises DataError for text that UTF-8 cannot hold, StorageError when the disk refuses.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror or error}") from error
    try:
        with open(handle, "wb") as stream:
            for number, record in enumerate(records, start=1):
                stream.write(_line(record.to_json(), f"{path}, record {number}"))
            stream.flush()
            os.fchmod(stream.fileno(), 0o666 & ~_umask())
            os.fsync(stream.fileno())
        os.replace(name, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        Path(name).unlink(missing_ok=True)


def _line(record: str, where: str) -> bytes:
    try:
        return record.encode("utf-8") + b"\n"
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: a lone surrogate, {error.object[error.start]!a}", "whole characters", "correct the text") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
