"""What those who run a project look at: what came in each day, what was said of an item and by whom, what was flagged."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, func, select

from handrail.errors import InputError
from handrail.feedback.kinds import Item, Label, Purpose
from handrail.feedback.store.database import Database
from handrail.feedback.store.flags import Flag as Flag
from handrail.feedback.store.flags import flags as flags
from handrail.feedback.store.people import project_id
from handrail.feedback.store.projects import Task
from handrail.feedback.store.snapshots import Rules, through, view
from handrail.feedback.store.tables import assignments, events, items, people, projects, tasks

EVERYTHING = Rules(purposes=("work", "gold", "repeat", "practice", "adjudication"), flagged=True, settled=False)
DAY = 86_400.0
IDS = 500  # in one query


@dataclass(frozen=True)
class Day:
    """How many answers came in on a day, in UTC, and from whom."""

    day: date
    labels: int
    by: dict[str, int]


@dataclass(frozen=True)
class ItemState:
    """An item and how far it is."""

    id: str
    position: int
    purpose: Purpose
    priority: float
    content: Item
    given_out: int
    labels: int
    skipped: int
    settled: bool


@dataclass(frozen=True)
class Past:
    """One event: who did what, when."""

    at: float
    by: str
    act: str
    version: int
    seconds: float
    body: dict[str, Any]


def last_event(db: Database, project: str) -> int:
    """The number of the newest event, 0 before the first: what follows from the events changes only with it.

    Raises InputError.
    """
    with db.read() as connection:
        return newest(connection, project)


def newest(connection: Connection, project: str) -> int:
    """The same within a transaction."""
    query = select(func.coalesce(func.max(events.c.id), 0)).join(tasks, events.c.task == tasks.c.id)
    return int(connection.scalar(query.where(tasks.c.project == project_id(connection, project))) or 0)


def days(db: Database, project: str, count: int = 14) -> list[Day]:
    """The last days, the oldest first, today among them.  Corrections are no new answers.  Raises InputError."""
    first = int(db.now() // DAY) - count + 1
    spans = [func.count().filter(events.c.at >= (first + n) * DAY, events.c.at < (first + n + 1) * DAY) for n in range(count)]
    with db.read() as connection:
        query = (
            select(people.c.pseudonym, *spans)
            .select_from(events)
            .join(tasks, events.c.task == tasks.c.id)
            .join(people, events.c.person == people.c.id)
            .where(tasks.c.project == project_id(connection, project), events.c.kind == "submit", events.c.at >= first * DAY)
            .group_by(people.c.pseudonym)
            .order_by(people.c.pseudonym)
        )
        rows = connection.execute(query).all()
    found = []
    for n in range(count):
        by = {row[0]: int(row[n + 1]) for row in rows if row[n + 1]}
        found.append(Day(datetime.fromtimestamp(0, UTC).date() + timedelta(days=first + n), sum(by.values()), by))
    return found


def answered(db: Database, project: str) -> dict[str, int]:
    """How many answers each person of a project has given in all, by pseudonym.  Raises InputError."""
    with db.read() as connection:
        query = (
            select(people.c.pseudonym, func.count())
            .select_from(assignments)
            .join(tasks, assignments.c.task == tasks.c.id)
            .join(people, assignments.c.person == people.c.id)
            .where(tasks.c.project == project_id(connection, project), assignments.c.state == "done")
            .where(assignments.c.purpose != "adjudication")
            .group_by(people.c.pseudonym)
        )
        return {name: int(count) for name, count in connection.execute(query)}


def skipped(db: Database, task: Task) -> int:
    """How many times somebody has left an item of a task to others."""
    which = (assignments.c.task == task.id) & (assignments.c.state == "skipped")
    with db.read() as connection:
        return int(connection.scalar(select(func.count()).where(which)) or 0)


def item_states(db: Database, task: Task, limit: int = 50, after: int = -1, item: str | None = None) -> list[ItemState]:
    """Items of a task by their position, from the one after `after`; or the one item."""
    done = func.count().filter(assignments.c.state == "done", assignments.c.purpose == "work").label("done")
    skipped = func.count().filter(assignments.c.state == "skipped").label("let_go")
    settled = func.count().filter(assignments.c.state == "done", assignments.c.purpose == "adjudication").label("settled")
    query = (
        select(items.c.id, items.c.position, items.c.purpose, items.c.priority, items.c.item, items.c.taken, done, skipped, settled)
        .outerjoin(assignments, assignments.c.item == items.c.id)
        .where(items.c.task == task.id, items.c.position > after)
        .group_by(items.c.id, items.c.position, items.c.purpose, items.c.priority, items.c.item, items.c.taken)
        .order_by(items.c.position)
        .limit(limit)
    )
    if item is not None:
        query = query.where(items.c.id == item)
    with db.read() as connection:
        rows = connection.execute(query).all()
    return [
        ItemState(
            id=row.id,
            position=row.position,
            purpose=row.purpose,
            priority=row.priority,
            content=Item.model_validate(row.item),
            given_out=row.taken,
            labels=row.done,
            skipped=row.let_go,
            settled=bool(row.settled),
        )
        for row in rows
    ]


def contents(db: Database, ids: Iterable[str]) -> dict[str, tuple[int, Item]]:
    """What items ask about, by id, each with its position in its task."""
    wanted, found = sorted(set(ids)), dict[str, tuple[int, Item]]()
    with db.read() as connection:
        for start in range(0, len(wanted), IDS):
            query = select(items.c.id, items.c.position, items.c.item).where(items.c.id.in_(wanted[start : start + IDS]))
            found |= {item: (position, Item.model_validate(content)) for item, position, content in connection.execute(query)}
    return found


def of_item(db: Database, task: Task, item: str) -> tuple[ItemState, list[Label]]:
    """An item, and all that was said of it.  Raises InputError."""
    found = item_states(db, task, 1, item=item)
    if not found:
        raise InputError(f"task {task.name!r} has no such item", "one of its own")
    with db.read() as connection:
        return found[0], view(connection, task.project, only=assignments.c.item == item)


def everything(db: Database, project: str, upto: int | None = None) -> tuple[int, list[Label]]:
    """The newest event, or `upto`, and all labels as they stand after it, practice and flagged ones too.  Raises InputError."""
    with db.read() as connection:
        upto = newest(connection, project) if upto is None else upto
        return upto, through(EVERYTHING, view(connection, project, upto))


def settled(db: Database, project: str) -> set[str]:
    """The items that an adjudicator has settled.  Raises InputError."""
    with db.read() as connection:
        query = (
            select(assignments.c.item)
            .join(tasks, assignments.c.task == tasks.c.id)
            .where(tasks.c.project == project_id(connection, project))
            .where(assignments.c.purpose == "adjudication", assignments.c.state == "done")
        )
        return set(connection.scalars(query))


def one_label(db: Database, label: str) -> tuple[Label | None, list[Past]]:
    """A label as it stands, None where it was taken back, and all that was done to it.  Raises InputError."""
    with db.read() as connection:
        query = select(projects.c.name).join(tasks, tasks.c.project == projects.c.id).join(assignments, assignments.c.task == tasks.c.id)
        project = connection.scalar(query.where(assignments.c.id == label))
        if project is None:
            raise InputError(f"there is no label {label!r} in this store", "the id that an export gives as `label`")
        found = view(connection, project, only=assignments.c.id == label)
        return (found[0] if found else None), past(connection, label)


def named(db: Database, ids: Sequence[str]) -> list[Label]:
    """The labels with these ids as they stand, those that are in the store, in its order."""
    wanted = set(ids)
    with db.read() as connection:
        homes: dict[str, None] = {}
        for start in range(0, len(ids), IDS):
            query = (
                select(projects.c.name).join(tasks, tasks.c.project == projects.c.id).join(assignments, assignments.c.task == tasks.c.id)
            )
            homes |= dict.fromkeys(connection.scalars(query.where(assignments.c.id.in_(ids[start : start + IDS])).distinct()))
        return [label for project in homes for label in view(connection, project) if label.id in wanted]


def past(connection: Connection, assignment: str) -> list[Past]:
    """The events of an assignment, in order."""
    query = (
        select(events.c.at, people.c.pseudonym, events.c.kind, events.c.version, events.c.seconds, events.c.body)
        .join(people, events.c.person == people.c.id)
        .where(events.c.assignment == assignment)
        .order_by(events.c.version)
    )
    return [Past(*row) for row in connection.execute(query)]
