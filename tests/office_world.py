"""A store that people have worked in: what the tests of those who run the projects look at."""

import json
import random
from collections.abc import Callable
from itertools import count
from pathlib import Path

from handrail.feedback.kinds import Compared, Criterion, Item, Ranked, Rated, TaskSettings
from handrail.feedback.store import Database, assignment, labels, people, projects
from handrail.feedback.store.assignment import Assignment
from handrail.feedback.store.labels import Submission
from handrail.feedback.store.people import Person
from handrail.feedback.store.projects import Task
from handrail.records import Prompt

KEYS = count(1)
HOSTILE = "<script>alert(1)</script> ![x](http://example.org/x.png) \u202eevil"


def key() -> str:
    """A key that no other test has used."""
    return f"office-{next(KEYS):08d}"


def compare_items(n: int) -> list[Item]:
    """Items of which the first response is the right one."""
    models = ("model-one", "model-two")
    return [Item(prompt=Prompt.of(f"Question {i}: {HOSTILE}"), responses=(f"good {i}", f"bad {i}"), models=models) for i in range(n)]


def work(db: Database, task: Task, person: Person, say: Callable[[Assignment], object], most: int = 10_000) -> list[str]:
    """Answer what is given out, until there is nothing more; the assignments."""
    done: list[str] = []
    while len(done) < most and (given := assignment.give_out(db, task, person, 1)):
        answer = say(given[0])
        labels.submit(db, person, given[0].id, Submission(key=key(), answer=answer, seconds=5.0))  # type: ignore[arg-type]
        done.append(given[0].id)
    return done


def prefers(right: bool) -> Callable[[Assignment], Compared]:
    """An answer to a comparison: the item's first response, or the other."""

    def say(given: Assignment) -> Compared:
        place = given.order.index(0)
        return Compared(better=place if right else 1 - place)

    return say


def in_order(given: Assignment) -> Ranked:
    """The item's own order of responses."""
    return Ranked(places=tuple(i + 1 for i in given.order))


def worked_in(db: Database, n: int = 12) -> dict[str, Task]:
    """A project with three tasks and three labellers, of whom the third contradicts the others."""
    known = [one["pseudonym"] for one in people.everybody(db)]
    admin = people.named(db, "admin") if "admin" in known else people.invite(db, "Admin", "admin", pseudonym="admin")
    projects.make_project(db, "support", "Support answers", admin)
    scales = (Criterion(name="helpful", question="Does it help?"), Criterion(name="concise", low=1, high=3))
    tasks = {
        "pairs": projects.make_task(db, "support", "pairs", TaskSettings(kind="compare", overlap=3, gold=0.2), admin),
        "ranking": projects.make_task(db, "support", "ranking", TaskSettings(kind="rank", overlap=2), admin),
        "scales": projects.make_task(db, "support", "scales", TaskSettings(kind="rate", overlap=2, criteria=scales), admin),
    }
    gold = [Item(prompt=Prompt.of(f"Gold {i}"), responses=("good", "bad"), gold=Compared(better=0)) for i in range(4)]
    projects.take_in(db, tasks["pairs"], compare_items(n) + gold, admin)
    ranks = [Item(prompt=Prompt.of(f"Name a film {i}"), responses=("a", "b", "c"), priority=i % 2) for i in range(n)]
    projects.take_in(db, tasks["ranking"], ranks, admin)
    projects.take_in(db, tasks["scales"], [Item(prompt=Prompt.of(f"Rain {i}"), responses=("wet", "drops")) for i in range(n)], admin)
    rng = random.Random(0)
    for number in range(3):
        person = people.invite(db, f"Person {number + 1}", to=["support"], pseudonym=f"labeller-{number + 1}", by=admin)
        work(db, tasks["pairs"], person, prefers(number < 2))
        work(db, tasks["ranking"], person, in_order)
        work(
            db,
            tasks["scales"],
            person,
            lambda given: Rated(ratings=tuple({"helpful": float(rng.randint(1, 5)), "concise": 2.0} for _ in given.order)),
        )
    return tasks


def write_lines(path: Path, rows: list[dict]) -> Path:
    """JSON lines in a file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
