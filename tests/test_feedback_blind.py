"""A labeller never learns which model wrote what, nor what is gold or a repeat and what is work."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi.testclient import TestClient
from scipy.stats import chi2_contingency, chisquare, spearmanr

from feedback_world import World, new_key, pair
from handrail.feedback.kinds import Compared, Item, Ranked
from handrail.feedback.server import create_app
from handrail.feedback.store import snapshots
from handrail.feedback.store.labels import Submission
from handrail.feedback.store.tables import assignments
from handrail.records import Prompt

MODELS = ("model-owl", "model-goose", "model-heron")


def ranked(number: int, **more: Any) -> Item:
    """Three responses that say by whom they are in a code that this test alone reads."""
    said = tuple(f"{number}: {word}" for word in ("ab", "cd", "ef"))
    meta = {"batch": "secret-meta", "models": MODELS}
    prompt = Prompt.of(f"question {number}", source="secret-meta", model=MODELS[0])
    return Item(prompt=prompt, responses=said, models=MODELS, meta=meta, **more)


class Watch:
    """A labeller's client that keeps everything it was told."""

    def __init__(self, client: TestClient):
        self.client, self.told = client, []

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        answer = self.client.request(method, path, json=body)
        self.told.append(f"{answer.status_code} {list(answer.headers.items())} {answer.text}")
        return answer.json()

    def items(self, task: int, count: int = 1) -> Any:
        return self.ask("POST", f"/api/tasks/{task}/next", {"count": count, "html": True})

    def act(self, assignment: str, **body: Any) -> Any:
        return self.ask("POST", f"/api/assignments/{assignment}", {"key": new_key(), **body})


def test_nothing_that_a_labeller_is_told_names_a_model(world: World):
    """Every answer of every operation they may use, and of all that they may not: body, headers, errors."""
    gold = [ranked(900 + n, gold=Ranked(places=(1, 2, 3))) for n in range(5)]
    practice = [ranked(800, practice=True, gold=Ranked(places=(2, 1, 3)), explanation="shorter")]
    world.make_task(*map(ranked, range(20)), *gold, *practice, kind="rank", gold=0.3, repeats=0.2, overlap=2)
    watch, admin = Watch(world.client(world.labeller())), world.admin()
    watch.ask("GET", "/api/me")
    watch.ask("GET", f"/api/tasks/{world.task.id}")
    for number in range(16):
        for one in watch.items(world.task.id)["items"]:
            watch.ask("GET", f"/api/assignments/{one['id']}")
            watch.act(one["id"], answer={"kind": "rank", "places": [1, 1, 1, 1]})
            watch.act(one["id"], answer={"kind": "compare", "better": 0})
            watch.act(one["id"], answer={"kind": "rank", "places": [2, 1, 3]})
            watch.act(one["id"], act=["undo", "flag", "skip", "nonsense"][number % 4], reason="x")
            watch.act(one["id"], answer={"kind": "rank", "places": [3, 1, 2]})
            watch.ask("GET", f"/api/assignments/{one['id']}")
            watch.ask("GET", f"/api/assignments/{one['id']}/chat")
    snapshots.take(world.db, "support", by=admin)
    schema = world.client().get("/api/openapi.json").json()["paths"]
    for path, methods in schema.items():
        for method in methods:
            for name, value in {"task": world.task.id, "project": "support", "pseudonym": admin.pseudonym, "kind": "token"}.items():
                path = path.replace("{" + name + "}", str(value))
            watch.ask(method.upper(), path.replace("{", "").replace("}", ""), {})
    everything = "\n".join(watch.told)
    assert "question 1" in everything and "shorter" in everything
    for word in (*MODELS, "secret-meta", '"order"', "repetition", '"gold":null', '"purpose"'):
        assert word not in everything, word
    with world.db.read() as connection:
        ids = set(connection.scalars(assignments.select().with_only_columns(assignments.c.item)))
    assert not any(item in everything for item in ids), "an item's own id would tell a repeat from work"


def test_a_chat_names_no_model_not_even_when_one_is_absent_or_fails(world: World):
    class Parrot:
        def __init__(self, says: str):
            self.says = says

        def reply(self, messages: tuple) -> str:
            if "break" in messages[-1].content:
                raise RuntimeError(f"{MODELS[0]} is out of memory")
            return self.says + messages[-1].content

    topic = Item(prompt=Prompt.of("trains", model=MODELS[1]))
    world.make_task(topic, kind="chat", models=MODELS[:2], turns=3)
    person = world.labeller()
    (given,) = world.give(person)
    for responders in ({}, {MODELS[0]: Parrot("1")}, {name: Parrot(str(n)) for n, name in enumerate(MODELS)}):
        client = TestClient(create_app(world.db, None, responders), "http://127.0.0.1", headers=world.token(person))
        watch = Watch(client)
        watch.ask("GET", f"/api/tasks/{world.task.id}")
        watch.items(world.task.id)
        for message in ("break it", "hello"):
            watch.ask("POST", f"/api/assignments/{given.id}/chat", {"key": new_key(), "message": message})
        watch.ask("GET", f"/api/assignments/{given.id}/chat")
        watch.ask("POST", f"/api/assignments/{given.id}/chat/choice", {"key": new_key(), "better": 1})
        everything = "\n".join(watch.told)
        assert not any(name in everything for name in MODELS)
        broken = [line for line in watch.told if line.startswith("503")]
        assert len(broken) == (1 if len(responders) == 3 else 2) and all("retry-after" in line for line in broken)
    assert "hello" in everything


def test_the_place_on_the_screen_tells_nothing_of_the_model(world: World):
    """Through the API: over many items and people every model stands at every place equally often."""
    world.make_task(*map(ranked, range(50)), kind="rank", overlap=2)
    cells: Counter[tuple[int, int]] = Counter()
    for _ in range(2):
        watch = Watch(world.client(world.labeller()))
        while given := watch.items(world.task.id, 50)["items"]:
            for one in given:
                words = [text["text"].split(": ")[1] for text in one["responses"]]
                cells.update((place, ("ab", "cd", "ef").index(word)) for place, word in enumerate(words))
                watch.act(one["id"], act="skip")
    table = [[cells[(place, model)] for model in range(3)] for place in range(3)]
    assert sum(map(sum, table)) == 300
    assert chisquare([n for row in table for n in row]).pvalue > 1e-6 and chi2_contingency(table).pvalue > 1e-6


def test_ids_carry_no_order(world: World):
    world.make_task(*map(pair, range(100)), overlap=2)
    person = world.labeller()
    given = [one for _ in range(2) for one in next_ones(world, person)]
    ids = [one["id"] for one in given]
    ranks = [sorted(ids).index(one) for one in ids]
    assert len(set(ids)) == 100 and spearmanr(range(100), ranks).pvalue > 1e-6
    assert {len(one) for one in ids} == {22}


def next_ones(world: World, person: Any) -> list[dict[str, Any]]:
    """Fifty more, all of which are let go again."""
    client = world.client(person)
    given = client.post(f"/api/tasks/{world.task.id}/next", json={"count": 50}).json()["items"]
    for one in given:
        client.post(f"/api/assignments/{one['id']}", json={"key": new_key(), "act": "skip"})
    return given


def shape(value: Any) -> Any:
    """A JSON value without what is in it: keys, types, lengths of lists."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(inner) for inner in value]
    return type(value).__name__


@contextmanager
def purposes(world: World) -> Iterator[Any]:
    """What an assignment is for, as the store knows it."""
    with world.db.read() as connection:
        query = assignments.select().with_only_columns(assignments.c.id, assignments.c.purpose)
        yield dict(connection.execute(query).all())


def test_gold_and_repeats_look_like_work(world: World):
    """The same fields, the same shapes, the same change of every number, whatever is done with an item."""
    gold = [pair(900 + n, gold=Compared(better=0), explanation="never shown", priority=5.0) for n in range(40)]
    world.make_task(*map(pair, range(90)), *gold, gold=0.3, repeats=0.3, overlap=1)
    watch = Watch(world.client(world.labeller()))
    seen: dict[str, set[str]] = {}
    before = watch.ask("GET", f"/api/tasks/{world.task.id}")["progress"]
    for number in range(50):
        world.clock.wait(30)
        given = watch.items(world.task.id)
        (one,) = given["items"]
        told = [given, watch.ask("GET", f"/api/assignments/{one['id']}")]
        acts: list[dict[str, Any]] = [{"act": "skip"}, {"act": "undo"}, {"answer": {"kind": "compare", "better": 0}}]
        acts += [{"act": "undo"}, {"answer": {"kind": "compare", "better": 1}}]
        for act in acts if number % 5 == 0 else acts[2:3]:
            told.append({key: value for key, value in watch.act(one["id"], **act).items() if key != "key"})
            told.append(watch.ask("GET", f"/api/tasks/{world.task.id}")["progress"])
        told.append(watch.ask("GET", f"/api/assignments/{one['id']}"))
        after = told[-2]
        change = {key: after[key] - before[key] for key in after}
        lease = one["expires"] - world.clock.at
        with purposes(world) as known:
            purpose = known[one["id"]]
        states = [value.get("state") for value in told if isinstance(value, dict)]
        looks = json.dumps([number % 5 == 0, shape(told), change, lease, states, one["practice"]], sort_keys=True)
        seen.setdefault(purpose, set()).add(looks)
        before = after
    assert set(seen) == {"work", "gold", "repeat"}
    assert seen["gold"] <= seen["work"] and seen["repeat"] <= seen["work"], "nothing is seen of them that is not seen of work"
    assert len(seen["work"]) == 2 and "never shown" not in "".join(watch.told)


def test_when_gold_comes_does_not_follow_from_what_a_labeller_knows(world: World):
    """Two stores with the same people, tasks and items: gold comes at other times."""
    found = []
    for _ in range(2):
        gold = [pair(900 + n, gold=Compared(better=0)) for n in range(60)]
        world.make_task(*map(pair, range(60)), *gold, gold=0.5)
        found.append([one.purpose for one in world.give(world.labeller(), 50)])
    assert found[0] != found[1]


def test_a_labeller_cannot_adjudicate_or_look_up_labels(world: World):
    world.make_task(pair(1))
    person, admin = world.labeller(), world.admin()
    (given,) = world.give(person)
    snapshots.adjudicate(world.db, admin, world.task, given.item, Submission(key=new_key(), answer=Compared(better=0)))
    client = world.client(person)
    path = f"/api/tasks/{world.task.id}/items/{given.item}/adjudicate"
    assert client.post(path, json={"key": new_key(), "answer": {"kind": "compare", "better": 0}}).status_code == 403
    made, _ = snapshots.take(world.db, "support")
    assert client.get(f"/api/snapshots/{made.id}/labels.jsonl").status_code == 403
    shown = client.get(f"/api/assignments/{given.id}").json()
    assert shown["answer"] is None and shown["state"] == "open", "what was settled does not show"
