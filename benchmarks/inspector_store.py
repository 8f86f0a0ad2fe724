"""Seconds until the inspector's pages over a feedback store show something, on 10,000 items with 40,000 labels.

    python benchmarks/inspector_store.py                           # makes the store in a temporary folder
    python benchmarks/inspector_store.py --items 1000 --browser    # smaller; also what Chromium shows

Half the items are comparisons, half rankings of four responses; twelve people of differing reliability gave four labels to
each, over twenty days; some skipped, some flagged, some took an answer back.  The rows are written as the store writes them,
past its locks, since nobody else is there.  Every page is the first of its kind on a server that has just begun; what it
asks for is timed over HTTP to the last byte.  Agreement and reliability are computed beside the pages: how long that takes
from the first question on is a line of its own.
"""

import argparse
import hashlib
import json
import shutil
import statistics
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path

import numpy as np
from sqlalchemy import insert, update

from handrail.feedback.kinds import Compared, Item, Ranked, TaskSettings
from handrail.feedback.store import Database, people, projects, review
from handrail.feedback.store.tables import assignments, events, items
from handrail.inspector.server import served
from handrail.records import Prompt, places_of

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("", "n", "r", "st", "ll", "m")]
DAY, BEGAN = 86_400.0, 1.79e9
PEOPLE, OVERLAP = 12, 4
MODELS = ("a", "b", "c", "d")


def text(rng: np.random.Generator, words: int) -> str:
    """So many words, the frequent ones more often."""
    return " ".join(WORDS[i] for i in (len(WORDS) * rng.random(words) ** 3).astype(int))


def make_store(path: Path, count: int) -> int:
    """A store with two tasks; how many labels it has."""
    rng, db = np.random.default_rng(0), Database.open(path)
    projects.make_project(db, "support", "Support answers")
    labellers = [people.invite(db, f"Person {n}", to=["support"], pseudonym=f"labeller-{n:02d}").id for n in range(PEOPLE)]
    sharp = rng.uniform(0.5, 4.0, PEOPLE)
    moments = iter(np.sort(BEGAN + rng.uniform(0, 20 * DAY, (OVERLAP + 1) * count)).tolist())
    asked: list[dict] = []
    said: list[dict] = []
    for kind, k in (("compare", 2), ("rank", 4)):
        task = projects.make_task(db, "support", f"{kind}-1", TaskSettings.model_validate({"kind": kind, "overlap": OVERLAP}))
        prompts = [Prompt.of(f"{n}: {text(rng, 60)}?") for n in range(count // 2)]
        projects.take_in(db, task, [Item(prompt=one, responses=tuple(text(rng, 80) for _ in range(k)), models=MODELS[:k]) for one in prompts])
        for item in review.item_states(db, task, count):
            worth = rng.standard_normal(k)
            for place, who in enumerate(rng.choice(PEOPLE, OVERLAP + (rng.random() < 0.05), replace=False)):
                places = places_of((worth + rng.logistic(size=k) / sharp[who]).round(6).tolist())
                answer = Compared(better=places.index(1)) if k == 2 else Ranked(places=places)
                acts = doing(rng, answer.model_dump(mode="json")) if place < OVERLAP else [("skip", {"reason": "I cannot tell."})]
                where = {"task": task.id, "person": labellers[who]}
                name, at = hashlib.sha256(f"{item.id} {who}".encode()).hexdigest()[:22], next(moments)
                state = "done" if place < OVERLAP else "skipped"
                asked.append(where | {"id": name, "item": item.id, "order": rng.permutation(k).tolist(), "state": state, "leased": at - 60})
                said += [where | event(rng, name, version, at, *act, state) for version, act in enumerate(acts, 1)]
    same = {"repetition": 0, "purpose": "work", "number": 0, "revision": 1, "shown": "0" * 64, "expires": 0.0, "extra": False}
    with db.write() as connection:
        connection.execute(insert(assignments), [same | one for one in asked])
        connection.execute(insert(events), sorted(said, key=lambda one: one["at"]))
        connection.execute(update(items).values(taken=OVERLAP))
    db.close()
    return sum(one["state"] == "done" for one in asked)


def doing(rng: np.random.Generator, answer: dict) -> list[tuple[str, dict]]:
    """What somebody does with an item: answers, now and then twice, or with a flag."""
    acts = [("submit", {"answer": answer, "reason": text(rng, 6) if rng.random() < 0.2 else ""})]
    acts = [acts[0], ("undo", {"reason": ""}), acts[0]] if rng.random() < 0.02 else acts
    return [*acts, ("flag", {"reason": "odd"})] if rng.random() < 0.01 else acts


def event(rng: np.random.Generator, of: str, version: int, at: float, act: str, body: dict, state: str) -> dict:
    """The row of an act."""
    found = {"key": f"{of}-{version}", "digest": "0" * 64, "kind": act, "assignment": of, "at": at + version, "version": version}
    seconds = float(rng.lognormal(3, 0.5)) if act == "submit" else 0.0
    return found | {"seconds": seconds, "body": body | {"state": state, "extra": False}}
