"""How the labels of a project came in, and from whom."""

from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

from handrail.feedback.store import projects
from handrail.feedback.store.browse import Done
from handrail.feedback.store.looking import Looked
from handrail.inspector.server.items import Index
from handrail.inspector.server.said import said

SPANS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "week": 604_800}  # in seconds
POINTS = 120  # of a curve at most


def overview(found: Index) -> dict[str, Any]:
    """How the labels of a project came in, and who gave them."""
    given = [one for one in found.done if one.purpose != "adjudication"]
    return {
        "labels": sum(one.state == "done" for one in given),
        "pace": pace([one for one in given if one.state == "done"]),
        "people": people_of(given),
    }


def tasks_of(db: Looked, found: Index) -> list[dict[str, Any]]:
    """The tasks of a project with how far each is.  Raises InputError, StorageError."""
    return [task_of(db, task, found) for task in projects.all_tasks(db, found.project)]


def task_of(db: Looked, task: projects.Task, found: Index) -> dict[str, Any]:
    """A task and how far it is."""
    mine = found.task == task.name
    return {
        "name": task.name,
        "title": said(task.settings.title or task.name),
        "kind": task.settings.kind,
        "overlap": task.settings.overlap,
        "paused": task.settings.paused,
        "flagged": int(found.flagged[mine].sum()),
        "skipped": int((found.skipped[mine] > 0).sum()),
        **projects.progress(db, task),
    }


def pace(done: Sequence[Done]) -> dict[str, Any] | None:
    """Answers in each second, minute, hour, day or week (UTC), the finest that a curve has room for; and of each task so far.

    None where there are no answers.  An answer counts at the time when it was first given.
    """
    if not done:
        return None
    at = np.array([one.at for one in done])
    unit = next((name for name, width in SPANS.items() if (at.max() - at.min()) / width < POINTS), "week")
    width = SPANS[unit]
    first, last = int(at.min() // width) - 1, int(at.max() // width)  # it begins where there was nothing
    number = (at // width).astype(int) - first
    count = last - first + 1
    tasks = list(dict.fromkeys(one.task for one in done))
    task = np.array([tasks.index(one.task) for one in done])
    return {
        "unit": unit,
        "times": [(first + n) * width for n in range(count)],
        "came": np.bincount(number, minlength=count).tolist(),
        "so_far": {name: np.bincount(number[task == n], minlength=count).cumsum().tolist() for n, name in enumerate(tasks)},
    }


def people_of(given: Sequence[Done]) -> list[dict[str, Any]]:
    """Who answered and skipped how much, who did most first.  `seconds` are the median of those that were spent on an answer."""
    by: dict[str, list[Done]] = {}
    for one in given:
        by.setdefault(one.person, []).append(one)
    found = []
    for name, mine in by.items():
        answers = [one for one in mine if one.state == "done"]
        timed = [one.seconds for one in answers if one.seconds > 0]
        found.append(
            {
                "labeller": name,
                "labels": len(answers),
                "skipped": len(mine) - len(answers),
                "checks": sum(one.purpose in ("gold", "repeat", "practice") for one in answers),
                "seconds": median(timed) if timed else None,
                "first": min(one.at for one in mine),
                "last": max(one.last for one in mine),
            }
        )
    return sorted(found, key=lambda one: (-one["labels"], one["labeller"]))
