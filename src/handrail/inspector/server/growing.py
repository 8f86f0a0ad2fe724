"""Files of JSON lines that a run may still be writing, read on from where they were read to."""

import os
from collections import OrderedDict
from pathlib import Path
from threading import Lock
from typing import Any

from handrail.track.metrics import lines_of


class Growing:
    """One such file.  `version` changes when what was read before no longer holds: the run was taken up from a checkpoint."""

    def __init__(self, path: Path):
        self.path, self.lines = path, list[dict[str, Any]]()
        self.version, self._file, self._at, self._lock = 0, (0, 0), 0, Lock()

    def read(self) -> list[dict[str, Any]]:
        """All lines there are now; none where there is no such file."""
        with self._lock:
            try:
                with self.path.open("rb") as stream:
                    self._catch_up(stream)
            except OSError:
                self._begin((0, 0))
            return self.lines

    def _catch_up(self, stream: Any) -> None:
        found = os.fstat(stream.fileno())  # of what is open: another file may take its place by name
        file = (found.st_dev, found.st_ino)
        if file != self._file or found.st_size < self._at:
            self._begin(file)
        if found.st_size == self._at:
            return
        stream.seek(self._at)
        content = stream.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._at += len(whole)
        self.lines = [*self.lines, *lines_of(whole)]

    def _begin(self, file: tuple[int, int]) -> None:
        if self.lines or self._at:
            self.version += 1
        self._file, self._at, self.lines = file, 0, []


class Shelf:
    """The files that were asked for last, kept open in mind."""

    MOST = 1000

    def __init__(self) -> None:
        self._kept: OrderedDict[Path, Growing] = OrderedDict()
        self._lock = Lock()

    def of(self, path: Path) -> Growing:
        """The file at `path`, which need not exist."""
        with self._lock:
            found = self._kept.setdefault(path, Growing(path))
            self._kept.move_to_end(path)
            if len(self._kept) > self.MOST:
                self._kept.popitem(last=False)
            return found
