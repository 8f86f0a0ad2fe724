"""One process at a time in a run folder.

The kernel holds the lock (flock) and lets it go when the process ends, however it ends; what stands in the file only
tells people who holds it.
"""

import fcntl
import json
import os
import socket
from pathlib import Path

from handrail.errors import RunLocked
from handrail.track.storage import storing, write_all


class Lock:
    """Taken when made; raises RunLocked if another live process, or another Run of this one, holds it.

    `recovered` names the process that died while it held the lock, or is empty.
    """

    def __init__(self, path: Path):
        self._path = path
        with storing(path):
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = self._holder()
            os.close(self._descriptor)
            raise RunLocked(
                f"{path.parent}: {_name(holder)} is working in this run folder",
                "one process at a time",
                "wait for it, end it, or give another folder",
            ) from None
        except OSError:
            os.close(self._descriptor)
            with storing(path):
                raise
        # A forked worker that outlives this process must not keep the lock.
        os.register_at_fork(after_in_child=self._forget)
        left_behind = self._holder()
        self.recovered = _name(left_behind) if left_behind else ""
        mine = {"pid": os.getpid(), "started": process_start(os.getpid()), "host": socket.gethostname()}
        with storing(path):
            os.ftruncate(self._descriptor, 0)
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            write_all(self._descriptor, json.dumps(mine).encode())

    def release(self) -> None:
        """Let others in.  The file stays, empty: removing it would let two processes lock two files of one name."""
        if self._descriptor >= 0:
            os.ftruncate(self._descriptor, 0)
            self._forget()

    def _forget(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _holder(self) -> dict:
        try:
            return json.loads(os.pread(self._descriptor, 4096, 0))
        except ValueError:
            return {}


def _name(holder: dict) -> str:
    return f"process {holder['pid']} on {holder['host']}" if holder.keys() >= {"pid", "host"} else "another process"


def process_start(pid: int) -> int:
    """When process `pid` began, in the kernel's ticks since it booted: with the number it names a process for good.

    0 where the kernel does not tell.
    """
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        return 0
    return int(stat.read_text().rpartition(")")[2].split()[19])
