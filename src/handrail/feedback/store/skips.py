"""What was skipped, and how it comes before people again: nobody is given an item twice by itself.

One who skips leaves the item to others.  Where nobody is left who could answer it, those who run the project see it and
may offer it again to all who skipped it; and a labeller may take up again what he or she skipped and what still has room.
"""

from collections import defaultdict
from dataclasses import dataclass, replace

from sqlalchemy import Connection, select, update

from handrail.feedback.store.assignment import read
from handrail.feedback.store.database import Database
from handrail.feedback.store.labels import full, rule
from handrail.feedback.store.people import Person, note, project_id
from handrail.feedback.store.projects import Task, read_tasks
from handrail.feedback.store.tables import assignments, events, items, members, people

LABELLERS = assignments.c.purpose != "adjudication"  # one who settles was given nothing that could be offered again
MANY = 20  # items taken up at a time: each is kept for the person until its lease ends


@dataclass(frozen=True)
class Skipped:
    """An item that wants more answers and that everybody has had: who skipped it, and why."""

    task: str
    item: str
    labels: int
    wanted: int
    by: tuple[tuple[str, str], ...]


def stuck(db: Database, project: str) -> list[Skipped]:
    """The items that stay as they are unless they are offered again, task by task.  Raises InputError."""
    with db.read() as connection:
        number = project_id(connection, project)
        works = select(members.c.person).join(people).where(members.c.project == number, people.c.deleted.is_(None))
        there = set(connection.scalars(works))
        return [one for task in read_tasks(connection, project=project) for one in stuck_in(connection, task, there)]


def stuck_in(connection: Connection, task: Task, there: set[int]) -> list[Skipped]:
    """Those of one task; `there`: who works in the project.  One who has worked in the task counts too, as admins do."""
    which = (assignments.c.task == task.id) & LABELLERS
    around = select(assignments.c.person).join(people).where(which, people.c.deleted.is_(None)).distinct()
    everybody = there | set(connection.scalars(around))
    wanting = (items.c.task == task.id) & (items.c.purpose == "work") & (items.c.taken < task.settings.overlap)
    let_go = select(assignments.c.item).where(which, assignments.c.state == "skipped")
    query = (
        select(items.c.id, assignments.c.id.label("assignment"), assignments.c.person, assignments.c.state, people.c.pseudonym)
        .join(assignments, assignments.c.item == items.c.id)
        .join(people, assignments.c.person == people.c.id)
        .where(wanting, which, items.c.id.in_(let_go))
        .order_by(items.c.position, assignments.c.id)
    )
    had = defaultdict(list)
    for row in connection.execute(query):
        had[row.id].append(row)
    why = reasons(connection, [row.assignment for rows in had.values() for row in rows])
    found = []
    for item, rows in had.items():
        at_it = any(row.state == "open" for row in rows)  # or may be given it again, where the lease has ended
        if not at_it and everybody <= {row.person for row in rows if row.state != "expired"}:
            by = tuple((row.pseudonym, why.get(row.assignment, "")) for row in rows if row.state == "skipped")
            done = sum(row.state == "done" for row in rows)
            found.append(Skipped(task.name, item, done, task.settings.overlap, by))
    return found


def reasons(connection: Connection, of: list[str]) -> dict[str, str]:
    """Why each assignment was skipped, the last time that it was."""
    found: dict[str, str] = {}
    for start in range(0, len(of), 500):
        query = select(events.c.assignment, events.c.body).where(events.c.kind == "skip", events.c.assignment.in_(of[start : start + 500]))
        found |= {assignment: body["reason"] for assignment, body in connection.execute(query.order_by(events.c.id))}
    return found


def offer_again(db: Database, by: Person, task: Task, item: str) -> int:
    """Let all who skipped an item be given it again, as if they had never had it; how many they are."""
    with db.write() as connection:
        db.lock_task(connection, task.id)
        which = (assignments.c.task == task.id) & (assignments.c.item == item) & (assignments.c.state == "skipped") & LABELLERS
        found, now = read(connection, which), db.now()
        for one in found:
            connection.execute(update(assignments).where(assignments.c.id == one.id).values(expires=now))
            rule(db, connection, replace(one, expires=now), by, "offer", {})
        if found:
            note(db, connection, by, "offer again", {"project": task.project, "task": task.name, "item": item, "people": len(found)})
    return len(found)


def take_up(db: Database, task: Task, person: Person) -> int:
    """Give a person again what they skipped in a task, as far as it has room and `MANY` allow; how many it is."""
    taken = 0
    if task.settings.paused:
        return taken
    with db.write() as connection:
        db.lock_task(connection, task.id)
        mine = (assignments.c.task == task.id) & (assignments.c.person == person.id) & (assignments.c.state == "skipped") & LABELLERS
        for one in read(connection, mine):
            if taken == MANY:
                break
            if one.purpose == "work" and full(connection, one):
                continue
            now, until = db.now(), db.now() + task.settings.lease
            connection.execute(update(assignments).where(assignments.c.id == one.id).values(leased=now, expires=until))
            rule(db, connection, replace(one, leased=now, expires=until), person, "offer", {})
            taken += 1
    return taken
