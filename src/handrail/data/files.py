"""Rows from files, folders, globs and hub datasets, each with the place where it stands."""

import difflib
import glob
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from handrail.config import is_local
from handrail.data import sheets, strict
from handrail.data.settings import Source
from handrail.errors import DataError

_SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".txt", ".jsonl.gz", ".json.gz", ".csv.gz", ".txt.gz")
_READABLE = "a file ending in " + ", ".join(_SUFFIXES)


@dataclass(frozen=True, slots=True)
class Row:
    """One record as it stands in its file."""

    where: str  # "comparisons.jsonl, line 7"
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rows:
    """All rows of a source, read as they are asked for, and the SHA-256 of the content."""

    name: str
    sha256: str
    stream: Iterator[Row]


def open_rows(source: Source) -> Rows:
    """The rows of `source`.  Raises DataError if there is nothing to read; faults inside are raised on the way."""
    path = Path(source.path).expanduser()
    try:
        if source.path.startswith("hub:"):
            return _hub_rows(source.path.removeprefix("hub:"), source)
        if any((path / name).is_file() for name in ("dataset_info.json", "dataset_dict.json")):
            return _saved_dataset_rows(path, source)
        if not path.exists() and _is_hub_name(source.path):
            return _hub_rows(source.path, source)
        files = _files(path, source)
        return Rows(source.path, _digest(files), (row for file in files for row in _file_rows(file)))
    except OSError as error:
        found = f"{error.filename or path}: cannot be read: {error.strerror or error}"
        raise DataError(found, "files that this user may read", "check the name and the rights") from error


def _files(path: Path, source: Source) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        inner = path / (source.subset or "data")  # as a dataset for the hub is laid out
        laid_out = inner.is_dir() and (source.subset or not any(file.name.endswith(_SUFFIXES) for file in path.iterdir()))
        return _files_of_split(inner if laid_out else path, source.split)
    if glob.has_magic(source.path):
        found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True)) if Path(name).is_file()]
        if found:
            return found
        raise DataError(f"{source.path}: no file matches", _READABLE)
    if path.exists():
        raise DataError(f"{path}: neither a file nor a folder", _READABLE)
    neighbours = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, neighbours, n=1)
    raise DataError(
        f"{path}: there is no such file or folder",
        f"{_READABLE}; a folder, a glob, or a hub dataset as hub:org/name",
        f"did you mean {path.parent / near[0]}?" if near else _from_here(path),
    )


def _from_here(path: Path) -> str:
    """Where a path that leads nowhere was counted from, and from where it would lead to something."""
    if path.is_absolute():
        return ""
    here = Path.cwd()
    said = f"a path counts from the folder that you stand in, {here}"
    below = [Path(found).parents[len(path.parts) - 1] for found in sorted(glob.glob(str(Path("*") / path)))]
    other = next((folder for folder in (*below, *here.parents) if os.path.exists(folder / path)), None)
    return f"{said}; it is there from {other}: `cd {other}`" if other else said


def _files_of_split(folder: Path, split: str) -> list[Path]:
    """The files of a folder whose names are or begin with the split; all of them if no name says a split."""
    files = sorted(file for file in folder.iterdir() if file.is_file() and file.name.endswith(_SUFFIXES))
    chosen = [file for file in files if _stem(file) == split or _stem(file).startswith((f"{split}-", f"{split}_", f"{split}."))]
    if chosen:
        return chosen
    if files and split == Source.model_fields["split"].default and not any(_stem(f) in ("test", "validation") for f in files):
        return files
    names = ", ".join(file.name for file in files[:10]) or "no such file"
    raise DataError(f"{folder}: no file for the split '{split}'; found {names}", _READABLE, "name the file itself, or another split")


def _stem(file: Path) -> str:
    return file.name[: -len(next(s for s in sorted(_SUFFIXES, key=len, reverse=True) if file.name.endswith(s)))]


def _is_hub_name(path: str) -> bool:
    organisation, slash, name = path.partition("/")
    return bool(slash and organisation and name) and not is_local(path) and not path.endswith(_SUFFIXES)


def _digest(files: list[Path]) -> str:
    """SHA-256 of the files' contents; of several files, of their digests in order."""
    digests = []
    for file in files:
        with file.open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _file_rows(file: Path) -> Iterator[Row]:
    kind = file.name.removesuffix(".gz").rpartition(".")[2].lower()
    try:
        if kind == "parquet":
            yield from _parquet_rows(file)
        elif kind in ("jsonl", "ndjson", "json", "csv", "txt"):
            with closing(gzip.open(file) if file.name.endswith(".gz") else file.open("rb")) as stream:
                yield from _stream_rows(stream, file, kind)
        else:
            raise DataError(f"{file}: this kind of file is not known", _READABLE, "convert it, or rename it if the name is wrong")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file}: cannot be read: {error}", _READABLE) from error


def _stream_rows(stream: BufferedIOBase, file: Path, kind: str) -> Iterator[Row]:
    if kind == "txt":
        lines = ((n, strict.text(raw, f"{file}, line {n}").strip("\r\n")) for n, raw in enumerate(stream, start=1))
        yield from (Row(f"{file}, line {n}", {"text": line}) for n, line in lines if line.strip())
    elif kind == "csv":
        yield from (Row(f"{file}, line {n}", values) for n, values in sheets.records(stream, str(file)))
    elif kind == "json" and stream.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        stream.seek(0)
        for number, value in enumerate(strict.parse(stream.read(), str(file)), start=1):
            yield _row(value, f"{file}, record {number}")
    else:
        stream.seek(0)
        for number, raw in enumerate(stream, start=1):  # splits at \n alone: U+2028 is a character like any other
            if raw.strip():
                where = f"{file}, line {number}"
                yield _row(strict.parse(raw, where, cut=not raw.endswith(b"\n")), where)


def _row(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        found = f"{strict.kind(value)}: {value!r:.60}"
        raise DataError(f"{where}: found {found}", "a JSON object with the fields of a record", "see docs/data.md for the formats")
    return Row(where, value)


def _parquet_rows(file: Path) -> Iterator[Row]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        with ParquetFile(file) as table:
            for batch in table.iter_batches():
                for values in batch.to_pylist():
                    number += 1
                    yield _column_row(values, f"{file}, row {number}")
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{file}: not a whole Parquet file after row {number}: {error}", _READABLE, "write the file again") from error


def _column_row(values: dict[str, Any], where: str) -> Row:
    strict.check_row(values, where)
    return Row(where, values)


def _datasets(name: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise DataError(f"{name}: reading it needs the package `datasets`", "", "pip install 'handrail[hub]'") from None
    return datasets


def _saved_dataset_rows(folder: Path, source: Source) -> Rows:
    datasets = _datasets(str(folder))
    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:  # the package raises whatever its readers do
        raise DataError(f"{folder}: cannot be read as a saved dataset: {error}") from error
    if isinstance(loaded, datasets.DatasetDict):
        if source.split not in loaded:
            raise DataError(f"{folder}: there is no split '{source.split}'", f"one of {', '.join(loaded)}", "set `split`")
        loaded = loaded[source.split]
    return _dataset_rows(loaded, str(folder), source)


def _hub_rows(name: str, source: Source) -> Rows:
    datasets = _datasets(name)
    try:
        loaded = datasets.load_dataset(name, source.subset or None, split=source.split)
    except Exception as error:  # network, name, split, rights: each has an exception of its own
        raise DataError(
            f"hub dataset {name}, split '{source.split}': {type(error).__name__}: {error}",
            "a dataset of the hub that this machine can reach, or a file",
            "check the name, the split, the subset and the network; a local file needs no network",
        ) from error
    return _dataset_rows(loaded, name, source)


def _dataset_rows(dataset: Any, name: str, source: Source) -> Rows:
    if source.limit:
        dataset = dataset.select(range(min(source.limit, len(dataset))))
    digest = hashlib.sha256()
    for values in dataset:
        digest.update(json.dumps(values, sort_keys=True, default=str).encode() + b"\n")
    rows = (_column_row(values, f"{name}, row {number}") for number, values in enumerate(dataset, start=1))
    return Rows(name, digest.hexdigest(), rows)
