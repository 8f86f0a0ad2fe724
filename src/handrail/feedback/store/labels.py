"""What people did, as append-only events, and the labels that follow from them."""

import hashlib
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field
from sqlalchemy import Connection, bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError

from handrail.errors import InputError
from handrail.feedback.kinds import ANSWER, Answer, Chatted, Turn, as_shown, check, restored
from handrail.feedback.store.assignment import Assignment, read, read_one
from handrail.feedback.store.database import Database
from handrail.feedback.store.people import Person
from handrail.feedback.store.projects import settings_of
from handrail.feedback.store.tables import assignments, canonical, events, items, tasks
from handrail.records import Record

Act = Literal["submit", "skip", "flag", "undo"]

# What every submit needs, built once: building a statement takes longer than SQLite takes to answer it.
TASK = select(assignments.c.task).where(assignments.c.id == bindparam("assignment"), assignments.c.person == bindparam("person"))
WITH_KEY = select(events.c.digest, events.c.version, events.c.body).where(events.c.key == bindparam("key"))
PAST = select(events.c.kind, events.c.body, events.c.at, events.c.seconds).where(events.c.assignment == bindparam("assignment"))
PAST = PAST.order_by(events.c.version)
ADD = insert(events)
SETTLE = update(assignments).where(assignments.c.id == bindparam("assignment"))


class Submission(Record):
    """What a browser sends.  The key is made by the client: the same key and body sent again are the same event."""

    key: str = Field(pattern=r"^[A-Za-z0-9_-]{8,64}$")
    act: Act = "submit"
    answer: Answer | None = Field(None, description="in the order shown; of a chat none: its turns are there already")
    reason: str = Field("", max_length=10_000)
    seconds: float = Field(0.0, ge=0, allow_inf_nan=False, description="that the labeller spent on it, by the browser's clock")


@dataclass(frozen=True)
class Acknowledged:
    """It is on disk.  `verdict` is told in the practice round alone."""

    key: str
    state: str
    version: int
    verdict: dict[str, Any] | None = None


class NotThere(InputError):
    """There is no such assignment for this person."""


class Conflict(InputError):
    """The key was used for something else, or the act does not fit what was done before."""


@dataclass
class Raised:
    """A flag, and what those who run the project said of it: dismissed, upheld, or nothing so far."""

    reason: str
    verdict: Literal["", "dismiss", "uphold"] = ""


OF_OTHERS = ("turn", "choose", "dismiss", "uphold", "offer")  # no acts that the labeller's undo takes back


@dataclass
class Standing:
    """What follows from the events of an assignment so far."""

    answers: list[tuple[dict[str, Any], float, float, int]] = field(default_factory=list)  # body, time, seconds, person; the last holds
    flags: list[Raised] = field(default_factory=list)
    skips: int = 0
    acts: list[str] = field(default_factory=list)  # that an undo can take back
    turns: list[dict[str, Any]] = field(default_factory=list)
    extra: bool = False

    @property
    def state(self) -> str:
        return "done" if self.answers else "skipped" if self.skips else "open"

    @property
    def flagged(self) -> bool:
        """Whether a flag stands that was not dismissed."""
        return any(flag.verdict != "dismiss" for flag in self.flags)

    def apply(self, kind: str, body: dict[str, Any], at: float, seconds: float, by: int = 0) -> None:
        """One event more; `by`: the number of the person, where it is asked who said what."""
        if kind in ("submit", "edit", "adjudicate"):
            self.answers.append((body, at, seconds, by))
            self.extra = bool(body.get("extra", self.extra))
        elif kind == "skip":
            self.skips += 1
        elif kind == "flag":
            self.flags.append(Raised(body["reason"]))
        elif kind in ("dismiss", "uphold"):
            self.flags[body["flag"]].verdict = kind  # type: ignore[assignment]
        elif kind == "offer":  # what was skipped is asked again
            self.skips, self.acts = 0, [act for act in self.acts if act != "skip"]
        elif kind == "turn":
            self.turns.append(body)
        elif kind == "choose":
            self.turns[-1] = self.turns[-1] | body
        elif kind == "undo":
            self.take_back(self.acts.pop())
            return
        if kind not in OF_OTHERS:
            self.acts.append(kind)

    def take_back(self, kind: str) -> None:
        """Undo the last act of its kind."""
        if kind == "skip":
            self.skips -= 1
        elif kind == "flag":
            self.flags.pop()
        else:
            self.answers.pop()


def submit(db: Database, person: Person, assignment: str, submission: Submission) -> Acknowledged:
    """Write down what a person did.  When this returns it is on disk.

    A submission after the lease has ended is kept, as an extra where the item has enough labels already.

    Raises:
        NotThere: this person was never shown that.
        Conflict: the key stands for another submission, or there is nothing to undo.
        InputError: the answer does not fit the task.
    """
    digest = hashlib.sha256(canonical([assignment, submission.model_dump(mode="json")]).encode()).hexdigest()
    with db.write() as connection:
        task = connection.scalar(TASK, {"assignment": assignment, "person": person.id})
        if task is None:
            raise NotThere("there is no such item for you", "one that was given out to you")
        db.lock_task(connection, task)
        found = read_one(connection, assignment)
        if repeated := already(connection, submission.key, digest):
            return acknowledged(found, submission.key, *repeated)
        version, standing = stand(connection, assignment)
        kind, body = event_of(connection, found, standing, submission)
        if kind == "submit":
            body["extra"] = found.purpose == "work" and not found.counts and full(connection, found)
        standing.apply(kind, body, db.now(), submission.seconds)
        body["state"] = standing.state
        append(db, connection, found, version + 1, Event(person, submission.key, digest, kind, body, submission.seconds or None))
        settle(db, connection, found, standing)
    return acknowledged(found, submission.key, standing.state, version + 1, body)


def already(connection: Connection, key: str, digest: str) -> tuple[str, int, dict[str, Any]] | None:
    """State, version and body of the event with this key.  Raises Conflict where it is another one."""
    row = connection.execute(WITH_KEY, {"key": key}).first()
    if row is None:
        return None
    if row.digest != digest:
        raise Conflict("this key stands for another submission", "a new key for each")
    return str(row.body["state"]), row.version, row.body


def event_of(connection: Connection, found: Assignment, standing: Standing, submission: Submission) -> tuple[str, dict[str, Any]]:
    """Kind and body of the event, the answer in the order of the item.  Raises Conflict, InputError."""
    body: dict[str, Any] = {"reason": submission.reason}
    if submission.act != "submit":
        if submission.answer is not None:
            raise InputError(f"an answer beside {submission.act}", "an answer with submit alone")
        if submission.act == "undo" and not standing.acts:
            raise Conflict("there is nothing to undo", "something that was done before")
        if submission.act == "skip" and standing.answers:
            raise Conflict("this is answered", "undo the answer first")
        return submission.act, body
    settings = settings_of(connection, found.task, found.revision)
    if settings.kind == "chat":
        if submission.answer is not None:
            raise InputError("an answer to a chat", "none: its turns are kept as they are chosen")
        answer: Any = chatted(standing)
    elif submission.answer is None:
        raise InputError("no answer", f"one of kind {settings.kind}")
    else:
        answer = submission.answer
        check(settings, answer, len(found.order))
        answer = restored(answer, found.order)
    return ("edit" if standing.answers else "submit"), body | {"answer": answer.model_dump(mode="json")}


def chatted(standing: Standing) -> Chatted:
    """The chat so far.  Raises Conflict while nothing has been chosen, or a choice is open."""
    if not standing.turns or "better" not in standing.turns[-1]:
        raise Conflict("a turn without a choice" if standing.turns else "a chat without a turn", "choose one of the two answers first")
    turns = [Turn.model_validate({key: t[key] for key in ("message", "responses", "better", "tie", "order")}) for t in standing.turns]
    return Chatted(turns=tuple(turns))


def full(connection: Connection, found: Assignment) -> bool:
    """Whether the item has as many labels and leases as its task wants."""
    revision = connection.scalar(select(tasks.c.revision).where(tasks.c.id == found.task))
    overlap = settings_of(connection, found.task, int(revision or 1)).overlap
    return int(connection.scalar(select(items.c.taken).where(items.c.id == found.item)) or 0) >= overlap


def stand(connection: Connection, assignment: str) -> tuple[int, Standing]:
    """The version of an assignment, and what follows from its events."""
    standing = Standing()
    rows = connection.execute(PAST, {"assignment": assignment}).all()
    for kind, body, at, seconds in rows:
        standing.apply(kind, body, at, seconds)
    return len(rows), standing


@dataclass(frozen=True)
class Event:
    """What is written down: by whom, under which key, what."""

    by: Person
    key: str
    digest: str
    kind: str
    body: dict[str, Any]
    seconds: float | None = None  # None: not told


def append(db: Database, connection: Connection, found: Assignment, version: int, event: Event) -> None:
    """One event more, the assignment's number `version`.  Raises Conflict.

    No more time was spent on it than it was out; to one who settles nothing is given out, and their own word holds.
    """
    now = db.now()
    out = (event.seconds or 0.0) if found.purpose == "adjudication" else max(0.0, now - found.leased)
    values = {"key": event.key, "digest": event.digest, "kind": event.kind, "task": found.task, "assignment": found.id, "at": now}
    seconds = out if event.seconds is None else min(event.seconds, out)
    values |= {"person": event.by.id, "seconds": seconds, "version": version, "body": event.body}
    try:
        connection.execute(ADD, values)
    except IntegrityError as error:  # the same key came to another task at the same moment
        raise Conflict("this key stands for another submission", "a new key for each") from error


def rule(db: Database, connection: Connection, found: Assignment, by: Person, kind: str, body: dict[str, Any]) -> None:
    """One event more that no labeller's browser sent, under a key of the server's own."""
    version, standing = stand(connection, found.id)
    standing.apply(kind, body, db.now(), 0.0)
    body = body | {"state": standing.state}
    digest = hashlib.sha256(canonical([found.id, kind, body]).encode()).hexdigest()
    append(db, connection, found, version + 1, Event(by, db.opaque(), digest, kind, body, 0.0))
    settle(db, connection, found, standing)


def settle(db: Database, connection: Connection, before: Assignment, standing: Standing) -> None:
    """Bring the assignment and the count of its item in line with what follows from the events."""
    now, state = db.now(), standing.state
    if state == "open" and before.expires <= now:
        state = "expired"
    if state == "open" and not before.counts and before.purpose == "work" and full(connection, before):
        state = "expired"  # undone after others had taken the place
    extra = standing.extra and state == "done"
    connection.execute(SETTLE, {"assignment": before.id, "state": state, "extra": extra})
    after = before.purpose == "work" and not extra and state in ("open", "done")
    if after != before.counts:
        connection.execute(update(items).where(items.c.id == before.item).values(taken=items.c.taken + (1 if after else -1)))


def acknowledged(found: Assignment, key: str, state: str, version: int, body: dict[str, Any]) -> Acknowledged:
    """What the browser is told; in the practice round also what would have been right."""
    verdict = None
    if found.purpose == "practice" and "answer" in body:
        gold = found.content.gold
        verdict = {
            "right": alike(ANSWER.validate_python(body["answer"]), gold),
            "gold": as_shown(gold, found.order).model_dump(mode="json"),
            "explanation": found.content.explanation,
        }
    return Acknowledged(key, state, version, verdict)


def alike(answer: Any, gold: Any) -> bool:
    """Whether an answer is right: the same order of the responses; of ratings, all within one step; a text cannot be judged."""
    if answer.kind == "rate":
        pairs = [(a[name], g[name]) for a, g in zip(answer.ratings, gold.ratings, strict=True) for name in g]
        return all(abs(a - g) <= 1 for a, g in pairs)
    if answer.kind in ("compare", "rank"):
        return bool(answer.places == gold.places)
    return True


def own(db: Database, person: Person, assignment: str) -> tuple[Assignment, dict[str, Any] | None]:
    """An item that was given out to a person, and their answer in the order of the item.  Raises NotThere."""
    with db.read() as connection:
        found = read(connection, (assignments.c.id == assignment) & (assignments.c.person == person.id))
        if not found:
            raise NotThere("there is no such item for you", "one that was given out to you")
        _, standing = stand(connection, assignment)
    return found[0], standing.answers[-1][0]["answer"] if standing.answers else None
