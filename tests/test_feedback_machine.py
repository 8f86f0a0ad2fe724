"""The whole API against a plain model of it: whatever people do, in whatever order, through restarts and as time passes."""

import random
import shutil
import tempfile
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from feedback_world import Clock, World, assert_replay, pair
from handrail.feedback.kinds import Compared, Label
from handrail.feedback.store import Database

LEASE, OVERLAP = 100.0, 2


@dataclass
class Given:
    """What the model knows of an item before a person."""

    id: str
    who: int
    question: str
    gold: bool
    expires: float
    stack: list[tuple[str, int | None, bool]] = field(default_factory=lambda: [("open", None, False)])  # state, better, flagged

    @property
    def state(self) -> str:
        return self.stack[-1][0]


class Room(RuleBasedStateMachine):
    """Three labellers, a task with gold, a second task in another project, and one who runs it all."""

    sent = Bundle("sent")

    def __init__(self) -> None:
        super().__init__()
        memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self.folder = tempfile.mkdtemp(prefix="handrail-machine-", dir=memory)
        self.clock, self.where, self.keys = Clock(), f"{self.folder}/feedback.db", count()
        self.chance = random.Random(0)  # so that the same steps lead to the same place

    @initialize()
    def begin(self) -> None:
        self.world = World(Database.open(self.where, self.clock, self.chance), self.clock, self.where)
        gold = [pair(100 + n, gold=Compared(better=0)) for n in range(4)]
        self.task = self.world.make_task(*map(pair, range(8)), *gold, overlap=OVERLAP, lease=LEASE, gold=0.3)
        self.asked, self.next = {f"question {n}" for n in range(8)}, count(8)
        self.people = [self.world.labeller() for _ in range(3)]
        self.headers = [self.world.token(person) for person in self.people]
        self.admin_headers = self.world.token(self.world.admin())
        self.gone: set[int] = set()
        self.given: dict[str, Given] = {}
        self.settled: dict[str, int] = {}
        self.snapshots: dict[str, tuple[dict[str, Any], str]] = {}
        self.connect()

    def connect(self) -> None:
        self.client = self.world.client()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.db.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def ask(self, who: int | None, method: str, path: str, body: Any = None) -> Any:
        headers = self.admin_headers if who is None else self.headers[who]
        return self.client.request(method, path, json=body, headers=headers)

    def post(self, who: int, one: Given, body: dict[str, Any]) -> Any:
        return self.ask(who, "POST", f"/api/assignments/{one.id}", body)

    def living(self, one: Given) -> bool:
        return one.state == "done" or (one.state == "open" and one.expires > self.clock.at)

    @rule(who=st.integers(0, 2), wanted=st.integers(1, 3))
    def asks(self, who: int, wanted: int) -> None:
        answer = self.ask(who, "POST", f"/api/tasks/{self.task.id}/next", {"count": wanted})
        if who in self.gone:
            assert answer.status_code == 401
            return
        found = answer.json()["items"]
        assert len(found) <= wanted and len({one["id"] for one in found}) == len(found)
        for told in found:
            question = told["messages"][0]["text"]
            known = self.given.get(told["id"])
            if known is None:
                same = [one for one in self.given.values() if one.who == who and one.question == question]
                assert same == [], "nobody is given an item under two ids"
                gold = int(question.split()[1]) >= 100 and question not in self.asked
                known = self.given[told["id"]] = Given(told["id"], who, question, gold, 0.0)
            assert known.who == who and known.state == "open", "only what is open is given"
            known.expires = self.clock.at + LEASE
            assert told["expires"] == known.expires and told["state"] == "open"

    @rule(seconds=st.sampled_from([1.0, LEASE / 2, LEASE, 3 * LEASE]))
    def time_passes(self, seconds: float) -> None:
        self.clock.wait(seconds)

    @rule()
    def restarts(self) -> None:
        self.world.db.close()
        self.world.db = Database.open(self.where, self.clock, self.chance)
        self.connect()

    @precondition(lambda self: self.given)
    @rule(
        target=sent,
        data=st.data(),
        act=st.sampled_from(["submit", "submit", "submit", "skip", "flag", "undo"]),
        better=st.sampled_from([0, 1, None]),
        stranger=st.integers(0, 9),
    )
    def acts(self, data: st.DataObject, act: str, better: int | None, stranger: int) -> Any:
        one = self.given[data.draw(st.sampled_from(sorted(self.given, key=list(self.given).index)))]
        body: dict[str, Any] = {"key": f"machine-{next(self.keys):06d}", "act": act, "reason": "why"}
        if act == "submit":
            body["answer"] = {"kind": "compare", "better": better}
        who = (one.who + 1) % 3 if stranger == 0 else one.who
        answer = self.post(who, one, body)
        state, chosen, flagged = one.stack[-1]
        if who in self.gone:
            assert answer.status_code == 401
        elif who != one.who:
            assert answer.status_code == 404
        elif (act == "undo" and len(one.stack) == 1) or (act == "skip" and chosen is not None):
            assert answer.status_code == 409
        else:
            if act == "undo":
                one.stack.pop()
            elif act == "submit":
                one.stack.append(("done", -1 if better is None else better, flagged))
            else:
                one.stack.append((state, chosen, True) if act == "flag" else ("skipped", chosen, flagged))
            assert answer.status_code == 200 and answer.json()["state"] == one.state, answer.text
            return (one.id, body, answer.json())
        return (one.id, body, None)

    @rule(before=sent, change=st.booleans())
    def sends_again(self, before: Any, change: bool) -> None:
        number, body, told = before
        one = self.given[number]
        if one.who in self.gone or told is None:
            return
        answer = self.post(one.who, one, body | ({"reason": "other"} if change else {}))
        assert answer.status_code == (409 if change else 200)
        assert change or answer.json() == told

    @rule(before=sent, data=st.data())
    def uses_a_key_of_another(self, before: Any, data: st.DataObject) -> None:
        number, body, told = before
        other = self.given[data.draw(st.sampled_from(sorted(self.given, key=list(self.given).index)))]
        if told is not None and other.id != number and other.who not in self.gone:
            assert self.post(other.who, other, body).status_code == 409

    @rule(priority=st.sampled_from([0.0, 1.0, 5.0]), again=st.booleans())
    def brings_items(self, priority: float, again: bool) -> None:
        number = 0 if again else next(self.next)
        body = [pair(number, priority=priority).model_dump(mode="json")]
        answer = self.ask(None, "POST", f"/api/tasks/{self.task.id}/items", body)
        assert answer.json() == {"new": int(not again), "known": int(again)}
        self.asked.add(f"question {number}")

    @rule()
    def takes_a_snapshot(self) -> None:
        answer = self.ask(None, "POST", "/api/projects/support/snapshots", {"rules": {"flagged": True}})
        made = answer.json()
        text = self.ask(None, "GET", f"/api/snapshots/{made['id']}/labels.jsonl").text
        assert made["labels"] == len(text.splitlines())
        assert self.snapshots.setdefault(made["id"], (made, text)) == (made, text)

    @precondition(lambda self: self.snapshots)
    @rule(data=st.data())
    def fetches_a_snapshot_again(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(list(self.snapshots)))
        assert self.ask(None, "GET", f"/api/snapshots/{number}/labels.jsonl").text == self.snapshots[number][1]

    @precondition(lambda self: self.given and len(self.gone) < 2)
    @rule(who=st.integers(0, 2), sure=st.integers(0, 5))
    def is_deleted(self, who: int, sure: int) -> None:
        if sure == 0 and who not in self.gone:
            assert self.ask(None, "DELETE", f"/api/people/{self.people[who].pseudonym}").status_code == 204
            self.gone.add(who)

    @invariant()
    def no_item_has_too_many(self) -> None:
        if hasattr(self, "world"):
            assert_replay(self.world.db)
            with self.world.db.read() as connection:
                assert connection.exec_driver_sql("select coalesce(max(taken), 0) from items").scalar_one() <= OVERLAP

    @precondition(lambda self: hasattr(self, "world"))
    @rule()
    def labels_are_those_of_the_model(self) -> None:
        made = self.ask(None, "POST", "/api/projects/support/snapshots", {"rules": {"flagged": True, "purposes": ["work", "gold"]}}).json()
        text = self.ask(None, "GET", f"/api/snapshots/{made['id']}/labels.jsonl").text
        found = {}
        for line in text.splitlines():
            label = Label.model_validate_json(line)
            shown = None if label.answer.better is None else label.order.index(label.answer.better)
            found[label.id] = (-1 if shown is None else shown, label.flagged, label.labeller, label.purpose)
        wanted = {
            one.id: (one.stack[-1][1], one.stack[-1][2], self.people[one.who].pseudonym, "gold" if one.gold else "work")
            for one in self.given.values()
            if one.stack[-1][1] is not None
        }
        assert found == wanted


CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


@pytest.mark.parametrize("examples, steps", [(3, 25), pytest.param(200, 50, marks=pytest.mark.slow)])
def test_the_app_does_what_the_model_does(examples: int, steps: int):
    kept = settings(max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=CHECKS)
    run_state_machine_as_test(Room, settings=kept)
