"""Flags: somebody says that something is wrong with an item, and those who run the project say what comes of it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import select

from handrail.errors import InputError
from handrail.feedback.store.assignment import read
from handrail.feedback.store.database import Database
from handrail.feedback.store.labels import Raised, Standing, rule
from handrail.feedback.store.people import Person, note, project_id
from handrail.feedback.store.projects import Task
from handrail.feedback.store.tables import assignments, events, people, tasks

Verdict = Literal["dismiss", "uphold"]


@dataclass(frozen=True)
class Flag:
    """Somebody says that something is wrong with an item.

    `order[i]` is the response that stood at place i on their screen: their letters are those of the places.  `verdict` is
    "dismiss" where nothing was found wrong, "uphold" where the flag was found right, "" while nobody has looked.
    """

    id: int
    task: str
    item: str
    labeller: str
    reason: str
    at: float
    order: tuple[int, ...] = ()
    verdict: str = ""


def flags(db: Database, project: str, judged: bool = False) -> list[Flag]:
    """The flags that stand open, the newest first; with `judged` also those that were judged.  Raises InputError."""
    with db.read() as connection:
        number = project_id(connection, project)
        raised = select(events.c.assignment).join(tasks, events.c.task == tasks.c.id)
        raised = raised.where(events.c.kind == "flag", tasks.c.project == number)
        query = (
            select(events, tasks.c.name.label("of"), assignments.c.item, assignments.c.order, people.c.pseudonym)
            .join(tasks, events.c.task == tasks.c.id)
            .join(assignments, events.c.assignment == assignments.c.id)
            .join(people, assignments.c.person == people.c.id)
            .where(events.c.assignment.in_(raised))
            .order_by(events.c.id)
        )
        rows: dict[str, list[Any]] = {}
        for row in connection.execute(query):
            rows.setdefault(row.assignment, []).append(row)
    found = [
        Flag(row.id, row.of, row.item, row.pseudonym, flag.reason, row.at, tuple(row.order), flag.verdict)
        for mine in rows.values()
        for row, flag in standing(mine)[1]
        if judged or not flag.verdict
    ]
    return sorted(found, key=lambda flag: -flag.id)


def standing(rows: Iterable[Any]) -> tuple[Standing, list[tuple[Any, Raised]]]:
    """What follows from the events of one assignment, in order; and its flags that were not taken back, each with its event."""
    found, raised = Standing(), list[Any]()
    for row in rows:
        found.apply(row.kind, row.body, row.at, row.seconds)
        if row.kind == "flag":
            raised.append(row)
        del raised[len(found.flags) :]
    return found, list(zip(raised, found.flags, strict=True))


def judge(db: Database, by: Person, task: Task, flag: int, verdict: Verdict) -> None:
    """Say what comes of a flag: with "dismiss" the answer counts again, with "uphold" it stays out of exports, and the item
    wants another.

    Nothing where the same was said before.  Raises InputError where there is no such flag, or it was taken back.
    """
    with db.write() as connection:
        db.lock_task(connection, task.id)
        on = select(events.c.assignment).where(events.c.id == flag, events.c.kind == "flag", events.c.task == task.id)
        query = select(events).where(events.c.assignment.in_(on)).order_by(events.c.version)
        rows = connection.execute(query).all()
        _, raised = standing(rows)
        place = next((place for place, (row, _) in enumerate(raised) if row.id == flag), None)
        if place is None:
            raise InputError(f"task {task.name!r} has no flag {flag}", "one that stands", "it may have been taken back")
        if raised[place][1].verdict == verdict:
            return
        [found] = read(connection, assignments.c.id == rows[0].assignment)
        rule(db, connection, found, by, verdict, {"flag": place})
        note(db, connection, by, f"{verdict} flag", {"project": task.project, "task": task.name, "item": found.item, "flag": flag})
