"""Who may do what: people, their links, sessions and tokens, and the record of what was done in their name."""

import hashlib
import re
import secrets
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from handrail.errors import InputError
from handrail.feedback.store.database import Database
from handrail.feedback.store.tables import audit, keys, members, people, projects

Role = Literal["admin", "labeller"]
KeyKind = Literal["link", "session", "token"]
NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
DAY = 86_400.0
# Statements that every request needs are built once: building one takes longer than SQLite takes to answer it.
HOLDER = (
    select(people.c.id, people.c.pseudonym, people.c.name, people.c.role)
    .join(keys, keys.c.person == people.c.id)
    .where(keys.c.digest == bindparam("digest"), keys.c.kind == bindparam("kind"), keys.c.expires > bindparam("now"))
    .where(people.c.deleted.is_(None))
)
NEW_HOLDER = HOLDER.where(keys.c.used.is_(None))
LIFE = {"link": 14 * DAY, "session": 30 * DAY, "token": 365 * DAY}


@dataclass(frozen=True)
class Person:
    """Somebody who is signed in."""

    id: int
    pseudonym: str
    name: str
    role: Role

    @property
    def admin(self) -> bool:
        return self.role == "admin"


def invite(
    db: Database, name: str, role: Role = "labeller", to: list[str] | None = None, pseudonym: str = "", by: Person | None = None
) -> Person:
    """A new person, member of the projects named in `to`.  Raises InputError."""
    name = " ".join(name.split())
    if not 1 <= len(name) <= 100 or not name.isprintable():
        raise InputError(f"the name {name!r}", "1 to 100 characters that can be seen")
    pseudonym = pseudonym or f"labeller-{secrets.token_hex(4)}"
    if not NAME.fullmatch(pseudonym):
        raise InputError(f"the pseudonym {pseudonym!r}", "letters, digits, '.', '_' and '-', at most 64")
    with db.write() as connection:
        if connection.scalar(select(people.c.id).where(people.c.pseudonym == pseudonym)):
            raise InputError(f"somebody already has the pseudonym {pseudonym!r}", "each person has one of their own")
        values = {"pseudonym": pseudonym, "name": name, "role": role, "created": db.now()}
        number: int = connection.execute(insert(people).values(values).returning(people.c.id)).scalar_one()
        for project in to or []:
            connection.execute(insert(members).values(person=number, project=project_id(connection, project)))
        note(db, connection, by, "invite", {"pseudonym": pseudonym, "role": role, "projects": to or []})
    return Person(number, pseudonym, name, role)


def join(db: Database, person: Person, project: str, by: Person | None = None) -> None:
    """Let a person work in a project; nothing where they do already.  Raises InputError."""
    with db.write() as connection:
        number = project_id(connection, project)
        if not connection.scalar(select(members.c.person).where(members.c.person == person.id, members.c.project == number)):
            connection.execute(insert(members).values(person=person.id, project=number))
            note(db, connection, by, "join", {"pseudonym": person.pseudonym, "project": project})


def issue(db: Database, person: Person, kind: KeyKind, seconds: float = 0.0, by: Person | None = None) -> str:
    """A new secret for a person: a link to sign in once, a session, or a token for programs.  Only its hash is stored."""
    with db.write() as connection:
        note(db, connection, by, f"issue {kind}", {"pseudonym": person.pseudonym})
        return new_secret(db, connection, person.id, kind, seconds)


def new_secret(db: Database, connection: Connection, person: int, kind: KeyKind, seconds: float = 0.0) -> str:
    """A new secret, within a transaction."""
    secret, now = secrets.token_urlsafe(32), db.now()
    values = {"person": person, "kind": kind, "digest": digest(secret), "created": now, "expires": now + (seconds or LIFE[kind])}
    connection.execute(insert(keys).values(values))
    return secret


def enter(db: Database, secret: str) -> tuple[Person, str] | None:
    """Whom a link lets in, with a session's secret; None where it is unknown, used or has expired."""
    with db.write() as connection:
        now = db.now()
        unused = (keys.c.digest == digest(secret)) & keys.c.used.is_(None)
        found = connection.execute(HOLDER, holding(secret, "link", now)).first()
        if found is None or not connection.execute(update(keys).where(unused).values(used=now)).rowcount:
            return None
        session = new_secret(db, connection, found.id, "session")
    return Person(*found), session


def peek(db: Database, secret: str) -> Person | None:
    """Whom a link would let in; the link stays good."""
    with db.read() as connection:
        found = connection.execute(NEW_HOLDER, holding(secret, "link", db.now())).first()
    return Person(*found) if found else None


def known(db: Database, secret: str, kind: KeyKind) -> Person | None:
    """Whose session or token this is."""
    with db.read() as connection:
        found = connection.execute(HOLDER, holding(secret, kind, db.now())).first()
    return Person(*found) if found else None


def holding(secret: str, kind: KeyKind, now: float) -> dict[str, Any]:
    """What HOLDER asks with: whose secret this is, if it is good now."""
    return {"digest": digest(secret), "kind": kind, "now": now}


def leave(db: Database, secret: str) -> None:
    """End a session."""
    with db.write() as connection:
        connection.execute(delete(keys).where(keys.c.digest == digest(secret), keys.c.kind == "session"))


def named(db: Database, pseudonym: str) -> Person:
    """The person with this pseudonym.  Raises InputError."""
    query = select(people.c.id, people.c.pseudonym, people.c.name, people.c.role)
    with db.read() as connection:
        found = connection.execute(query.where(people.c.pseudonym == pseudonym, people.c.deleted.is_(None))).first()
    if found is None:
        raise InputError(f"nobody has the pseudonym {pseudonym!r}", "see `handrail feedback status`")
    return Person(*found)


def everybody(db: Database) -> list[dict[str, Any]]:
    """All who are or were there, with the projects of each; the names of the deleted are gone."""
    with db.read() as connection:
        rows = connection.execute(select(people).order_by(people.c.id)).mappings().all()
        where = connection.execute(select(members.c.person, projects.c.name).join(projects)).all()
    kept = ("pseudonym", "name", "role", "created", "deleted")
    return [{key: row[key] for key in kept} | {"projects": [project for who, project in where if who == row["id"]]} for row in rows]


def the_only_one(db: Database) -> Person:
    """The person on whose machine an app without signing in runs: its admin, made where there is none."""
    query = select(people.c.id, people.c.pseudonym, people.c.name, people.c.role).order_by(people.c.id)
    with db.read() as connection:
        found = connection.execute(query.where(people.c.role == "admin", people.c.deleted.is_(None))).first()
    return Person(*found) if found else first_admin(db, "You", "you")


def first_admin(db: Database, name: str, pseudonym: str) -> Person:
    """The admin of a store without one, under a pseudonym made up where somebody, who may be deleted, has this one."""
    taken = {one["pseudonym"] for one in everybody(db)}
    return invite(db, name, "admin", pseudonym=f"{pseudonym}-{secrets.token_hex(4)}" if pseudonym in taken else pseudonym)


def nobody_yet(db: Database) -> bool:
    """Whether there is no admin so far."""
    with db.read() as connection:
        return not connection.scalar(select(func.count()).select_from(people).where(people.c.role == "admin", people.c.deleted.is_(None)))


def remove(db: Database, pseudonym: str, by: Person | None = None) -> None:
    """Delete a person: name, links, sessions and tokens go, their labels stay under the pseudonym.

    Raises InputError, also for the last admin: nobody could let others in.
    """
    person = named(db, pseudonym)
    if by is not None and by.id == person.id:
        raise InputError("you are deleting yourself", "another admin can")
    with db.write() as connection:
        db.lock_people(connection)
        others = (people.c.role == "admin") & people.c.deleted.is_(None) & (people.c.id != person.id)
        if person.admin and not connection.scalar(select(func.count()).select_from(people).where(others)):
            raise InputError(f"{pseudonym} is the last admin", "one of several", "invite another admin first")
        connection.execute(update(people).where(people.c.id == person.id).values(name=None, deleted=db.now()))
        connection.execute(delete(keys).where(keys.c.person == person.id))
        note(db, connection, by, "delete person", {"pseudonym": pseudonym})
    db.tidy()


def note(db: Database, connection: Connection, by: Person | None, action: str, detail: dict[str, Any]) -> None:
    """One line in the audit log, in the transaction of what it tells of."""
    connection.execute(insert(audit).values(at=db.now(), person=by.id if by else None, action=action, detail=detail))


def announce(db: Database, address: str) -> None:
    """Remember where people open the app."""
    with db.write() as connection:
        note(db, connection, None, "serve", {"address": address})


def last_address(db: Database) -> str:
    """Where people opened the app when it was last served; "" where it never was."""
    query = select(audit.c.detail).where(audit.c.action == "serve").order_by(audit.c.id.desc()).limit(1)
    with db.read() as connection:
        found = connection.scalar(query)
    return str(found["address"]) if found else ""


def log(db: Database, limit: int = 200, before: int | None = None) -> list[dict[str, Any]]:
    """The audit log, the newest first; by somebody who is deleted, the pseudonym is left; None: the command line."""
    query = select(audit.c.id, audit.c.at, people.c.pseudonym.label("by"), audit.c.action, audit.c.detail).outerjoin(people)
    if before is not None:
        query = query.where(audit.c.id < before)
    with db.read() as connection:
        return [dict(row) for row in connection.execute(query.order_by(audit.c.id.desc()).limit(limit)).mappings()]


def project_id(connection: Connection, name: str) -> int:
    """The number of a project.  Raises InputError."""
    number = connection.scalar(select(projects.c.id).where(projects.c.name == name)) if NAME.fullmatch(name) else None
    if number is None:
        there = connection.scalars(select(projects.c.name).order_by(projects.c.name)).all()
        raise InputError(f"there is no project {name!r}", f"one of {', '.join(there)}" if there else "none has been made so far")
    return int(number)


def digest(secret: str) -> str:
    """SHA-256 of a secret of 256 random bits; such a one needs no salt."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
