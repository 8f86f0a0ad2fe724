"""A chat with two models side by side, turn by turn.

Message and answers are one event, the choice another; so a conversation that is broken off goes on where it stood.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

from pydantic import Field
from sqlalchemy import Connection, select

from handrail.errors import InputError
from handrail.feedback.kinds import TaskSettings
from handrail.feedback.store.assignment import Assignment, read
from handrail.feedback.store.database import Database
from handrail.feedback.store.labels import Conflict, Event, NotThere, Standing, already, append, settle, stand
from handrail.feedback.store.people import Person
from handrail.feedback.store.projects import settings_at
from handrail.feedback.store.tables import assignments, canonical
from handrail.records import Message, Record


class Said(Record):
    """What the labeller says to both models."""

    key: str = Field(pattern=r"^[A-Za-z0-9_-]{8,64}$")
    message: str = Field(min_length=1, max_length=20_000)


class Chosen(Record):
    """Which answer the chat goes on from, by its place on the screen; with a tie it goes on from that one all the same."""

    key: str = Field(pattern=r"^[A-Za-z0-9_-]{8,64}$")
    better: int = Field(ge=0, le=1)
    tie: bool = False


@dataclass(frozen=True)
class Conversation:
    """A chat as its labeller sees it: what was said, and the two answers that wait for a choice."""

    messages: tuple[Message, ...]
    waiting: tuple[str, str] | None
    turns_left: int


def conversation(db: Database, person: Person, assignment: str) -> Conversation:
    """The chat as it stands.  Raises NotThere."""
    with db.read() as connection:
        found, settings, standing, _ = chat_of(connection, person, assignment)
    return seen(found, settings, standing)


def ready(db: Database, person: Person, assignment: str, said: Said) -> tuple[Conversation, tuple[str, ...] | None]:
    """The chat before a message, and the models that are to answer it; none of them where it has been answered before.

    Raises NotThere, Conflict.
    """
    with db.read() as connection:
        found, settings, standing, _ = chat_of(connection, person, assignment)
        if already(connection, said.key, digest_of(assignment, said)) is not None:
            return seen(found, settings, standing), None
    may_speak(settings, standing)
    return seen(found, settings, standing), settings.models


def say(db: Database, person: Person, assignment: str, said: Said, responses: tuple[str, str]) -> Conversation:
    """Write down a message and what the two models, in the task's order, answered.  Raises NotThere, Conflict."""
    digest = digest_of(assignment, said)
    with db.write() as connection:
        found, settings, standing, version = chat_of(connection, person, assignment, db)
        if already(connection, said.key, digest) is None:
            may_speak(settings, standing)
            order = [0, 1]
            db.chance.shuffle(order)
            body: dict[str, Any] = {"message": said.message, "responses": list(responses), "order": order, "state": standing.state}
            standing.apply("turn", body, db.now(), 0.0)
            append(db, connection, found, version + 1, Event(person, said.key, digest, "turn", body))
    return seen(found, settings, standing)


def choose(db: Database, person: Person, assignment: str, chosen: Chosen) -> Conversation:
    """Write down which answer the chat goes on from.  Raises NotThere, Conflict."""
    digest = hashlib.sha256(canonical([assignment, chosen.better, chosen.tie]).encode()).hexdigest()
    with db.write() as connection:
        found, settings, standing, version = chat_of(connection, person, assignment, db)
        if already(connection, chosen.key, digest) is None:
            if not standing.turns or "better" in standing.turns[-1]:
                raise Conflict("no answers wait for a choice", "say something first")
            if chosen.tie and not settings.ties:
                raise InputError("a tie", "this task has none: one answer or the other")
            body = {"better": standing.turns[-1]["order"][chosen.better], "tie": chosen.tie}
            standing.apply("choose", body, db.now(), 0.0)
            append(db, connection, found, version + 1, Event(person, chosen.key, digest, "choose", body | {"state": standing.state}))
            settle(db, connection, found, standing)
    return seen(found, settings, standing)


def digest_of(assignment: str, said: Said) -> str:
    """What tells one message from another that has the same key."""
    return hashlib.sha256(canonical([assignment, said.message]).encode()).hexdigest()


def may_speak(settings: TaskSettings, standing: Standing) -> None:
    """Whether it is the labeller's turn to say something.  Raises Conflict."""
    if standing.turns and "better" not in standing.turns[-1]:
        raise Conflict("the answers to your last message wait for a choice", "choose one first")
    if standing.answers or len(standing.turns) >= settings.turns:
        raise Conflict(f"this chat has had its {len(standing.turns)} turns", "hand it in")


def chat_of(
    connection: Connection, person: Person, assignment: str, db: Database | None = None
) -> tuple[Assignment, TaskSettings, Standing, int]:
    """A chat of this person, locked where `db` is given.  Raises NotThere."""
    which = (assignments.c.id == assignment) & (assignments.c.person == person.id)
    task = connection.scalar(select(assignments.c.task).where(which))
    settings = settings_at(connection, task) if task is not None else {}
    if task is None or next(iter(settings.values())).kind != "chat":
        raise NotThere("there is no such chat of yours", "one that was given out to you")
    if db is not None:
        db.lock_task(connection, task)
    found = read(connection, which)[0]
    version, standing = stand(connection, assignment)
    return found, settings[found.revision], standing, version


def seen(found: Assignment, settings: TaskSettings, standing: Standing) -> Conversation:
    """What the labeller may see of it."""
    messages = [m for m in found.content.prompt.messages if m.role == "system"]
    waiting = None
    for turn in standing.turns:
        messages.append(Message(role="user", content=turn["message"]))
        if "better" in turn:
            messages.append(Message(role="assistant", content=turn["responses"][turn["better"]]))
        else:
            first, second = (turn["responses"][i] for i in turn["order"])
            waiting = (first, second)
    return Conversation(tuple(messages), waiting, settings.turns - len(standing.turns))
