"""Which item comes before whom.

An item is leased to a person until it is answered or the lease ends; live leases and labels together never exceed the
overlap that the task wants, and nobody is shown an item twice but as a repeat.  The practice round comes first; then
gold items and repeats are slipped in by chance, at the shares that the task sets.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, and_, func, insert, select, update

from handrail.feedback.kinds import Item, Purpose
from handrail.feedback.store.database import Database
from handrail.feedback.store.people import Person
from handrail.feedback.store.projects import Task
from handrail.feedback.store.tables import assignments, canonical, events, items

AGO = 8  # a repeat comes after at least so many other items
MANY = 50  # of gold items and of repeats, from which one is drawn
WINDOW = 64  # items that are due next, from which one is drawn


@dataclass(frozen=True)
class Assignment:
    """An item before a person: what stands where, and until when it is kept."""

    id: str
    item: str
    content: Item
    task: int
    person: int
    purpose: Purpose
    repetition: int
    order: tuple[int, ...]
    revision: int
    shown: str
    leased: float
    expires: float
    state: str
    extra: bool
    offered: int = 0  # how many times it was asked again after a skip

    @property
    def responses(self) -> tuple[str, ...]:
        """As they stand on the screen."""
        return tuple(self.content.responses[i] for i in self.order)

    @property
    def counts(self) -> bool:
        """Whether it takes one of the places that the overlap has."""
        return self.purpose == "work" and not self.extra and self.state in ("open", "done")


COLUMNS = [assignments.c[name] for name in ("id", "item", "task", "person", "purpose", "repetition", "order", "revision")]
COLUMNS += [assignments.c[name] for name in ("shown", "leased", "expires", "state", "extra")]
OFFERED = select(func.count()).where(events.c.assignment == assignments.c.id, events.c.kind == "offer").scalar_subquery()


def give_out(db: Database, task: Task, person: Person, count: int = 1) -> list[Assignment]:
    """Up to `count` items for a person: those that they have open already, then new ones.  Their leases begin anew."""
    if task.settings.paused or count < 1:
        return []
    with db.write() as connection:
        db.lock_task(connection, task.id)
        now = db.now()
        end_leases(connection, task.id, now)
        mine = (assignments.c.task == task.id) & (assignments.c.person == person.id)
        found = read(connection, mine & (assignments.c.state == "open"), count)
        if found:
            until = now + task.settings.lease
            connection.execute(update(assignments).where(assignments.c.id.in_([a.id for a in found])).values(expires=until))
            found = [replace(renewed(connection, task, a), expires=until) for a in found]
        if len(found) < count:
            number = int(connection.scalar(select(func.count()).where(mine)) or 0)
            picked = list(chosen(db, connection, task, person, number, count - len(found)))
            found += lease(db, connection, task, person, picked, number, now) if picked else []
    return found


def anything(db: Database, task: Task, person: Person) -> bool:
    """Whether there is something for a person now: open already, still to be given out, or let go by somebody else."""
    if task.settings.paused:
        return False
    with db.read() as connection:
        mine = (assignments.c.task == task.id) & (assignments.c.person == person.id)
        if connection.scalar(select(assignments.c.id).where(mine, assignments.c.state == "open").limit(1)):
            return True
        if any(fresh(connection, task, person, purpose, 1) for purpose in ("practice", "work")):
            return True
        had = select(assignments.c.item).where(mine, assignments.c.state != "expired")
        late = (assignments.c.task == task.id) & (assignments.c.state == "open") & (assignments.c.expires <= db.now())
        free = select(assignments.c.id).where(late, assignments.c.purpose == "work", assignments.c.item.not_in(had))
        return connection.scalar(free.limit(1)) is not None


def end_leases(connection: Connection, task: int, now: float) -> None:
    """Leases whose time is over give their places back."""
    late = (assignments.c.task == task) & (assignments.c.state == "open") & (assignments.c.expires <= now)
    ended = connection.execute(select(assignments.c.id, assignments.c.item, assignments.c.purpose).where(late)).all()
    if not ended:
        return
    connection.execute(update(assignments).where(assignments.c.id.in_([row[0] for row in ended])).values(state="expired"))
    for _, item, purpose in ended:
        if purpose == "work":
            connection.execute(update(items).where(items.c.id == item).values(taken=items.c.taken - 1))


def chosen(db: Database, connection: Connection, task: Task, person: Person, number: int, count: int) -> Iterator[tuple[str, Purpose]]:
    """The next items: practice, then by chance a gold item or a repeat, or the work of the highest priority.

    `number` counts what the person has been given in this task so far.
    """
    practice = fresh(connection, task, person, "practice", count)
    for item, _ in practice:
        yield item, "practice"
    work = window(db, connection, task, person, count - len(practice))
    gold = fresh(connection, task, person, "gold", MANY) if work and task.settings.gold else []
    repeated: set[str] = set()
    for given in range(number + len(practice), number + count):
        if not work:
            return
        chance = db.chance.random()  # not from anything that a labeller knows
        if chance < task.settings.gold and gold:
            yield gold.pop(db.chance.randrange(len(gold)))[0], "gold"
        elif chance > 1 - task.settings.repeats and (again := repeatable(connection, task, person, given, repeated)):
            repeated.add(item := db.chance.choice(again))
            yield item, "repeat"
        else:
            yield work.pop(0), "work"


def window(db: Database, connection: Connection, task: Task, person: Person, count: int) -> list[str]:
    """Work for a person: of equal urgency by chance, among the items that are due next.

    Were it always the very next, the same few people would share all their items, and nobody's reliability could be told
    from what the others said.
    """
    due = fresh(connection, task, person, "work", max(count, WINDOW) if count and task.settings.overlap > 1 else count)
    chosen: list[str] = []
    while due and len(chosen) < count:
        equal = [item for item in due if item[1] == due[0][1]]
        drawn = equal[db.chance.randrange(len(equal))] if task.settings.overlap > 1 else due[0]
        due.remove(drawn)
        chosen.append(drawn[0])
    return chosen


def fresh(connection: Connection, task: Task, person: Person, purpose: Purpose, count: int) -> list[tuple[str, float]]:
    """Items of a purpose, with their priorities, that the person has not had, or had and let go, with room for one more.

    The most urgent come first, and of these what others have begun, so that what is labelled at all is soon complete.
    """
    had = and_(assignments.c.item == items.c.id, assignments.c.person == person.id, assignments.c.state != "expired")
    query = select(items.c.id, items.c.priority)
    query = query.where(items.c.task == task.id, items.c.purpose == purpose, ~select(1).where(had).exists())
    if purpose == "work":
        query = query.where(items.c.taken < task.settings.overlap)
    query = query.order_by(items.c.priority.desc(), items.c.taken.desc(), items.c.position)
    return [(item, priority) for item, priority in connection.execute(query.limit(count))] if count else []


def repeatable(connection: Connection, task: Task, person: Person, number: int, but: set[str]) -> list[str]:
    """Items that the person answered a while ago and has not seen since, but for some."""
    mine = (assignments.c.task == task.id) & (assignments.c.person == person.id) & (assignments.c.purpose == "work")
    again = select(assignments.c.item).where(assignments.c.person == person.id, assignments.c.repetition > 0)
    old = mine & (assignments.c.state == "done") & (assignments.c.number <= number - AGO) & assignments.c.item.not_in(again)
    found = connection.scalars(select(assignments.c.item).where(old).order_by(assignments.c.number).limit(MANY + len(but)))
    return [item for item in found if item not in but]


def lease(
    db: Database, connection: Connection, task: Task, person: Person, picked: list[tuple[str, Purpose]], number: int, now: float
) -> list[Assignment]:
    """Put items before the person, as numbers `number` and on.  What they had let go before stands as it stood then."""
    ids, work = [item for item, _ in picked], [item for item, purpose in picked if purpose == "work"]
    expires, found, rows = now + task.settings.lease, [], []
    if work:
        connection.execute(update(items).where(items.c.id.in_(work)).values(taken=items.c.taken + 1))
    mine = assignments.c.item.in_(ids) & (assignments.c.person == person.id)
    before = {(one.item, one.repetition): one for one in read(connection, mine)}
    told = connection.execute(select(items.c.id, items.c.item).where(items.c.id.in_(ids)))
    contents = {item: Item.model_validate(content) for item, content in told}
    labellers = assignments.c.item.in_(ids) & (assignments.c.purpose != "adjudication")
    orders = connection.execute(select(assignments.c.item, assignments.c.order).where(labellers)).all()
    for place, (item, purpose) in enumerate(picked, number):
        repetition = 1 if purpose == "repeat" else 0
        if again := before.get((item, repetition)):
            values = {"state": "open", "leased": now, "expires": expires, "number": place}
            connection.execute(update(assignments).where(assignments.c.id == again.id).values(values))
            found.append(replace(renewed(connection, task, again), state="open", leased=now, expires=expires))
            continue
        order = arrangement(db, len(contents[item].responses), [order for of, order in orders if of == item])
        values = {"id": db.opaque(), "item": item, "task": task.id, "person": person.id, "purpose": purpose, "repetition": repetition}
        values |= {"order": order, "revision": task.revision, "shown": shown(contents[item], order, task.revision)}
        values |= {"leased": now, "expires": expires, "state": "open", "extra": False}
        rows.append(values | {"number": place})
        found.append(Assignment(**{**values, "order": tuple(order)}, content=contents[item]))  # type: ignore[arg-type]
    if rows:
        connection.execute(insert(assignments), rows)
    return found


def renewed(connection: Connection, task: Task, found: Assignment) -> Assignment:
    """As the task asks now, unless something was said of it under the settings that held before."""
    told = select(events.c.id).where(events.c.assignment == found.id).limit(1)
    if found.revision == task.revision or connection.scalar(told) is not None:
        return found
    digest = shown(found.content, list(found.order), task.revision)
    connection.execute(update(assignments).where(assignments.c.id == found.id).values(revision=task.revision, shown=digest))
    return replace(found, revision=task.revision, shown=digest)


def arrangement(db: Database, n: int, told: list[list[int]]) -> list[int]:
    """In which order n responses stand: by chance; of two, as fewer people have been shown them.  `told`: all so far."""
    order = list(range(n))
    db.chance.shuffle(order)
    if n == 2 and told.count(order) > told.count(order[::-1]):
        order.reverse()
    return order


def shown(content: Item, order: list[int], revision: int) -> str:
    """SHA-256 of what a person is shown: the conversation, the responses in their order, and which instructions."""
    messages = [[m.role, m.content] for m in content.prompt.messages]
    told = [messages, [content.responses[i] for i in order], revision]
    return hashlib.sha256(canonical(told).encode()).hexdigest()


def content_of(connection: Connection, item: str) -> Item:
    """What an item asks about."""
    return Item.model_validate(connection.scalar(select(items.c.item).where(items.c.id == item)))


def read(connection: Connection, which: Any, limit: int | None = None) -> list[Assignment]:
    """The assignments that fit, in the order in which they were made."""
    query = (
        select(*COLUMNS, OFFERED.label("offered"), items.c.item.label("content")).join(items, assignments.c.item == items.c.id).where(which)
    )
    rows = connection.execute(query.order_by(assignments.c.number).limit(limit)).mappings()
    return [Assignment(**{**row, "order": tuple(row["order"]), "content": Item.model_validate(row["content"])}) for row in rows]
