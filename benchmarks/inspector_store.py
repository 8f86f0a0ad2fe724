"""Seconds until the inspector's pages over a feedback store show something, on 10,000 items with 40,000 labels.

    python benchmarks/inspector_store.py                           # makes the store in a temporary folder
    python benchmarks/inspector_store.py --items 1000 --browser    # smaller; also what Chromium shows

Half the items are comparisons, half rankings of four responses; twelve people of differing reliability gave four labels to
each, over twenty days, one of them to whatever stood first; some skipped, some flagged, some took an answer back.  The rows
are written as the store writes them, past its locks, since nobody else is there.  Every page is the first of its kind on a
server that has just begun; what it asks for is timed over HTTP to the last byte, on the clock and by the CPU that it took,
since a machine may have other work.  Agreement and reliability are computed beside the pages: how long that takes from the
first question on is a line of its own.
"""

import argparse
import hashlib
import json
import resource
import shutil
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
        projects.take_in(
            db, task, [Item(prompt=one, responses=tuple(text(rng, 80) for _ in range(k)), models=MODELS[:k]) for one in prompts]
        )
        for item in review.item_states(db, task, count):
            worth = rng.standard_normal(k)
            for place, who in enumerate(rng.choice(PEOPLE, OVERLAP + (rng.random() < 0.05), replace=False)):
                order = rng.permutation(k)
                seen = worth + rng.logistic(size=k) / sharp[who] if who else -np.argsort(order)
                places = places_of(seen.round(6).tolist())
                answer = Compared(better=places.index(1)) if k == 2 else Ranked(places=places)
                acts = doing(rng, answer.model_dump(mode="json")) if place < OVERLAP else [("skip", {"reason": "I cannot tell."})]
                where = {"task": task.id, "person": labellers[who]}
                name, at = hashlib.sha256(f"{item.id} {who}".encode()).hexdigest()[:22], next(moments)
                state = "done" if place < OVERLAP else "skipped"
                asked.append(where | {"id": name, "item": item.id, "order": order.tolist(), "state": state, "leased": at - 60})
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


Spent = tuple[float, float]  # seconds on the clock, and of this process's CPU: its server and what asks it


def timed(where: str, path: str) -> tuple[Spent, dict]:
    """What it took to the last byte of an answer, and the answer where it is JSON."""
    start, cpu = time.perf_counter(), time.process_time()
    with urllib.request.urlopen(f"{where}{path}") as answer:
        body = answer.read()
    spent = time.perf_counter() - start, time.process_time() - cpu
    return spent, json.loads(body) if path.startswith("/api/") else {}


ABOUT = urllib.parse.urlencode({"store": "feedback.db", "project": "support"})


def beside() -> float:
    """Seconds of CPU of the processes that have computed figures so far."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def measure(where: str, count: int) -> dict[str, Spent]:
    """What the pages ask for, each for the first time."""
    found: dict[str, Spent] = {}
    start = time.perf_counter()
    found["labels: page"], _ = timed(where, f"/labels?{ABOUT}")
    found["labels: how far, curves, who"], _ = timed(where, f"/api/labels?{ABOUT}")
    found["items: page"], _ = timed(where, f"/items?{ABOUT}")
    found["items: first rows"], answer = timed(where, f"/api/items?{ABOUT}&count=32")
    places = np.random.default_rng(1).integers(0, count, 20)
    windows = sorted(timed(where, f"/api/items?{ABOUT}&by=labels&start={at}&count=32")[0] for at in places)
    found["items: a window, median"], found["items: a window, longest"] = windows[10], windows[-1]
    found["items: two words"], _ = timed(where, f"/api/items?{ABOUT}&words=gall+starst&count=32")
    found["items: of one person, skipped"], _ = timed(where, f"/api/items?{ABOUT}&person=labeller-03&skipped=true&count=32")
    one = urllib.parse.urlencode({"store": "feedback.db", "id": answer["rows"][0]["id"]})
    found["item: page"], _ = timed(where, f"/item?{one}")
    found["item: who learnt from it"], _ = timed(where, f"/api/learnt?{one}")
    while timed(where, f"/api/quality?{ABOUT}")[1]["quality"] is None:
        time.sleep(0.2)
    found["figures, from the first question on, beside the pages"] = time.perf_counter() - start, beside()
    found["items: by how far answers are apart"], _ = timed(where, f"/api/items?{ABOUT}&by=size&count=32")
    found["labels: figures"], _ = timed(where, f"/api/quality?{ABOUT}")
    return found


def seen(where: str, item: str) -> dict[str, Spent]:
    """What it takes in Chromium from opening a page until what it is for is on the screen."""
    from playwright.sync_api import sync_playwright

    found = {}
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(60_000)
        for name, path, ready in (
            ("labels", f"/labels?{ABOUT}", "#curves .curve"),
            ("items", f"/items?{ABOUT}", ".line .prompt:not(:empty)"),
            ("item", f"/item?{urllib.parse.urlencode({'store': 'feedback.db', 'id': item})}", ".said-what td"),
        ):
            start, cpu = time.perf_counter(), time.process_time()
            page.goto(where + path)
            page.wait_for_selector(ready)
            found[f"seen: {name}"] = time.perf_counter() - start, time.process_time() - cpu
        browser.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help="where the store is made, or was; a temporary one if not given")
    parser.add_argument("--keep", action="store_true", help="leave the folder there")
    parser.add_argument("--browser", action="store_true")
    given = parser.parse_args()
    root = given.folder or Path(tempfile.mkdtemp(prefix="inspector-store-"))
    root.mkdir(exist_ok=True)
    try:
        if not (root / "feedback.db").exists():
            start = time.perf_counter()
            labels = make_store(root / "feedback.db", given.items)
            print(f"{given.items:,} items with {labels:,} labels, made in {time.perf_counter() - start:.0f} s")
        print(f"{(root / 'feedback.db').stat().st_size / 2**20:.0f} MiB")
        with served(root) as where:
            found = measure(where, given.items)
        if given.browser:
            with served(root) as where:
                item = timed(where, f"/api/items?{ABOUT}&count=1")[1]["rows"][0]["id"]
            with served(root) as where:
                found |= seen(where, item)
        print(f"{'':56s} {'seconds':>8s} {'of CPU':>8s}")
        for name, (seconds, cpu) in found.items():
            print(f"{name:56s} {seconds:8.3f} {cpu:8.3f}")
    finally:
        if not given.keep:
            shutil.rmtree(root)


if __name__ == "__main__":
    main()
