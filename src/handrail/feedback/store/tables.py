"""The tables.  Texts of people and models stand as JSON in ASCII, so that every string of Unicode is kept as it is in
any database; times are seconds since 1970."""

import json
from typing import Any

from sqlalchemy import Boolean, Column, Float, ForeignKey, Index, Integer, MetaData, String, Table, Text, UniqueConstraint
from sqlalchemy.exc import DontWrapMixin
from sqlalchemy.types import TypeDecorator

from handrail.errors import InputError


class Unkept(InputError, DontWrapMixin):
    """A value that JSON or UTF-8 has not."""


def canonical(value: Any) -> str:
    """JSON with one way of writing each value, in ASCII.  Raises Unkept."""
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
        if "\\ud" in text:  # surrogates: a pair is a character, half a pair could never be sent to a browser
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise Unkept("half a surrogate pair in a text", "whole characters", "replace it by U+FFFD") from error
    except (ValueError, RecursionError) as error:
        raise Unkept("a value that JSON has not", "finite numbers, nested less than some hundred times") from error
    return text


class Json(TypeDecorator):
    """A value as canonical JSON in a text column: the same bytes in every database."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> str | None:
        return None if value is None else canonical(value)

    def process_result_value(self, value: str | None, dialect: Any) -> Any:
        return None if value is None else json.loads(value)


METADATA = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

people = Table(
    "people",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("pseudonym", String(64), nullable=False, unique=True),  # all that labels and exports ever carry
    Column("name", Json),  # NULL once the person is deleted
    Column("role", String(16), nullable=False),
    Column("created", Float, nullable=False),
    Column("deleted", Float),
)

keys = Table(  # links, sessions and tokens: only their SHA-256 is here
    "keys",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("person", ForeignKey("people.id"), nullable=False, index=True),
    Column("kind", String(16), nullable=False),
    Column("digest", String(64), nullable=False, unique=True),
    Column("created", Float, nullable=False),
    Column("expires", Float, nullable=False),
    Column("used", Float),
)

projects = Table(
    "projects",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("title", Json, nullable=False),
    Column("created", Float, nullable=False),
)

members = Table(
    "members",
    METADATA,
    Column("person", ForeignKey("people.id"), primary_key=True),
    Column("project", ForeignKey("projects.id"), primary_key=True),
)

tasks = Table(
    "tasks",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("project", ForeignKey("projects.id"), nullable=False),
    Column("name", String(64), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("created", Float, nullable=False),
    UniqueConstraint("project", "name"),
)

revisions = Table(  # what the instructions and settings were at any time
    "revisions",
    METADATA,
    Column("task", ForeignKey("tasks.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("settings", Json, nullable=False),
    Column("created", Float, nullable=False),
)

items = Table(
    "items",
    METADATA,
    Column("id", String(24), primary_key=True),
    Column("task", ForeignKey("tasks.id"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("content", String(64), nullable=False),  # SHA-256 of what is asked about: an item is taken in once
    Column("item", Json, nullable=False),
    Column("purpose", String(16), nullable=False),  # work, gold, practice
    Column("priority", Float, nullable=False),
    Column("taken", Integer, nullable=False),  # live leases and labels that count for the overlap
    Column("created", Float, nullable=False),
    UniqueConstraint("task", "content"),
)

Index("ix_items_queue", items.c.task, items.c.purpose, items.c.priority.desc(), items.c.taken.desc(), items.c.position)  # who is next

assignments = Table(  # an item before a person
    "assignments",
    METADATA,
    Column("id", String(24), primary_key=True),
    Column("item", ForeignKey("items.id"), nullable=False),
    Column("task", ForeignKey("tasks.id"), nullable=False),
    Column("person", ForeignKey("people.id"), nullable=False),
    Column("repetition", Integer, nullable=False),
    Column("purpose", String(16), nullable=False),
    Column("number", Integer, nullable=False),  # of the person's assignments in this task
    Column("order", Json, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("shown", String(64), nullable=False),
    Column("leased", Float, nullable=False),
    Column("expires", Float, nullable=False),
    Column("state", String(16), nullable=False),  # open, expired, done, skipped: a view of the events and the clock
    Column("extra", Boolean, nullable=False),
    UniqueConstraint("item", "person", "repetition"),
    Index(None, "task", "state", "expires"),
    Index(None, "person", "task", "state"),
)

events = Table(  # append-only: what people did
    "events",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("key", String(64), nullable=False, unique=True),  # made by the client: the same key is the same event
    Column("digest", String(64), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("task", ForeignKey("tasks.id"), nullable=False),
    Column("assignment", ForeignKey("assignments.id"), nullable=False),
    Column("person", ForeignKey("people.id"), nullable=False),
    Column("at", Float, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("version", Integer, nullable=False),  # of the assignment, from 1
    Column("body", Json, nullable=False),
    UniqueConstraint("assignment", "version"),
    Index(None, "task", "id"),
    sqlite_autoincrement=True,
)

snapshots = Table(
    "snapshots",
    METADATA,
    Column("id", String(16), primary_key=True),
    Column("project", ForeignKey("projects.id"), nullable=False),
    Column("rules", Json, nullable=False),
    Column("upto", Integer, nullable=False),  # the last event in it
    Column("labels", Integer, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("person", ForeignKey("people.id")),
    Column("created", Float, nullable=False),
)

audit = Table(  # append-only: what those who run the projects did
    "audit",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("person", ForeignKey("people.id")),
    Column("action", String(64), nullable=False),
    Column("detail", Json, nullable=False),
    sqlite_autoincrement=True,
)
