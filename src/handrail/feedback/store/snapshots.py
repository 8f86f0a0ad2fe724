"""The labels as they stand, or stood at any event; exports that can be made again byte for byte."""

import difflib
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import Field
from sqlalchemy import Connection, func, insert, select

from handrail.errors import InputError
from handrail.feedback.kinds import ANSWER, Item, Label, Purpose
from handrail.feedback.store.assignment import content_of, read, shown
from handrail.feedback.store.database import Database
from handrail.feedback.store.labels import Acknowledged, Event, Standing, Submission, already, append, event_of, settle, stand
from handrail.feedback.store.people import Person, note, project_id
from handrail.feedback.store.projects import Task
from handrail.feedback.store.tables import assignments, canonical, events, items, people, projects, revisions, snapshots, tasks
from handrail.records import Record

ADJUDICATION = 9  # the repetition under which an adjudicator's answer stands


class Rules(Record):
    """Which labels an export has."""

    tasks: tuple[str, ...] = Field((), description="names; (): all of the project")
    purposes: tuple[Purpose, ...] = ("work", "adjudication")
    flagged: bool = Field(False, description="with those that somebody flagged")
    extra: bool = Field(True, description="with those beyond the overlap")
    without: tuple[str, ...] = Field((), description="pseudonyms of labellers who are left out")
    settled: bool = Field(True, description="where an item was adjudicated, that answer alone")


@dataclass(frozen=True)
class Snapshot:
    """An export that can be made again: the same id gives the same labels."""

    id: str
    project: str
    rules: Rules
    upto: int
    labels: int
    sha256: str
    created: float


def labels(db: Database, project: str, rules: Rules | None = None, upto: int | None = None) -> list[Label]:
    """The labels of a project as they stand after event `upto`, all that the rules let through.  Raises InputError."""
    with db.read() as connection:
        return through(rules or Rules(), view(connection, project, upto))


def view(connection: Connection, project: str, upto: int | None = None, only: Any = None) -> list[Label]:
    """Every answered assignment, in the order of their first events; `only` is a condition on assignments."""
    number = project_id(connection, project)
    query = (
        select(events.c.assignment, events.c.kind, events.c.body, events.c.at, events.c.seconds, events.c.person)
        .join(tasks, events.c.task == tasks.c.id)
        .where(tasks.c.project == number)
    )
    if upto is not None:
        query = query.where(events.c.id <= upto)
    if only is not None:
        query = query.where(events.c.assignment.in_(select(assignments.c.id).where(only)))
    standings: dict[str, Standing] = {}
    for assignment, *event in connection.execute(query.order_by(events.c.id)):
        standings.setdefault(assignment, Standing()).apply(*event)
    columns = [assignments.c[name] for name in ("id", "item", "purpose", "repetition", "order", "revision", "shown")]
    answered = (
        select(*columns, assignments.c.task.label("number"), tasks.c.name.label("task"))
        .join(tasks, assignments.c.task == tasks.c.id)
        .where(tasks.c.project == number)
    )
    asked = select(items.c.id, items.c.item).join(tasks, items.c.task == tasks.c.id).where(tasks.c.project == number)
    if only is not None:
        answered, asked = answered.where(only), asked.where(items.c.id.in_(select(assignments.c.item).where(only)))
    known = {row["id"]: row for row in connection.execute(answered).mappings()}
    contents = {item: Item.model_validate(content) for item, content in connection.execute(asked)}  # each once: many say something of it
    names: dict[int, str] = dict(connection.execute(select(people.c.id, people.c.pseudonym)).tuples().all())
    models = chat_models(connection, number)
    found = []
    for assignment, standing in standings.items():
        if standing.answers:
            row = known[assignment]
            found.append(label(project, row, contents[row["item"]], standing, names, models.get((row["number"], row["revision"]), ())))
    return found


def chat_models(connection: Connection, project: int) -> dict[tuple[int, int], tuple[str, ...]]:
    """The two models of each task of chats, by its number and the revision of its settings."""
    query = select(revisions.c.task, revisions.c.number, revisions.c.settings).join(tasks, revisions.c.task == tasks.c.id)
    rows = connection.execute(query.where(tasks.c.project == project))
    return {(task, revision): tuple(settings["models"]) for task, revision, settings in rows}


def label(project: str, row: Any, item: Item, standing: Standing, names: Mapping[int, str], chatting: tuple[str, ...]) -> Label:
    """One label, with all that was shown.  Who gave the answer that holds is its labeller: several may settle an item in turn.

    `chatting`: the models of the task, where the label is a chat.
    """
    body, at, seconds, by = standing.answers[-1]
    return Label(
        id=row["id"],
        project=project,
        task=row["task"],
        item=row["item"],
        prompt=item.prompt,
        responses=item.responses,
        models=chatting if body["answer"]["kind"] == "chat" else item.models,
        answer=ANSWER.validate_python(body["answer"]),
        order=tuple(row["order"]),
        labeller=names[by],
        purpose=row["purpose"],
        repetition=row["repetition"],
        at=at,
        seconds=seconds,
        reason=body["reason"],
        flagged=standing.flagged,
        extra=standing.extra,
        gold=item.gold,
        revision=row["revision"],
        shown=row["shown"],
    )


def through(rules: Rules, found: Iterable[Label]) -> list[Label]:
    """The labels that the rules let through."""
    kept = [
        one
        for one in found
        if (not rules.tasks or one.task in rules.tasks)
        and one.purpose in rules.purposes
        and (rules.flagged or not one.flagged)
        and (rules.extra or not one.extra)
        and one.labeller not in rules.without
    ]
    settled = {one.item for one in kept if one.purpose == "adjudication"} if rules.settled else set()
    return [one for one in kept if one.item not in settled or one.purpose == "adjudication"]


def take(db: Database, project: str, rules: Rules | None = None, by: Person | None = None) -> tuple[Snapshot, list[Label]]:
    """A snapshot of the labels as they stand now.  Raises InputError."""
    rules = rules or Rules()
    with db.write() as connection:
        number = project_id(connection, project)
        db.lock_project(connection, number)
        for task in connection.scalars(select(tasks.c.id).where(tasks.c.project == number).order_by(tasks.c.id)).all():
            db.lock_task(connection, task)  # an event of a lower number could still be on its way
        if absent := set(rules.tasks) - set(connection.scalars(select(tasks.c.name).where(tasks.c.project == number))):
            raise InputError(f"project {project!r} has no task {', '.join(sorted(absent))}", "see `handrail feedback status`")
        somebody(connection, rules.without)
        last = select(func.coalesce(func.max(events.c.id), 0)).join(tasks, events.c.task == tasks.c.id).where(tasks.c.project == number)
        upto = int(connection.scalar(last) or 0)
        found = through(rules, view(connection, project, upto))
        told = canonical([project, rules.model_dump(mode="json"), upto])
        made = Snapshot(hashlib.sha256(told.encode()).hexdigest()[:16], project, rules, upto, len(found), digest(found), db.now())
        before = connection.scalar(select(snapshots.c.created).where(snapshots.c.id == made.id))
        if before is not None:
            made = replace(made, created=before)
        else:
            values = {"id": made.id, "project": number, "rules": rules.model_dump(mode="json"), "upto": upto, "labels": made.labels}
            values |= {"sha256": made.sha256, "person": by.id if by else None, "created": made.created}
            connection.execute(insert(snapshots).values(values))
        note(db, connection, by, "export", {"project": project, "snapshot": made.id, "labels": made.labels})
    return made, found


def somebody(connection: Connection, names: tuple[str, ...]) -> None:
    """Whether each is the pseudonym of somebody who is or was there; one misspelt would leave nobody out.  Raises InputError."""
    there = connection.scalars(select(people.c.pseudonym).order_by(people.c.id)).all()
    for name in names:
        if name not in there:
            near = difflib.get_close_matches(name, there, n=1)
            remedy = f"did you mean {near[0]!r}?" if near else "see `handrail feedback status`"
            raise InputError(f"nobody has or had the pseudonym {name!r}, who is to be left out", "a pseudonym of the store", remedy)


def again(db: Database, snapshot: str) -> tuple[Snapshot, list[Label]]:
    """A snapshot that was taken before.  Raises InputError, also where its labels are no longer what they were."""
    with db.read() as connection:
        row = connection.execute(select(snapshots, projects.c.name.label("of")).join(projects).where(snapshots.c.id == snapshot)).first()
        if row is None:
            raise InputError(f"there is no snapshot {snapshot!r}", "see `handrail feedback status`")
        rules = Rules.model_validate(row.rules)
        found = through(rules, view(connection, row.of, row.upto))
    made = Snapshot(row.id, row.of, rules, row.upto, row.labels, row.sha256, row.created)
    if digest(found) != made.sha256:
        changed = f"the labels of snapshot {snapshot} are not what they were"
        raise InputError(changed, f"SHA-256 {made.sha256}", "somebody has changed the database")
    return made, found


def there(db: Database, snapshot: str) -> bool:
    """Whether there is such a snapshot."""
    with db.read() as connection:
        return connection.scalar(select(snapshots.c.id).where(snapshots.c.id == snapshot)) is not None


def all_snapshots(db: Database, project: str) -> list[Snapshot]:
    """Those of a project, the newest first."""
    with db.read() as connection:
        number = project_id(connection, project)
        rows = connection.execute(
            select(snapshots).where(snapshots.c.project == number).order_by(snapshots.c.created.desc(), snapshots.c.upto.desc())
        ).all()
    return [Snapshot(r.id, project, Rules.model_validate(r.rules), r.upto, r.labels, r.sha256, r.created) for r in rows]


def digest(found: Iterable[Label]) -> str:
    """SHA-256 of labels, one a line."""
    total = hashlib.sha256()
    for one in found:
        total.update(line(one).encode())
    return total.hexdigest()


def line(one: Label) -> str:
    """A label as a line of JSON."""
    return canonical(one.model_dump(mode="json")) + "\n"


def adjudicate(
    db: Database, by: Person, task: Task, item: str, submission: Submission, order: tuple[int, ...] | None = None
) -> Acknowledged:
    """An adjudicator's answer to an item, in the order of the item; it holds in place of the labellers'.

    `order[i]` is the response that stood at place i on their screen; None: as in the item.  Raises InputError.
    """
    told = hashlib.sha256(canonical([item, submission.model_dump(mode="json")]).encode()).hexdigest()
    with db.write() as connection:
        db.lock_task(connection, task.id)
        if connection.scalar(select(items.c.task).where(items.c.id == item)) != task.id:
            raise InputError(f"task {task.name!r} has no such item", "one of its own")
        if repeated := already(connection, submission.key, told):
            return Acknowledged(submission.key, repeated[0], repeated[1])
        found = adjudication(db, connection, by, task, item, order)
        version, standing = stand(connection, found.id)
        kind, body = event_of(connection, replace(found, order=tuple(range(len(found.order)))), standing, submission)
        standing.apply(kind, body, db.now(), submission.seconds)
        body["state"] = standing.state
        kind = "adjudicate" if kind == "submit" else kind
        append(db, connection, found, version + 1, Event(by, submission.key, told, kind, body, submission.seconds or None))
        settle(db, connection, found, standing)
        note(db, connection, by, "adjudicate", {"project": task.project, "task": task.name, "item": item})
    return Acknowledged(submission.key, standing.state, version + 1)


def adjudication(db: Database, connection: Connection, by: Person, task: Task, item: str, seen: tuple[int, ...] | None) -> Any:
    """The assignment under which adjudicators' answers to an item stand, with the order that the first of them saw."""
    which = (assignments.c.item == item) & (assignments.c.repetition == ADJUDICATION)
    if before := read(connection, which):
        return before[0]
    content, now = content_of(connection, item), db.now()
    order = list(range(len(content.responses)) if seen is None else seen)
    values = {"id": db.opaque(), "item": item, "task": task.id, "person": by.id, "purpose": "adjudication", "repetition": ADJUDICATION}
    values |= {"order": order, "revision": task.revision, "shown": shown(content, order, task.revision), "number": 0}
    connection.execute(insert(assignments).values(values | {"leased": now, "expires": now, "state": "done", "extra": False}))
    return read(connection, which)[0]
