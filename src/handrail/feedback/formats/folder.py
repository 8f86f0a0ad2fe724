"""Files in a folder, all or none, with their digests beside them."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from handrail.errors import InputError, StorageError

SUMS = "SHA256SUMS"


def sums(files: Mapping[str, bytes]) -> bytes:
    """The content of SHA256SUMS, as `sha256sum -c` reads it: names in order, two spaces after the digest."""
    return "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files)).encode()


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """`folder` holds exactly `files` and SHA256SUMS, or what it held before.

    An earlier export in its place is replaced.  Raises InputError if the folder holds anything else, StorageError when the
    disk refuses.
    """
    _require_ours(folder)
    fresh = old = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        for name, content in {**files, SUMS: sums(files)}.items():
            _write(fresh / name, content)
        for inner in sorted({(fresh / name).parent for name in files}):
            _sync(inner)
        fresh.chmod(0o777 & ~_umask())
        if folder.exists():  # two renames: a folder that is not empty cannot be renamed over
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
            os.replace(folder, old / "old")
        os.replace(fresh, folder)
        _sync(folder.parent)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written: {error.strerror or error}") from error
    finally:
        if old and (old / "old").exists() and not folder.exists():
            os.replace(old / "old", folder)  # also when it was interrupted between the two
        for path in (fresh, old):
            if path:
                shutil.rmtree(path, ignore_errors=True)


def write_file(path: Path, content: bytes) -> None:
    """`path` holds `content` or what it held before.  Raises StorageError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror or error}") from error
    try:
        os.close(handle)
        _write(Path(name), content)
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
        _sync(path.parent)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        Path(name).unlink(missing_ok=True)


def _require_ours(folder: Path) -> None:
    """Nothing, an empty folder, or an export: what SHA256SUMS names and no more."""
    if not folder.exists():
        return
    listed = {SUMS}
    if (folder / SUMS).is_file():
        listed |= {line.split("  ", 1)[-1] for line in (folder / SUMS).read_text(encoding="utf-8", errors="replace").splitlines()}
    found = [folder] if not folder.is_dir() else [path for path in folder.rglob("*") if not path.is_dir()]
    other = next((path for path in sorted(found) if path == folder or str(path.relative_to(folder)) not in listed), None)
    if other is not None:
        raise InputError(f"{other} is no part of an export", "a new folder, an empty one, or an earlier export", "choose another folder")


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
