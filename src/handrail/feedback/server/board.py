"""The quality of each project's labels, computed once for each state that they were in."""

import threading
import time
from dataclasses import dataclass

from handrail.feedback.quality import Quality, summary
from handrail.feedback.store import Database, review

LONG = 1.0  # seconds that somebody waits for figures, where there are older ones
REST = 20.0  # while labels come in, the figures are computed anew after so many times the seconds that it took


@dataclass(frozen=True)
class Measured:
    """The quality of the labels as they stood after event `upto`."""

    upto: int
    at: float
    took: float
    quality: Quality


class Board:
    """The newest figures by project and task.  They may lag a little behind the labels; `upto` says how far they go."""

    def __init__(self, db: Database):
        self._db = db
        self._known: dict[tuple[str, str], Measured] = {}
        self._lock = threading.Lock()

    def of(self, project: str, task: str = "") -> Measured:
        """The figures of a project, or of one of its tasks.  Raises InputError.

        Where they are old and take long, the old ones are given at once and new ones are made in the background.
        """
        upto = review.last_event(self._db, project)
        known = self._known.get((project, task))
        if known and (known.upto == upto or self._db.now() - known.at < REST * known.took):
            return known
        if known and known.took > LONG:
            threading.Thread(target=self._measure, args=(project, task, upto), daemon=True).start()
            return known
        return self._measure(project, task, upto)

    def _measure(self, project: str, task: str, upto: int) -> Measured:
        with self._lock:  # one at a time: two would only slow each other down
            known = self._known.get((project, task))
            if known and known.upto >= upto:
                return known
            started = time.perf_counter()
            upto, found = review.everything(self._db, project)
            quality = summary([label for label in found if task in ("", label.task)])
            measured = Measured(upto, self._db.now(), time.perf_counter() - started, quality)
            self._known[project, task] = measured
        return measured
