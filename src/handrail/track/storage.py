"""Writing so that a file is either the old one or the new one, and saying clearly when the disk refuses."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from handrail.errors import StorageError

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")
PROBE_BYTES = 4096


def human_bytes(count: float) -> str:
    """`count` bytes with a unit a person reads, powers of 1024."""
    for unit in _UNITS[:-1]:
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} {_UNITS[-1]}"


def free_bytes(path: Path) -> int:
    """Bytes that may still be written on the disk of `path`, which need not exist yet."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Whatever the operating system refuses in here becomes a StorageError that names `path` and the free space."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(
            f"{path}: cannot be written: {reason}; {human_bytes(free_bytes(path))} are free on its disk",
            "a folder with write permission and room for the run",
            "make room or give another folder, then start the same command again: nothing saved before is lost",
        ) from error


def require_space(folder: Path, needed: int) -> None:
    """Raises StorageError unless `needed` bytes fit on the disk of `folder`."""
    free = free_bytes(folder)
    if free < needed:
        raise StorageError(
            f"{folder}: {human_bytes(needed)} are to be written and {human_bytes(free)} are free on its disk",
            "",
            "make room or give another folder, then start the same command again: nothing saved before is lost",
        )


def require_writable(folder: Path) -> None:
    """Make `folder` and write a probe into it.  Raises StorageError before any work is done."""
    probe = folder / ".probe"
    with storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            write_synced(probe, bytes(PROBE_BYTES))
        finally:
            probe.unlink(missing_ok=True)


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """All of `data`, however many writes it takes.  Raises OSError."""
    rest = memoryview(data).cast("B")
    while len(rest):
        rest = rest[os.write(descriptor, rest) :]


def write_synced(path: Path, data: bytes) -> None:
    """A new file with `data`, on the disk when this returns.  Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable.  Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, data: bytes) -> None:
    """`path` holds `data` or what it held before, whatever happens meanwhile.  Raises StorageError."""
    temporary = path.with_name(f".tmp-{path.name}")
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_synced(temporary, data)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
