"""A whole project looked through: which items, who did what with them and when.  Texts are read where they are asked for."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import Connection, func, select

from handrail.errors import InputError
from handrail.feedback.kinds import Purpose
from handrail.feedback.store.database import Database
from handrail.feedback.store.people import project_id
from handrail.feedback.store.projects import Task, read_tasks
from handrail.feedback.store.review import Past, newest
from handrail.feedback.store.tables import assignments, events, items, people, projects, tasks


class Done(NamedTuple):
    """Somebody had an item and answered or skipped it: `at` is when they first did, `last` when something was last done to it.

    `seconds` are the most that were spent on an answer, `id` is the label's.
    """

    id: str
    item: str
    task: str
    person: str
    state: str
    purpose: Purpose
    at: float
    last: float
    seconds: float


class Place(NamedTuple):
    """An item, without what it asks about."""

    id: str
    task: str
    position: int
    purpose: Purpose


@dataclass(frozen=True)
class Asked:
    """An item before somebody: in which order its responses stood, and all that was done."""

    id: str
    person: str
    purpose: Purpose
    repetition: int
    state: str
    order: tuple[int, ...]
    past: list[Past] = field(default_factory=list)


def version(db: Database, project: str) -> tuple[float, int, int]:
    """When the project was made, its newest event, and the number of its items: what is shown of it changes with them.

    Raises InputError.
    """
    with db.read() as connection:
        number = project_id(connection, project)
        made = connection.scalar(select(projects.c.created).where(projects.c.id == number))
        counted = select(func.count()).select_from(items).join(tasks, items.c.task == tasks.c.id).where(tasks.c.project == number)
        return float(made or 0.0), newest(connection, project), int(connection.scalar(counted) or 0)


def done(db: Database, project: str) -> list[Done]:
    """What everybody answered or skipped, in the order in which they did.  Raises InputError."""
    answered = func.min(events.c.at).filter(events.c.kind.in_(("submit", "adjudicate")))
    query = (
        select(assignments.c.id, assignments.c.item, tasks.c.name, people.c.pseudonym, assignments.c.state, assignments.c.purpose)
        .add_columns(func.coalesce(answered, func.min(events.c.at)).label("first"), func.max(events.c.at), func.max(events.c.seconds))
        .join(tasks, assignments.c.task == tasks.c.id)
        .join(people, assignments.c.person == people.c.id)
        .join(events, events.c.assignment == assignments.c.id)
        .where(assignments.c.state.in_(("done", "skipped")))
        .group_by(assignments.c.id, assignments.c.item, tasks.c.name, people.c.pseudonym, assignments.c.state, assignments.c.purpose)
        .order_by("first")
    )
    with db.read() as connection:
        return [Done(*row) for row in connection.execute(query.where(tasks.c.project == project_id(connection, project)))]


def places(db: Database, project: str) -> list[Place]:
    """Every item, task by task.  Raises InputError."""
    query = select(items.c.id, tasks.c.name, items.c.position, items.c.purpose).join(tasks, items.c.task == tasks.c.id)
    with db.read() as connection:
        query = query.where(tasks.c.project == project_id(connection, project)).order_by(tasks.c.id, items.c.position)
        return [Place(*row) for row in connection.execute(query)]


def texts(db: Database, project: str) -> Iterator[tuple[str, str]]:
    """The id of each item, and all that stands in it in small letters: the conversation and the responses.  Raises InputError."""
    query = select(items.c.id, items.c.item).join(tasks, items.c.task == tasks.c.id)
    with db.read() as connection:
        for item, content in connection.execute(query.where(tasks.c.project == project_id(connection, project))):
            yield item, "\n".join([*(one["content"] for one in content["prompt"]["messages"]), *content["responses"]]).lower()


def find(db: Database, item: str) -> Task:
    """The task of an item.  Raises InputError."""
    with db.read() as connection:
        number = connection.scalar(select(items.c.task).where(items.c.id == item))
        if number is None:
            raise InputError("there is no such item in this store", "one of its own")
        return read_tasks(connection, number=number)[0]


def asked(db: Database, item: str) -> list[Asked]:
    """Before whom an item was put and what they did, in the order in which they were given it."""
    columns = [assignments.c[name] for name in ("purpose", "repetition", "state", "order")]
    query = select(assignments.c.id, people.c.pseudonym, *columns).join(people, assignments.c.person == people.c.id)
    with db.read() as connection:
        past = pasts(connection, item)
        return [
            Asked(id, person, purpose, repetition, state, tuple(order), past[id])
            for id, person, purpose, repetition, state, order in connection.execute(
                query.where(assignments.c.item == item).order_by(assignments.c.leased, assignments.c.id)
            )
        ]


def pasts(connection: Connection, item: str) -> dict[str, list[Past]]:
    """The events of each assignment of an item, in order."""
    query = (
        select(events.c.assignment, events.c.at, people.c.pseudonym, events.c.kind, events.c.version, events.c.seconds, events.c.body)
        .join(people, events.c.person == people.c.id)
        .join(assignments, events.c.assignment == assignments.c.id)
        .where(assignments.c.item == item)
        .order_by(events.c.version)
    )
    found: dict[str, list[Past]] = defaultdict(list)
    for assignment, *event in connection.execute(query):
        found[assignment].append(Past(*event))
    return found
