"""Projects, their tasks, and the items of a task."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, insert, or_, select, update

from handrail.errors import InputError
from handrail.feedback.kinds import Item, TaskSettings, fits, question_of, right_of
from handrail.feedback.store.database import Database
from handrail.feedback.store.people import NAME, Person, note, project_id
from handrail.feedback.store.tables import assignments, canonical, events, items, members, projects, revisions, snapshots, tasks


@dataclass(frozen=True)
class Task:
    """A task of a project, with the newest revision of its settings."""

    id: int
    project: str
    name: str
    revision: int
    settings: TaskSettings


def make_project(db: Database, name: str, title: str = "", by: Person | None = None) -> None:
    """A new project.  Raises InputError for a name that cannot be, or is there."""
    if not NAME.fullmatch(name):
        raise InputError(f"the name {name!r}", "letters, digits, '.', '_' and '-', the first a letter or digit, at most 64")
    with db.write() as connection:
        if connection.scalar(select(projects.c.id).where(projects.c.name == name)):
            raise InputError(f"there is a project {name!r} already", "another name")
        connection.execute(insert(projects).values(name=name, title=title or name, created=db.now()))
        note(db, connection, by, "make project", {"project": name})


def all_projects(db: Database) -> list[dict[str, Any]]:
    """Name and title of each."""
    with db.read() as connection:
        return [dict(row) for row in connection.execute(select(projects.c.name, projects.c.title).order_by(projects.c.id)).mappings()]


def remove_project(db: Database, name: str, by: Person | None = None) -> None:
    """Delete a project that nobody has worked in, with its tasks and items.  Raises InputError where something would be lost."""
    with db.write() as connection:
        number = project_id(connection, name)
        db.lock_project(connection, number)
        mine = list(connection.scalars(select(tasks.c.id).where(tasks.c.project == number).order_by(tasks.c.id)))
        for task in mine:
            db.lock_task(connection, task)
        if why := worked_in(connection, number, by):
            raise InputError(f"{why} in project {name!r}", "a project that nobody has worked in", ARCHIVE)
        for table in (assignments, items, revisions):
            connection.execute(delete(table).where(table.c.task.in_(mine)))
        for table in (tasks, members, snapshots):
            connection.execute(delete(table).where(table.c.project == number))
        connection.execute(delete(projects).where(projects.c.id == number))
        note(db, connection, by, "delete project", {"project": name, "tasks": len(mine)})


ARCHIVE = "what people said is never deleted; `handrail feedback archive` keeps a project in a file"


def worked_in(connection: Connection, project: int, by: Person | None = None) -> str:
    """What people have done in a project, or may still send; "" where nothing but looking by `by`."""
    within = tasks.c.project == project
    if connection.scalar(select(events.c.id).join(tasks).where(within).limit(1)):
        return "people have answered"
    others = assignments.c.person != (by.id if by else 0)
    if connection.scalar(select(assignments.c.id).join(tasks).where(within, others).limit(1)):
        return "items are before people"
    return ""


def in_the_way(db: Database, name: str, by: Person) -> str:
    """Why a project cannot be deleted; "" where it can.  Raises InputError."""
    with db.read() as connection:
        return worked_in(connection, project_id(connection, name), by)


def make_task(db: Database, project: str, name: str, settings: TaskSettings, by: Person | None = None) -> Task:
    """A new task.  Raises InputError."""
    if not NAME.fullmatch(name):
        raise InputError(f"the name {name!r}", "letters, digits, '.', '_' and '-', the first a letter or digit, at most 64")
    with db.write() as connection:
        number = project_id(connection, project)
        db.lock_project(connection, number)
        if connection.scalar(select(tasks.c.id).where(tasks.c.project == number, tasks.c.name == name)):
            raise InputError(f"project {project!r} has a task {name!r} already", "another name")
        now = db.now()
        values = {"project": number, "name": name, "revision": 1, "created": now}
        made: int = connection.execute(insert(tasks).values(values).returning(tasks.c.id)).scalar_one()
        connection.execute(insert(revisions).values(task=made, number=1, settings=settings.model_dump(mode="json"), created=now))
        note(db, connection, by, "make task", {"project": project, "task": name})
    return Task(made, project, name, 1, settings)


def revise(db: Database, task: Task, settings: TaskSettings, by: Person | None = None) -> Task:
    """New settings or instructions; labels remember those that were shown.  Raises InputError."""
    if settings.kind != task.settings.kind:
        raise InputError(f"task {task.name!r} of kind {task.settings.kind} is to be of kind {settings.kind}", "make another task")
    with db.write() as connection:
        db.lock_task(connection, task.id)
        number = int(connection.scalar(select(tasks.c.revision).where(tasks.c.id == task.id)) or 0) + 1
        values = {"task": task.id, "number": number, "settings": settings.model_dump(mode="json"), "created": db.now()}
        connection.execute(insert(revisions).values(values))
        connection.execute(update(tasks).where(tasks.c.id == task.id).values(revision=number))
        note(db, connection, by, "revise task", {"project": task.project, "task": task.name, "revision": number})
    return Task(task.id, task.project, task.name, number, settings)


def all_tasks(db: Database, project: str | None = None, person: Person | None = None) -> list[Task]:
    """The tasks of a project, or of all those in which a person works."""
    with db.read() as connection:
        return read_tasks(connection, project=project, person=person)


def task_of(db: Database, number: int, person: Person | None = None) -> Task:
    """A task by its number, one in which the person may work.  Raises InputError."""
    with db.read() as connection:
        found = read_tasks(connection, number=number, person=person)
    if not found:
        raise InputError(f"there is no task {number}", "one of yours")
    return found[0]


def find_task(db: Database, project: str, name: str) -> Task:
    """A task by the names of its project and its own.  Raises InputError."""
    with db.read() as connection:
        project_id(connection, project)
        found = {task.name: task for task in read_tasks(connection, project=project)}
    if name not in found:
        raise InputError(f"project {project!r} has no task {name!r}", f"one of {', '.join(found)}" if found else "it has none so far")
    return found[name]


def read_tasks(connection: Connection, project: str | None = None, person: Person | None = None, number: int | None = None) -> list[Task]:
    """The tasks that fit all of what is given; an admin works everywhere."""
    query = (
        select(tasks.c.id, projects.c.name, tasks.c.name, tasks.c.revision, revisions.c.settings)
        .join(projects, tasks.c.project == projects.c.id)
        .join(revisions, (revisions.c.task == tasks.c.id) & (revisions.c.number == tasks.c.revision))
        .order_by(tasks.c.id)
    )
    if project is not None:
        query = query.where(projects.c.name == project)
    if number is not None:
        query = query.where(tasks.c.id == number)
    if person is not None and not person.admin:
        query = query.join(members, (members.c.project == projects.c.id) & (members.c.person == person.id))
    return [Task(*row[:4], settings=TaskSettings.model_validate(row[4])) for row in connection.execute(query)]


SETTINGS = select(revisions.c.settings).where(revisions.c.task == bindparam("task"), revisions.c.number == bindparam("number"))


def settings_of(connection: Connection, task: int, revision: int) -> TaskSettings:
    """The settings of one revision."""
    return TaskSettings.model_validate(connection.scalar(SETTINGS, {"task": task, "number": revision}))


def settings_at(connection: Connection, task: int) -> dict[int, TaskSettings]:
    """The settings of each revision."""
    rows = connection.execute(select(revisions.c.number, revisions.c.settings).where(revisions.c.task == task))
    return {number: TaskSettings.model_validate(found) for number, found in rows}


def all_settings(db: Database, project: str) -> dict[str, dict[int, TaskSettings]]:
    """The settings of each task of a project by revision: a label means what it meant under those that it was given under.

    Raises InputError.
    """
    found: dict[str, dict[int, TaskSettings]] = {}
    with db.read() as connection:
        query = select(tasks.c.name, revisions.c.number, revisions.c.settings).join(revisions, revisions.c.task == tasks.c.id)
        for name, number, settings in connection.execute(query.where(tasks.c.project == project_id(connection, project))):
            found.setdefault(name, {})[number] = TaskSettings.model_validate(settings)
    return found


def content_of(item: Item) -> str:
    """SHA-256 of what is asked about: prompt, responses, and whether it is practice.  Priority and meta are not in it."""
    told = [item.prompt.model_dump(mode="json", include={"messages"}), item.responses, item.models, item.practice]
    return hashlib.sha256(canonical(told).encode()).hexdigest()


@dataclass(frozen=True)
class TakenIn:
    """How many items came in; of those that were there already, the priority is now the one given.

    `work` counts those of the latter that were given with a right answer and stay what they are: work, which checks nobody.
    """

    new: int
    known: int
    work: int = 0


def take_in(db: Database, task: Task, found: Sequence[Item], by: Person | None = None) -> TakenIn:
    """Put items into a task, all of them or none.

    Raises InputError, with the number of the item, where one does not fit the task, or its right answer contradicts another.
    """
    for number, item in enumerate(found, 1):
        try:
            fits(task.settings, item)
        except InputError as error:
            raise InputError(f"item {number}: {error.found}", error.allowed, error.remedy) from error
    with db.write() as connection:
        db.lock_task(connection, task.id)
        query = select(items.c.content, items.c.id, items.c.purpose).where(items.c.task == task.id)
        there = {content: (id, purpose) for content, id, purpose in connection.execute(query)}
        before, position, rows, work = len(there), len(there), [], 0
        rights = right_answers(connection, task) if any(right_of(item) for item in found) else {}
        for number, item in enumerate(found, 1):
            content, right = content_of(item), right_of(item)
            if right and rights.setdefault((question_of(item), item.practice), right) != right:
                told = f"item {number} for task {task.name}: its right answer is another than the one that is there to the same question"
                raise InputError(told, "one right answer to a question", "leave it away, or put it into another task")
            if content in there:
                id, purpose = there[content]
                connection.execute(update(items).where(items.c.id == id).values(priority=item.priority))
                work += bool(right) and purpose == "work"
                continue
            purpose = "practice" if item.practice else "gold" if item.gold is not None else "work"
            there[content] = db.opaque(), purpose
            values = {"id": there[content][0], "task": task.id, "position": position, "content": content, "created": db.now()}
            rows.append(values | {"item": item.model_dump(mode="json"), "purpose": purpose, "priority": item.priority, "taken": 0})
            position += 1
        if rows:
            connection.execute(insert(items), rows)
        note(db, connection, by, "import", {"project": task.project, "task": task.name, "new": len(rows)})
    return TakenIn(len(there) - before, len(found) - (len(there) - before), work)


def right_answers(connection: Connection, task: Task) -> dict[tuple[Any, bool], dict[str, Any]]:
    """What is right of each question that a task checks, and of each that it teaches in the practice round."""
    query = select(items.c.item).where(items.c.task == task.id, items.c.purpose.in_(("gold", "practice")))
    known = [Item.model_validate(one) for one in connection.scalars(query.order_by(items.c.position))]
    return {(question_of(item), item.practice): right for item in known if (right := right_of(item))}


WORK = select(func.count()).where(items.c.task == bindparam("task"), items.c.purpose == "work")
GIVEN = (
    select(assignments.c.state, func.count())
    .where(assignments.c.task == bindparam("task"), assignments.c.purpose.in_(bindparam("purposes", expanding=True)))
    .where(assignments.c.state.in_(("done", "open")), ~assignments.c.extra)
    .group_by(assignments.c.state)
)
MINE = (assignments.c.task == bindparam("task")) & (assignments.c.person == bindparam("person")) & (assignments.c.purpose != "adjudication")
REAL = func.count().filter(assignments.c.purpose != "practice")
THEIRS = select(assignments.c.state, func.count(), REAL).where(MINE).group_by(assignments.c.state)
AGAIN = (
    select(func.count())
    .select_from(assignments)
    .join(items, assignments.c.item == items.c.id)
    .where(MINE, assignments.c.state == "skipped", or_(assignments.c.purpose != "work", items.c.taken < bindparam("overlap")))
)


def look(db: Database, task: Task, found: Sequence[Item]) -> TakenIn:
    """What `take_in` would say, with nothing written."""
    with db.read() as connection:
        there = set(connection.scalars(select(items.c.content).where(items.c.task == task.id)))
    new = len({content_of(item) for item in found} - there)
    return TakenIn(new, len(found) - new)


def progress(db: Database, task: Task, person: Person | None = None) -> dict[str, int]:
    """How far a task is: items, labels wanted and there; and of a person: answered (practice is none), skipped, and how
    many of the skipped still have room for an answer.

    For a labeller gold items and repeats count as work does: what a number does after an answer must not tell them apart.
    """
    with db.read() as connection:
        counted = int(connection.scalar(WORK, {"task": task.id}) or 0)
        blind = person is not None and not person.admin
        counts = connection.execute(GIVEN, {"task": task.id, "purposes": ("work", "gold", "repeat") if blind else ("work",)})
        given: dict[str, int] = {state: count for state, count in counts}
        wanted, labels = counted * task.settings.overlap, given.get("done", 0)
        found = {"items": counted, "wanted": wanted, "labels": min(labels, wanted) if blind else labels, "given_out": given.get("open", 0)}
        if person is not None:
            asked = {"task": task.id, "person": person.id}
            done = {state: (every, real) for state, every, real in connection.execute(THEIRS, asked)}
            found |= {"yours": done.get("done", (0, 0))[1], "skipped": done.get("skipped", (0, 0))[0]}
            found["again"] = int(connection.scalar(AGAIN, asked | {"overlap": task.settings.overlap}) or 0)
    return found
