"""What is known of the quality of a project's labels, computed beside the pages: in a process of its own, so that they stay quick.

A thread would not do: reading rows, SQLite lets go of Python's lock at each, and waits for it to come back.
"""

import atexit
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from handrail.errors import HandrailError, RunError
from handrail.feedback.quality import Consensus, Quality, reliability, sheets, summary
from handrail.feedback.quality.disagreements import sizes
from handrail.feedback.store import browse, review
from handrail.feedback.store.looking import look
from handrail.inspector.server.stores import Store

REST = 5.0  # while labels come in, they are measured anew after so many times the seconds that it took
AGAIN = 20.0  # seconds until it is tried again where something went wrong


@dataclass(frozen=True)
class Measured:
    """The labels of a project as they stood after event `upto`; it took so many seconds.

    `sizes` say of each item how far the answers to it are apart, of several criteria the most; `consensus` has for each item
    (criterion, what is most likely true).  Items with one answer have no size.
    """

    upto: int
    took: float
    quality: Quality
    sizes: dict[str, float]
    consensus: dict[str, list[tuple[str, Consensus]]]


def measure(where: str, project: str) -> Measured:
    """Read the labels of a project and compute all figures.  Raises HandrailError."""
    started = time.perf_counter()
    upto, labels = review.everything(look(where), project)
    apart: dict[str, float] = {}
    consensus: dict[str, list[tuple[str, Consensus]]] = {}
    for sheet in sheets(labels):
        for (_, item), size, answers in zip(sheet.items, sizes(sheet).tolist(), sheet.answered.tolist(), strict=True):
            if answers > 1:
                apart[item] = max(size, apart.get(item, 0.0))
        for one in reliability(sheet).items:
            consensus.setdefault(one.item, []).append((sheet.criterion, one))
    quality = summary(labels, contested=0)
    return Measured(upto, time.perf_counter() - started, quality, apart, consensus)


def beside(where: str, project: str) -> Measured:
    """`measure` in a process of its own, which ends with this one.  Raises HandrailError."""
    command = [sys.executable, "-c", "from handrail.inspector.server.measured import answer; answer()"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        atexit.register(process.kill)
        told, _ = process.communicate(pickle.dumps((where, project)))
        atexit.unregister(process.kill)
    if process.returncode:
        raise RunError("the process that measures the labels has ended", "", "is there enough memory?")
    found = pickle.loads(told)
    if isinstance(found, HandrailError):
        raise found
    assert isinstance(found, Measured)
    return found


def answer() -> None:
    """The process: a question from its parent, one answer.  Ctrl-C is for the parent alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    found: Measured | HandrailError
    try:
        found = measure(*pickle.load(sys.stdin.buffer))
    except HandrailError as error:
        found = error
    sys.stdout.buffer.write(pickle.dumps(found))


@dataclass
class State:
    """How far it is: the newest figures, whether newer ones are on their way, and what went wrong."""

    measured: Measured | None = None
    at: float = float("-inf")
    busy: bool = False
    problem: str = ""


class Measures:
    """The newest figures of each project.  They may lag behind the labels; `upto` says how far they go."""

    def __init__(self, work: Callable[[str, str], Measured] = beside):
        self._work = work
        self._states: dict[tuple[str, str, float], State] = {}
        self._lock = threading.Lock()

    def of(self, store: Store, project: str) -> State:
        """What is known now; newer figures are begun where there are newer labels.  Raises InputError."""
        assert store.db is not None
        made, newest, _ = browse.version(store.db, project)
        with self._lock:
            state = self._states.setdefault((store.where, project, made), State())
            known = state.measured
            rest = AGAIN if state.problem else REST * known.took if known else 0.0
            if not state.busy and not (known and known.upto == newest) and time.monotonic() > state.at + rest:
                state.busy = True
                threading.Thread(target=self._measure, args=(state, store.where, project), daemon=True).start()
        return state

    def _measure(self, state: State, where: str, project: str) -> None:
        try:
            state.measured, state.problem = self._work(where, project), ""
        except (HandrailError, OSError) as error:
            state.problem = str(error).splitlines()[0]
        finally:
            state.at, state.busy = time.monotonic(), False
