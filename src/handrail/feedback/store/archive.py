"""A whole project out of the store, and into an empty one: labels, snapshots and their ids come out the same.

Of people there is the pseudonym alone.  Names, links, sessions and tokens stay behind: whoever is to go on working gets a
new link from the store that the project was brought into.
"""

from typing import Any

from sqlalchemy import Connection, Table, func, insert, select, text

from handrail.errors import DataError, InputError
from handrail.feedback.formats.archive import Archive, ArchiveEvent, ArchiveHeader, ArchiveItem, ArchivePerson, ArchiveTask
from handrail.feedback.kinds import Item, TaskSettings
from handrail.feedback.store.database import Database
from handrail.feedback.store.people import Person, note, project_id
from handrail.feedback.store.tables import assignments, events, items, members, people, projects, revisions, snapshots, tasks

OF_ITEM = ("position", "content", "purpose", "priority", "taken")
OF_ASSIGNMENT = ("id", "repetition", "purpose", "number", "order", "revision", "shown", "leased", "expires", "state", "extra")
OF_EVENT = ("id", "key", "digest", "assignment", "seconds", "version", "body")
OF_SNAPSHOT = ("id", "rules", "upto", "labels", "sha256", "created")
SNAPSHOT = "snapshot taken"


def collect(db: Database, project: str, by: Person | None = None) -> Archive:
    """All of a project as it stands.  Raises InputError."""
    with db.write() as connection:
        number = project_id(connection, project)
        for task in connection.scalars(select(tasks.c.id).where(tasks.c.project == number).order_by(tasks.c.id)).all():
            db.lock_task(connection, task)
        names = dict(connection.execute(select(people.c.id, people.c.pseudonym)).tuples().all())
        title, created = connection.execute(select(projects.c.title, projects.c.created).where(projects.c.id == number)).one()
        archive = Archive(ArchiveHeader(project=project, written=db.now()))
        archive.tasks.extend(tasks_of(connection, number))
        archive.items.extend(items_in(connection, number, names))
        archive.events.extend(events_of(connection, number, names))
        about: dict[str, Any] = {
            "title": title,
            "created": created,
            "members": sorted(names[who] for who in members_of(connection, number)),
        }
        used = {one.actor for one in archive.events if one.actor} | {
            a["person"] for item in archive.items for a in item.state["assignments"]
        }
        rows = connection.execute(select(people.c.pseudonym, people.c.role).order_by(people.c.id)).all()
        known = used | set(about["members"])
        gone = select(people.c.pseudonym, people.c.deleted).where(people.c.deleted.is_not(None))
        about["deleted"] = {name: at for name, at in connection.execute(gone) if name in known}
        archive.events.append(event(len(archive.events) + 1, db.now(), "project", about))
        archive.people.extend(ArchivePerson(pseudonym=name, role=role) for name, role in rows if name in known)
        note(db, connection, by, "archive", {"project": project, "events": len(archive.events)})
    return archive


def event(number: int, at: float, action: str, body: dict[str, Any], actor: str = "", task: str = "", item: str = "") -> ArchiveEvent:
    return ArchiveEvent(number=number, at=at, actor=actor, action=action, task=task, item=item, body=body)


def members_of(connection: Connection, project: int) -> list[int]:
    """Who works in a project."""
    return list(connection.scalars(select(members.c.person).where(members.c.project == project)))


def tasks_of(connection: Connection, project: int) -> list[ArchiveTask]:
    """Every revision of every task."""
    query = select(tasks.c.name, revisions.c.number, revisions.c.created, revisions.c.settings).join(tasks)
    rows = connection.execute(query.where(tasks.c.project == project).order_by(tasks.c.id, revisions.c.number))
    return [ArchiveTask(id=name, revision=n, at=at, settings=TaskSettings.model_validate(found)) for name, n, at, found in rows]


def items_in(connection: Connection, project: int, names: dict[int, str]) -> list[ArchiveItem]:
    """Every item, with whom it was put before."""
    asked: dict[str, list[dict[str, Any]]] = {}
    query = select(assignments).join(tasks, assignments.c.task == tasks.c.id).where(tasks.c.project == project)
    for row in connection.execute(query.order_by(assignments.c.leased, assignments.c.id)).mappings():
        asked.setdefault(row["item"], []).append({key: row[key] for key in OF_ASSIGNMENT} | {"person": names[row["person"]]})
    query = select(items, tasks.c.name.label("of")).join(tasks, items.c.task == tasks.c.id).where(tasks.c.project == project)
    found = []
    for row in connection.execute(query.order_by(items.c.task, items.c.position)).mappings():
        state = {key: row[key] for key in OF_ITEM} | {"assignments": asked.get(row["id"], [])}
        content = Item.model_validate(row["item"])
        found.append(ArchiveItem(id=row["id"], task=row["of"], item=content, at=row["created"], state=state))
    return found


def events_of(connection: Connection, project: int, names: dict[int, str]) -> list[ArchiveEvent]:
    """What labellers did, in order, then the snapshots that were taken."""
    query = (
        select(events, tasks.c.name.label("of"), assignments.c.item)
        .join(tasks, events.c.task == tasks.c.id)
        .join(assignments, events.c.assignment == assignments.c.id)
        .where(tasks.c.project == project)
        .order_by(events.c.id)
    )
    found: list[ArchiveEvent] = []
    for row in connection.execute(query).mappings():
        body = {key: row[key] for key in OF_EVENT}
        found.append(event(len(found) + 1, row["at"], row["kind"], body, names[row["person"]], row["of"], row["item"]))
    taken = connection.execute(select(snapshots).where(snapshots.c.project == project).order_by(snapshots.c.created))
    for row in taken.mappings():
        body = {key: row[key] for key in OF_SNAPSHOT}
        found.append(event(len(found) + 1, row["created"], SNAPSHOT, body, names.get(row["person"], "")))
    return found


def apply(db: Database, archive: Archive, by: Person | None = None) -> None:
    """Bring a project into a store that has none.  Raises InputError, DataError; then nothing has been written."""
    with db.write() as connection:
        if there := connection.scalars(select(projects.c.name)).all():
            raise InputError(f"the store has the project {', '.join(there)}", "an empty store", "name a new one: --db PATH")
        if connection.scalar(select(func.count()).select_from(people)):
            raise InputError("the store has people in it", "an empty store", "name a new one: --db PATH")
        try:
            bring(db, connection, archive)
        except (KeyError, StopIteration, TypeError) as error:
            raise DataError(f"the archive lacks {error}", "one that `handrail feedback archive` wrote") from error
        note(db, connection, by, "restore", {"project": archive.header.project, "events": len(archive.events)})


def bring(db: Database, connection: Connection, archive: Archive) -> None:
    """The rows of an archive."""
    about = next(one for one in archive.events if one.action == "project").body
    now = db.now()
    values = {"name": archive.header.project, "title": about["title"], "created": about["created"]}
    project = int(connection.execute(insert(projects).values(values).returning(projects.c.id)).scalar_one())
    who: dict[str, int] = {}
    for one in archive.people:
        deleted = about["deleted"].get(one.pseudonym)
        row = {"pseudonym": one.pseudonym, "role": one.role, "created": now, "deleted": deleted}
        row["name"] = None if deleted else one.pseudonym
        who[one.pseudonym] = int(connection.execute(insert(people).values(row).returning(people.c.id)).scalar_one())
    put(connection, members, [{"person": who[name], "project": project} for name in about["members"]])
    number: dict[str, int] = {}
    for name in dict.fromkeys(task.id for task in archive.tasks):
        mine = [task for task in archive.tasks if task.id == name]
        row = {"project": project, "name": name, "revision": mine[-1].revision, "created": mine[0].at}
        number[name] = int(connection.execute(insert(tasks).values(row).returning(tasks.c.id)).scalar_one())
        told = [{"number": task.revision, "settings": task.settings.model_dump(mode="json"), "created": task.at} for task in mine]
        put(connection, revisions, [{"task": number[name]} | one for one in told])
    rows = [{key: item.state[key] for key in OF_ITEM} | {"id": item.id, "task": number[item.task]} for item in archive.items]
    content = [{"item": item.item.model_dump(mode="json"), "created": item.at} for item in archive.items]
    put(connection, items, [a | b for a, b in zip(rows, content, strict=True)])
    asked = [(item, told) for item in archive.items for told in item.state["assignments"]]
    where = [{"item": item.id, "task": number[item.task], "person": who[told["person"]]} for item, told in asked]
    put(connection, assignments, [{key: told[key] for key in OF_ASSIGNMENT} | at for (_, told), at in zip(asked, where, strict=True)])
    done = [one for one in archive.events if one.task]
    about_each = [{"kind": one.action, "at": one.at, "task": number[one.task], "person": who[one.actor]} for one in done]
    put(connection, events, [{key: one.body[key] for key in OF_EVENT} | at for one, at in zip(done, about_each, strict=True)])
    taken = [(one.body, who.get(one.actor)) for one in archive.events if one.action == SNAPSHOT]
    put(connection, snapshots, [{key: body[key] for key in OF_SNAPSHOT} | {"project": project, "person": by} for body, by in taken])
    if not db.sqlite and done:  # the next event's number follows the highest that was brought
        connection.execute(text("select setval(pg_get_serial_sequence('events', 'id'), (select max(id) from events))"))


def put(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Rows into a table, none where there are none."""
    if rows:
        connection.execute(insert(table), rows)
