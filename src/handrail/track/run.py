"""A run and its folder.

config.yaml  environment.json  inputs.json     what it was started with, written once
metrics.jsonl                                  a line a step, the same numbers whenever it is run
timing.jsonl                                   seconds and memory, which differ from time to time
preflight.json  findings.jsonl                 what was measured before the first step; what is wrong, and since when
tokens/step-000010.parquet                     sampled responses
checkpoints/step-00000010/                     everything needed to do step 10 next
bad-batches/                                   batches that gave NaN or infinity
model/                                         the result
summary.json                                   stands there when the run has finished
log.txt  lock
"""

import json
import logging
import math
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from handrail.config import Settings
from handrail.errors import ConfigError, RunError
from handrail.track.checkpoint import Checkpoints, Saved, load, write_tensors
from handrail.track.environment import changes, describe, peak_memory, redact
from handrail.track.frozen import check_frozen, freeze, read_environment
from handrail.track.lock import Lock
from handrail.track.metrics import Lines
from handrail.track.peers import Alone, Peers, by_the_first
from handrail.track.sinks import Sink, open_sinks, require_trackers
from handrail.track.stop import StopRequest
from handrail.track.storage import require_writable, storing, sync_folder, write_all, write_atomically
from handrail.track.traces import cut_traces, write_trace
from handrail.track.view import FINDINGS, PREFLIGHT, read_summary

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

Attendant = Callable[[int, bool], str]  # (the step that ended, whether the run did): why the run should stop, or ""

RUN_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
BAD_BATCHES_KEPT = 10
ALONE = Alone()
OWN_TIMING = ("time", "memory_mib", "device_mib")  # what a line of timing.jsonl says besides the seconds


class Run:
    """One stage at work in its folder: lock, metrics, traces, checkpoints, signals.  Made by `open`, used in a `with`.

    `step` is the first step to do: 0, or the checkpoint's.  `finished` says that there is nothing left to do.  Of several
    processes each has one, and calls the same methods at the same steps; the first alone writes.
    """

    def __init__(self, folder: Path, stage: str, save_every: int, keep: int, peers: Peers):
        self.folder, self.stage, self.save_every, self.peers = folder, stage, save_every, peers
        self.step = 0
        self.summary: dict[str, Any] | None = None
        self._checkpoints = Checkpoints(folder / "checkpoints", keep)
        self._metrics, self._timing = Lines(folder / "metrics.jsonl"), Lines(folder / "timing.jsonl")
        self._findings = Lines(folder / FINDINGS)
        self._attendant: Attendant | None = None
        self._logged, self._unwell = -1, ""
        self._stop = StopRequest()
        self._sinks: list[Sink] = []
        self._newest: Path | None = None
        self._unsaved = False
        self._lock: Lock | None = None
        self._log: _LogFile | None = None

    @classmethod
    def open(
        cls,
        folder: str | Path,
        stage: str,
        config: Settings,
        inputs: dict[str, str],
        save_every: int,
        keep: int = 2,
        *,
        free: frozenset[str] = frozenset(),
        trackers: Sequence[str] = (),
        peers: Peers = ALONE,
    ) -> "Run":
        """Begin a run in `folder`, or take up the one that is there.

        `inputs` are hashes of what goes in, by name.  A checkpoint is due every `save_every` steps and the `keep`
        newest stay.  Keys of the config in `free` do not affect results and may differ from those it began with.
        Raises ConfigError (another config or other inputs, a bad name), RunLocked, StorageError, CheckpointError.
        """
        folder = Path(folder)
        _check_name(folder)
        require_trackers(trackers)
        run = cls(folder, stage, save_every, keep, peers)
        try:
            run.step, run._newest, run.summary = run._begin(config, inputs, free, trackers)
        except BaseException:
            run.close()
            raise
        return run

    @by_the_first
    def _begin(
        self, config: Settings, inputs: dict[str, str], free: frozenset[str], trackers: Sequence[str]
    ) -> tuple[int, Path | None, dict[str, Any] | None]:
        """Takes the folder; returns the step that is next, the checkpoint to do it from, and the summary of a finished run."""
        require_writable(self.folder)
        self._lock = Lock(self.folder / "lock")
        self._log = _LogFile(self.folder / "log.txt")
        if self._lock.recovered:
            logger.warning("recovered the lock of %s, which died in this run", self._lock.recovered)
        for temporary in self.folder.glob(".tmp-*"):
            temporary.unlink()
        environment = describe()
        if not check_frozen(self.folder, self.stage, config, inputs, free):
            self._refuse_leftovers()
            freeze(self.folder, self.stage, config, inputs, environment)
        if (summary := read_summary(self.folder)) is not None:
            return 0, None, summary
        newest = self._checkpoints.newest()
        step = int(newest.name.removeprefix("step-")) if newest else 0
        self._metrics.cut(step)
        self._timing.cut(step)
        self._findings.cut(step)
        cut_traces(self.folder / "tokens", step)
        for change in changes(read_environment(self.folder), environment):
            logger.warning("not the machine this run began on, so the last bits may differ: %s", change)
        version = environment["handrail"]
        logger.info("%s: step %d is next, process %d, handrail %s", self.stage, step, os.getpid(), version)
        self._sinks = open_sinks(trackers, self.folder, step, config.model_dump(mode="json"))
        return step, newest, None

    def _refuse_leftovers(self) -> None:
        found = [name for name in ("checkpoints", "metrics.jsonl", "summary.json") if (self.folder / name).exists()]
        if found:
            raise ConfigError(
                f"{self.folder} has {', '.join(found)} but not the config that they came from",
                "an empty folder, or a whole run folder",
                "give another folder, or bring config.yaml and inputs.json back",
            )

    @property
    def finished(self) -> bool:
        return self.summary is not None

    @property
    def asked_to_stop(self) -> bool:
        """True once SIGTERM or SIGINT came to one of the processes, or the attendant gave the run up: finish the step, save, `check`."""
        return bool(self._unwell) or self.peers.highest(self._stop.status) != 0

    def restore(self) -> Saved | None:
        """The newest good checkpoint, or None at the beginning."""
        if self._newest is None:
            return None
        logger.info("restored %s", self._newest.name)
        return load(self._newest)

    @by_the_first
    def log(self, step: int, metrics: dict[str, float | int | str], seconds: dict[str, float] | None = None) -> None:
        """One line for `step`.  `metrics` are the same whenever the run is done again; `seconds` need not be.

        Raises ValueError where a name of theirs is one that the line itself needs.
        """
        if taken := ({"step"} & metrics.keys()) | ({"step", *OWN_TIMING} & (seconds or {}).keys()):
            raise ValueError(f"{', '.join(sorted(taken))}: a line of the run has this name already; give the number another")
        self._metrics.append({"step": step, **metrics})
        rounded = {name: round(value, 6) for name, value in (seconds or {}).items()}
        self._timing.append({"step": step, "time": round(time.time(), 3), **rounded, **peak_memory()})
        for sink in self._sinks:
            sink.log(step, metrics)
        self._logged = step

    def attend(self, attendant: Attendant) -> None:
        """From now on `attendant` is told of the end of each step, and may have the run stop."""
        self._attendant, self._logged = attendant, self.step - 1
        if self.step:  # killed after a save, it may not have been told of that step
            self._unwell = self._attended(False)

    def _attended(self, last: bool) -> str:
        """Why the run should stop after the step that was logged last, in all processes what the first one's attendant says."""
        attendant = self._attendant
        return self.peers.first(lambda: attendant(self._logged, last)) if attendant is not None else ""

    def measured(self, numbers: dict[str, float]) -> None:
        """What was measured before the first step, which the attendant is told of as step -1.  Raises StorageError, RunError."""
        self._measured(numbers)
        if unwell := self._attended(True):
            raise RunError(f"stopped before the first step: {unwell}", "", "the same command goes on all the same")

    @by_the_first
    def _measured(self, numbers: dict[str, float]) -> None:
        found = {name: value for name, value in numbers.items() if math.isfinite(value)}
        write_atomically(self.folder / PREFLIGHT, (json.dumps(found, indent=1) + "\n").encode())

    def found(self, step: int, finding: dict[str, Any]) -> None:
        """One line on what was seen to be wrong after `step`."""
        self._findings.append({"step": step, **finding})
        logger.info("found: %s: %s", finding.get("name"), finding.get("evidence"))

    @by_the_first
    def trace(self, step: int, columns: dict[str, list[Any]]) -> None:
        """The responses of `step`, a row each; columns of values a token hold lists."""
        write_trace(self.folder / "tokens", step, columns)

    @by_the_first
    def keep_batch(self, step: int, tensors: "dict[str, Tensor]") -> Path:
        """A batch that went wrong, for replay.  The first few are kept and no more, so that the disk stays free."""
        folder = self.folder / "bad-batches"
        path = folder / f"step-{step:08d}.safetensors"
        with storing(path):
            folder.mkdir(exist_ok=True)
            if not path.exists() and len(list(folder.iterdir())) < BAD_BATCHES_KEPT:
                temporary = folder / f".tmp-{path.name}"
                try:
                    write_tensors(temporary, tensors)
                    os.replace(temporary, path)
                finally:
                    temporary.unlink(missing_ok=True)
                sync_folder(folder)
        return path

    @by_the_first
    def keep_lines(self, name: str, lines: Sequence[dict[str, Any]]) -> None:
        """A file of JSON lines beside the others, in one step.  Raises StorageError."""
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_atomically(self.folder / name, text.encode("utf-8", "surrogatepass"))

    def due(self, step: int, last: bool = False) -> bool:
        """Whether to save after `step`: every `save_every` steps, after the last, and when asked to stop."""
        self._unsaved = True
        return last or self.asked_to_stop or (self.save_every > 0 and (step + 1) % self.save_every == 0)

    def save(self, step: int, tensors: "dict[str, Tensor]", state: dict[str, Any]) -> None:
        """A checkpoint that says "do `step` next".  Raises StorageError; then the last one still stands."""
        self._write(step, tensors, state)
        self._unsaved = False

    @by_the_first
    def _write(self, step: int, tensors: "dict[str, Tensor]", state: dict[str, Any]) -> None:
        # What was logged before this step must be as durable as the checkpoint that skips over it.
        self._metrics.sync()
        self._timing.sync()
        self._findings.sync()
        for sink in self._sinks:
            sink.flush()
        logger.info("saved %s", self._checkpoints.write(step, tensors, state).name)

    def check(self) -> None:
        """At a step's end, after saving: raises SystemExit, 143 after SIGTERM and 130 after SIGINT, or RunError for the attendant."""
        self._unwell = self._unwell or self._attended(False)
        # A wish that came after `due` was asked waits for the next step, which will be saved.
        if self._unsaved:
            return
        if status := self.peers.highest(self._stop.status):
            logger.info("asked to stop; the same command goes on from here")
            raise SystemExit(status)
        if self._unwell:
            raise RunError(f"stopped: {self._unwell}", "", "the step is saved: the same command goes on all the same")

    def finish(self, summary: dict[str, Any]) -> None:
        """The run is complete.  `summary` says what came of it; of the checkpoints the last stays."""
        self._conclude(summary)
        self.summary = summary
        self._attended(True)  # what a run ended with is among what is looked at, so that its summary comes first
        self._findings.sync()
        logger.info("%s: finished", self.stage)

    @by_the_first
    def _conclude(self, summary: dict[str, Any]) -> None:
        self._metrics.sync()
        self._timing.sync()
        self._checkpoints.only_last()
        text = json.dumps(summary, ensure_ascii=False, indent=1) + "\n"
        write_atomically(self.folder / "summary.json", text.encode())

    def close(self) -> None:
        """Let go of the folder.  Leaving the `with` does it."""
        self._stop.ignore()
        self._metrics.close()
        self._timing.close()
        self._findings.close()
        sinks, self._sinks = self._sinks, []
        try:
            for sink in sinks:
                sink.close(self.finished)
        finally:
            if self._log:
                self._log.detach()
            if self._lock:
                self._lock.release()

    def __enter__(self) -> Self:
        self._stop.listen()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None and not isinstance(error, SystemExit):
            logger.error("ended by %s: %s", type(error).__name__, error)
        self.close()


def _check_name(folder: Path) -> None:
    name = folder.resolve().name
    if not RUN_NAME.match(name):
        raise ConfigError(
            f"'{name}' cannot be the name of a run folder",
            "1 to 64 letters, digits, dots, underscores and hyphens, the first a letter or digit",
            "give another folder",
        )


class _LogFile(logging.Handler):
    """Takes what all of handrail logs into `log.txt` for as long as the run is open."""

    def __init__(self, path: Path):
        super().__init__(logging.INFO)
        self._path = path
        with storing(path):
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self._root = logging.getLogger("handrail")
        self._level = self._root.level
        if self._root.getEffectiveLevel() > logging.INFO:
            self._root.setLevel(logging.INFO)
        self._root.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            write_all(self._descriptor, (redact(self.format(record)) + "\n").encode("utf-8", "backslashreplace"))
        except OSError as error:
            # Not an error of the run: a disk that is full stops it where numbers or checkpoints are written.
            os.write(2, f"{self._path}: cannot be written: {error.strerror}\n".encode())

    def detach(self) -> None:
        if self._descriptor >= 0:
            self._root.removeHandler(self)
            self._root.setLevel(self._level)
            os.close(self._descriptor)
            self._descriptor = -1
