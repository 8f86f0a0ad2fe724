"""Numbers of a run, a line of JSON a step, in files that are only appended to and cut."""

import json
import logging
import math
import os
from pathlib import Path
from typing import Any

from handrail.track.storage import storing, write_all, write_atomically

logger = logging.getLogger(__name__)

_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class Lines:
    """A file of JSON lines, each with a `step`.  A line is in the file when `append` returns."""

    def __init__(self, path: Path):
        self.path = path
        self._descriptor = -1

    def append(self, line: dict[str, Any]) -> None:
        """Raises StorageError; then the line is not in the file, not even in part."""
        encoded = (json.dumps({k: _plain(v) for k, v in line.items()}, ensure_ascii=False) + "\n").encode()
        with storing(self.path):
            if self._descriptor < 0:
                self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            before = os.fstat(self._descriptor).st_size
            try:
                write_all(self._descriptor, encoded)
            except OSError:
                os.ftruncate(self._descriptor, before)
                raise

    def cut(self, step: int) -> None:
        """Drop the lines of `step` and later, and any that was not written to its end."""
        if not self.path.exists():
            return
        self.close()
        kept, strange = bytearray(), []
        content = self.path.read_bytes()
        for number, line in enumerate(content.splitlines(keepends=True), start=1):
            parsed = _parse(line)
            if parsed is None:
                strange.append(number)
            elif parsed["step"] < step:
                kept += line
        if strange:
            which = f"line {strange[0]}" if len(strange) == 1 else f"{len(strange)} lines, the first is line {strange[0]}"
            logger.warning("%s: dropped %s: not written to its end, or no step in it", self.path.name, which)
        if kept != content:
            write_atomically(self.path, bytes(kept))

    def sync(self) -> None:
        """Make every line durable.  Raises StorageError."""
        if self._descriptor >= 0:
            with storing(self.path):
                os.fsync(self._descriptor)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _plain(value: Any) -> Any:
    """JSON has no NaN; a number that is not finite is written as text and read back as the number."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _parse(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        parsed = json.loads(line)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) and isinstance(parsed.get("step"), int) else None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file that may still be growing; an unfinished last one is left out."""
    return lines_of(path.read_bytes()) if path.exists() else []


def lines_of(content: bytes) -> list[dict[str, Any]]:
    """The same, of a part of such a file that begins where a line does."""
    parsed = (_parse(line) for line in content.splitlines(keepends=True))
    return [{k: _number(v) for k, v in line.items()} for line in parsed if line is not None]


def _number(value: Any) -> Any:
    return _NOT_FINITE.get(value, value) if isinstance(value, str) else value
