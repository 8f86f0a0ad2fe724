"""A feedback room to test in: a store on SQLite and on a real PostgreSQL, a clock that is turned by hand, people and tasks,
the app within this process, and the app as a process that can be killed."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select

from handrail.feedback.kinds import Compared, Item, TaskSettings
from handrail.feedback.server import ServerSettings, create_app
from handrail.feedback.store import Database, assignment, labels, people, projects
from handrail.feedback.store.assignment import Assignment
from handrail.feedback.store.labels import Acknowledged, Standing, Submission
from handrail.feedback.store.people import Person
from handrail.feedback.store.projects import Task
from handrail.feedback.store.tables import assignments, events, items
from handrail.records import Prompt

NUMBERS = count(1)
DATABASES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)]


class Clock:
    """Seconds since 1970 that pass when they are told to."""

    def __init__(self, at: float = 1_800_000_000.0):
        self.at = at

    def __call__(self) -> float:
        return self.at

    def wait(self, seconds: float) -> None:
        self.at += seconds


@dataclass
class World:
    """A store with one project."""

    db: Database
    clock: Clock
    where: str
    task: Task = field(init=False)

    def __post_init__(self) -> None:
        projects.make_project(self.db, "support", "Support")

    def make_task(self, *found: Item, kind: str = "compare", **settings: Any) -> Task:
        """A new task with these items; the task of the world from now on."""
        wanted = TaskSettings.model_validate({"kind": kind, **settings})
        self.task = projects.make_task(self.db, "support", f"{kind}-{next(NUMBERS)}", wanted)
        projects.take_in(self.db, self.task, found)
        return self.task

    def labeller(self) -> Person:
        """Somebody new who works in the project."""
        return people.invite(self.db, "Labeller", to=["support"], pseudonym=f"labeller-{next(NUMBERS)}")

    def admin(self) -> Person:
        """Somebody new who runs the projects."""
        return people.invite(self.db, "Admin", "admin", pseudonym=f"admin-{next(NUMBERS)}")

    def give(self, person: Person, wanted: int = 1) -> list[Assignment]:
        """Items of the world's task for a person."""
        return assignment.give_out(self.db, self.task, person, wanted)

    def act(self, person: Person, found: Assignment, act: str = "submit", key: str = "", **body: Any) -> Acknowledged:
        """One act on an item, under a new key unless one is given; an answer is the first shown unless one is given."""
        if act == "submit":
            body.setdefault("answer", Compared(better=0))
        return labels.submit(self.db, person, found.id, Submission(key=key or new_key(), act=act, **body))

    def token(self, person: Person) -> dict[str, str]:
        """The headers of a program in somebody's name."""
        return {"authorization": f"Bearer {people.issue(self.db, person, 'token')}"}

    def app(self, **settings: Any) -> FastAPI:
        """The app over this store."""
        return create_app(self.db, ServerSettings(**settings))

    def client(self, person: Person | None = None, **settings: Any) -> TestClient:
        """A client of the app, in somebody's name."""
        headers = self.token(person) if person else {}
        return TestClient(self.app(**settings), "http://127.0.0.1", headers=headers, raise_server_exceptions=False)


def new_key() -> str:
    """A key that no test has used."""
    return f"key-{next(NUMBERS):08d}"


def pair(number: int, **more: Any) -> Item:
    """An item with two responses by two models."""
    said = (f"{number}, said the owl.", f"{number}, said the goose.")
    return Item(prompt=Prompt.of(f"question {number}"), responses=said, models=("model-owl", "model-goose"), **more)


def assert_replay(db: Database) -> None:
    """The state of every assignment and the count of every item are those that follow from the events."""
    with db.read() as connection:
        query = select(events.c.assignment, events.c.kind, events.c.body, events.c.at, events.c.seconds, events.c.version)
        standings: dict[str, Standing] = {}
        versions: Counter[str] = Counter()
        for one, kind, body, at, seconds, version in connection.execute(query.order_by(events.c.id)):
            versions[one] += 1
            assert version == versions[one], f"event {version} of {one} comes after {versions[one] - 1} others"
            standings.setdefault(one, Standing()).apply(kind, body, at, seconds)
            assert body["state"] == standings[one].state
        taken: Counter[str] = Counter()
        for row in connection.execute(select(assignments)):
            standing = standings.get(row.id, Standing())
            assert row.state == standing.state or (row.state, standing.state) == ("expired", "open"), row
            assert row.extra == ((standing.extra or standing.upheld) and row.state == "done"), row
            taken[row.item] += row.purpose == "work" and row.state in ("open", "done") and not row.extra
        for row in connection.execute(select(items.c.id, items.c.taken)):
            assert row.taken == taken[row.id], f"{row.taken} places of {row.id} are said to be taken, and {taken[row.id]} are"


def together(*work: Any) -> list[Any]:
    """What functions return that begin at the same moment, each in a thread."""
    barrier, found = threading.Barrier(len(work)), [None] * len(work)

    def one(number: int) -> None:
        barrier.wait()
        try:
            found[number] = work[number]()
        except Exception as error:  # handed to the test, which knows what may happen
            found[number] = error

    threads = [threading.Thread(target=one, args=(number,)) for number in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class PostgreSQL:
    """A server of our own in a temporary folder, as a user without rights; it listens on this machine alone."""

    def __init__(self) -> None:
        folders = [Path(found).parent for found in [shutil.which("initdb")] if found]
        folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -int(path.parent.name))
        if not folders:
            pytest.skip("PostgreSQL is not here; on Debian and Ubuntu: apt install postgresql")
        self.bin, self.port = folders[0], free_port()
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) and shutil.disk_usage("/dev/shm").free > 2**31 else None
        self.folder = Path(tempfile.mkdtemp(prefix="handrail-postgresql-", dir=memory))
        self.user: dict[str, Any] = {}
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            try:
                entry = pwd.getpwnam("postgres")
            except KeyError:
                entry = pwd.getpwnam("nobody")
            os.chown(self.folder, entry.pw_uid, entry.pw_gid)
            self.user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        self._run("initdb", "-D", str(self.folder / "data"), "-U", "handrail", "-A", "trust", "--no-sync", "-E", "UTF8")
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        log = self.folder / "log"
        done = subprocess.run([self.bin / program, *arguments], stdout=log.open("ab"), stderr=subprocess.STDOUT, cwd="/", **self.user)
        assert done.returncode == 0, log.read_text(errors="replace")[-3000:]

    def start(self) -> None:
        """Start, and wait until it answers."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder} -c max_connections=200"
        self._run(
            "pg_ctl", "-D", str(self.folder / "data"), "-w", "-t", "120", "-l", str(self.folder / "server.log"), "-o", options, "start"
        )

    def stop(self, mode: str = "fast") -> None:
        """End; "immediate" is a crash."""
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-m", mode, "-w", "stop")

    def database(self) -> str:
        """The URL of a new database."""
        import psycopg

        name = f"test_{next(NUMBERS)}_{os.getpid()}"
        with psycopg.connect(host="127.0.0.1", port=self.port, user="handrail", dbname="postgres", autocommit=True) as connection:
            connection.execute(f"create database {name}")
        return f"postgresql://handrail@127.0.0.1:{self.port}/{name}"

    def away(self) -> None:
        """Stop, and leave nothing behind."""
        try:
            self.stop("immediate")
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A PostgreSQL of this session."""
    server = PostgreSQL()
    yield server
    server.away()


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where the machine has such: most tests need not wait for a disk."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=shared, prefix="handrail-test-") as folder:
        yield Path(folder)


@pytest.fixture
def where(request: pytest.FixtureRequest, memory: Path) -> str:
    """A path or URL for a new store; SQLite unless the test is run over DATABASES."""
    if getattr(request, "param", "sqlite") == "postgresql":
        return request.getfixturevalue("postgresql").database()
    return str(memory / "feedback.db")


@pytest.fixture
def world(where: str) -> Iterator[World]:
    """A store with one project, and a clock of its own."""
    clock = Clock()
    with closing(Database.open(where, clock)) as db:
        yield World(db, clock, where)


SERVE = """
import os, signal, sys, traceback
from handrail.feedback.server import ServerSettings, serve
from handrail.feedback.store import Database

signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead leave no trace
for line in sys.stdin:
    child = os.fork()
    if child:
        print("pid", child, flush=True)
        continue
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        serve(Database.open(sys.argv[1]), ServerSettings(port=int(sys.argv[2])), say=lambda said: None)
    except BaseException:
        traceback.print_exc()
    os._exit(1)
"""


class Server:
    """The app as a process of its own on a port of this machine, that can be killed and started again at once.

    A mother process has loaded everything and forks the servers, so that a start takes milliseconds.
    """

    def __init__(self, where: str, log: Path):
        self.port, self.log, self.pid = free_port(), log, 0
        self.address = f"http://127.0.0.1:{self.port}"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        command = [sys.executable, "-c", SERVE, where, str(self.port)]
        pipe = subprocess.PIPE
        self.mother = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=log.open("ab"), text=True)

    def start(self) -> None:
        """Start, and wait until it answers."""
        assert self.mother.stdin and self.mother.stdout
        self.mother.stdin.write("start\n")
        self.mother.stdin.flush()
        self.pid = int(self.mother.stdout.readline().split()[1])
        until = time.monotonic() + 60
        while True:
            try:
                if httpx2.get(f"{self.address}/api/openapi.json", timeout=5).status_code == 200:
                    return
            except httpx2.TransportError:
                assert time.monotonic() < until, self.log.read_text(errors="replace")[-3000:]
                time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        os.kill(self.pid, signal.SIGKILL)
        with suppress(ProcessLookupError):
            while True:
                os.kill(self.pid, 0)
                time.sleep(0.001)
        self.pid = 0

    def close(self) -> None:
        """End server and mother."""
        if self.pid:
            self.kill()
        self.mother.kill()
        self.mother.communicate()


@contextmanager
def served(where: str, log: Path) -> Iterator[Server]:
    """The app as a process while the block lasts."""
    server = Server(where, log)
    try:
        server.start()
        yield server
    finally:
        server.close()
