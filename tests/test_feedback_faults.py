"""Nothing that was acknowledged is lost: the server killed, the database killed, locked, or out of room."""

import random
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import select

from feedback_world import PostgreSQL, Server, assert_replay, new_key, pair, served
from handrail.errors import RunError
from handrail.feedback.client import Client
from handrail.feedback.kinds import Compared, TaskSettings
from handrail.feedback.store import Database, assignment, labels, people, projects, snapshots
from handrail.feedback.store import database as database_module
from handrail.feedback.store.labels import Submission
from handrail.feedback.store.tables import events

pytestmark = pytest.mark.slow
CLIENTS, SUBMITS, KILLS = 8, 10_000, 50


def prepare(where: str, labellers: int, items: int) -> tuple[int, list[str]]:
    """A store with a task that every labeller can answer in full; its number and their tokens."""
    with closing(Database.open(where)) as db:
        projects.make_project(db, "support")
        task = projects.make_task(db, "support", "compare", TaskSettings(kind="compare", overlap=labellers))
        projects.take_in(db, task, list(map(pair, range(items))))
        everybody = [people.invite(db, "Labeller", to=["support"]) for _ in range(labellers)]
        return task.id, [people.issue(db, person, "token") for person in everybody]


class Labeller(threading.Thread):
    """Answers everything, one after the other; keeps what it sent and what was acknowledged."""

    def __init__(self, address: str, token: str, task: int, patience: float = 120.0):
        super().__init__(daemon=True)
        self.client, self.task = Client(address, token, patience), task
        self.sent: dict[str, tuple[str, int]] = {}
        self.acknowledged: dict[str, int] = {}
        self.failed: Exception | None = None

    def run(self) -> None:
        rng = random.Random(self.client.address)
        try:
            while given := self.client.next_items(self.task, 25):
                for one in given:
                    key, better = new_key(), rng.randrange(2)
                    self.sent[key] = (one.id, better)
                    self.acknowledged[key] = self.client.submit(one.id, Compared(better=better), key=key).version
        except Exception as error:  # the test tells it
            self.failed = error
        self.client.close()


def work_through(address: str, task: int, tokens: list[str], disturb: Callable[[Callable[[], int]], None]) -> list[Labeller]:
    """Everybody answers everything while `disturb` does its worst; it is given how to count what is acknowledged."""
    everybody = [Labeller(address, token, task) for token in tokens]
    for one in everybody:
        one.start()
    disturb(lambda: sum(len(one.acknowledged) for one in everybody))
    for one in everybody:
        one.join(300)
    assert [one.failed for one in everybody] == [None] * len(everybody)
    assert not any(one.is_alive() for one in everybody)
    return everybody


def assert_nothing_lost(where: str, everybody: list[Labeller], wanted: int) -> None:
    """Every acknowledged label is there exactly once as it was sent, nothing is there that was never sent."""
    sent = {key: told for one in everybody for key, told in one.sent.items()}
    acknowledged = {key: version for one in everybody for key, version in one.acknowledged.items()}
    assert sent.keys() == acknowledged.keys() and len(sent) == wanted
    with closing(Database.open(where)) as db:
        with db.read() as connection:
            rows = connection.execute(select(events.c.key, events.c.assignment, events.c.version, events.c.kind)).all()
        assert len(rows) == len({row.key for row in rows}) == wanted
        assert {row.key: (row.assignment, row.version) for row in rows} == {key: (sent[key][0], v) for key, v in acknowledged.items()}
        found = {label.id: label for label in snapshots.labels(db, "support")}
        assert len(found) == wanted
        for assignment, better in sent.values():
            label = found[assignment]
            assert label.answer == Compared(better=label.order[better]) and not label.extra
        assert_replay(db)


def kill_at_random(server: Server, others: dict[int, Callable[[], None]]) -> Callable[[Callable[[], int]], None]:
    """Kill the server at random instants, spread over the work, and start it again; after some kills do something else too."""

    def disturb(done: Callable[[], int]) -> None:
        moments = sorted(random.sample(range(SUBMITS - 200), KILLS))
        for number, moment in enumerate(moments):
            until = time.monotonic() + 120
            while done() < moment:
                assert time.monotonic() < until, f"only {done()} of {moment} were acknowledged"
                time.sleep(0.002)
            time.sleep(random.random() * 0.05)
            server.kill()
            if number in others:
                others[number]()
            server.start()

    return disturb


def test_ten_thousand_labels_outlive_fifty_kills(tmp_path: Path):
    """SQLite, on the disk."""
    where = str(tmp_path / "feedback.db")
    task, tokens = prepare(where, CLIENTS, SUBMITS // CLIENTS)
    with served(where, tmp_path / "log") as server:
        everybody = work_through(server.address, task, tokens, kill_at_random(server, {}))
    assert_nothing_lost(where, everybody, SUBMITS)
    with closing(sqlite3.connect(where)) as raw:
        assert raw.execute("pragma integrity_check").fetchone() == ("ok",)


def test_ten_thousand_labels_outlive_fifty_kills_and_a_crash_of_postgresql(tmp_path: Path):
    database = PostgreSQL()
    try:
        where = database.database()
        task, tokens = prepare(where, CLIENTS, SUBMITS // CLIENTS)

        def crash() -> None:
            database.stop("immediate")
            database.start()

        def crash_under_the_server(server: Server) -> Callable[[Callable[[], int]], None]:
            kills = kill_at_random(server, {KILLS // 2: crash})

            def disturb(done: Callable[[], int]) -> None:
                while done() < 100:
                    time.sleep(0.01)
                crash()  # while the server lives
                kills(done)

            return disturb

        with served(where, tmp_path / "log") as server:
            everybody = work_through(server.address, task, tokens, crash_under_the_server(server))
        assert_nothing_lost(where, everybody, SUBMITS)
    finally:
        database.away()


HOLD = """
import sqlite3, sys, time
held = sqlite3.connect(sys.argv[1], isolation_level=None)
held.execute("begin immediate")
print("held", flush=True)
time.sleep(float(sys.argv[2]))
held.execute("rollback")
"""


def test_another_process_holds_the_lock_for_thirty_seconds(tmp_path: Path):
    """Whoever writes is told 503 in time and tries again; whoever reads is not kept; nothing is lost."""
    where = str(tmp_path / "feedback.db")
    task, tokens = prepare(where, 4, 50)
    statuses: list[int] = []
    with served(where, tmp_path / "log") as server:

        def hold(done: Callable[[], int]) -> None:
            while done() < 20:
                time.sleep(0.01)
            holder = subprocess.Popen([sys.executable, "-c", HOLD, where, "30"], stdout=subprocess.PIPE, text=True)
            assert holder.stdout and holder.stdout.readline() == "held\n"
            headers, before = {"authorization": f"Bearer {tokens[0]}"}, done()
            while holder.poll() is None:
                began = time.monotonic()
                answer = httpx2.get(f"{server.address}/api/me", headers=headers, timeout=60)
                assert answer.status_code == 200 and time.monotonic() - began < 5
                answer = httpx2.post(f"{server.address}/api/tasks/{task}/next", headers=headers, json={}, timeout=60)
                statuses.append(answer.status_code)
                assert answer.status_code == 200 or (answer.headers["retry-after"] and answer.json()["found"] == "the database is busy")
                assert time.monotonic() - began < 2 * database_module.BUSY + 10
                assert statuses[-1] == 200 or done() <= before + 4, "nothing is acknowledged that cannot be written"

        everybody = work_through(server.address, task, tokens, hold)
    assert 503 in statuses and set(statuses) <= {200, 503}
    assert_nothing_lost(where, everybody, 200)


FILL = """
import os, subprocess, sys
from contextlib import closing
from pathlib import Path

from fastapi.testclient import TestClient

from feedback_world import Clock, World, assert_replay, new_key, pair
from handrail.feedback.store import Database, people, snapshots

folder = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=True)
where = str(folder / "feedback.db")
db = Database.open(where)
world = World(db, Clock(), where)
world.make_task(*map(pair, range(16)))
client = world.client(world.labeller())
given = client.post(f"/api/tasks/{world.task.id}/next", json={"count": 16}).json()["items"]
kept, statuses = {}, []
balloon = folder / "balloon"
for round in range(2):
    with balloon.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
    for one in given[8 * round : 8 * round + 8]:
        for attempt in range(2):
            body = {"key": new_key(), "answer": {"kind": "compare", "better": 0}, "reason": "word " * 100}
            answer = client.post(f"/api/assignments/{one['id']}", json=body)
            statuses.append(answer.status_code)
            assert answer.status_code in (200, 507), (answer.status_code, answer.text)
            if answer.status_code == 200:
                kept[one["id"]] = body["reason"]
                break
            assert answer.json()["found"] == "the disk is full" and answer.headers["retry-after"]
            if attempt == 0 and round == 1:
                balloon.unlink(missing_ok=True)  # there is room again
assert 507 in statuses and statuses[-1] == 200, statuses
assert len(kept) >= 8
db.close()
with closing(Database.open(where)) as again:
    assert {label.id: label.reason for label in snapshots.labels(again, "support")} == kept
    assert_replay(again)
print("kept", len(kept), "full", statuses.count(507))
"""


def test_a_full_disk_loses_nothing_and_works_again_when_there_is_room(tmp_path: Path):
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rm", "true"], capture_output=True).returncode:
        pytest.skip("this machine gives no folder of one megabyte: `unshare -rm` is not allowed")
    environment = {"PYTHONPATH": ":".join(path for path in sys.path if path), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    command = [unshare, "-rm", sys.executable, "-c", textwrap.dedent(FILL), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert done.stdout.startswith("kept")


def test_a_server_that_never_answers_is_told_so(tmp_path: Path):
    client = Client("http://127.0.0.1:9", "no-token", patience=0.5)
    with pytest.raises(RunError, match="does not answer"):
        client.me()


def test_a_store_killed_in_the_middle_of_a_transaction_has_none_of_it(tmp_path: Path):
    """SIGKILL after the event was written and before the commit."""
    where = str(tmp_path / "feedback.db")
    code = """
    import os, signal, sys
    from feedback_world import Clock, World, new_key, pair
    from handrail.feedback.store import Database, labels
    world = World(Database.open(sys.argv[1]), Clock(), sys.argv[1])
    world.make_task(pair(1), pair(2))
    person = world.labeller()
    first, second = world.give(person, 2)
    world.act(person, first)
    labels.settle = lambda *given: os.kill(os.getpid(), signal.SIGKILL)
    world.act(person, second)
    """
    environment = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), where], env=environment, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    with closing(Database.open(where)) as db:
        assert len(snapshots.labels(db, "support")) == 1
        assert_replay(db)
        person = people.named(db, people.everybody(db)[0]["pseudonym"])
        (task,) = projects.all_tasks(db, "support")
        (again,) = assignment.give_out(db, task, person, 5)
        labels.submit(db, person, again.id, Submission(key=new_key(), answer=Compared(better=0)))
        assert len(snapshots.labels(db, "support")) == 2
