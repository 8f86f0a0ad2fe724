"""The inspector's pages over feedback stores: which stores are found, what is told of labels and items, and what is not."""

import json
import shutil
import sqlite3
import time
from contextlib import closing
from html import unescape
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from handrail.cli import app
from handrail.errors import RunError
from handrail.feedback.kinds import Item, TaskSettings
from handrail.feedback.quality import summary
from handrail.feedback.quality.disagreements import disagreements
from handrail.feedback.store import Database, labels, people, projects, review
from handrail.feedback.store.browse import Done
from handrail.feedback.store.looking import look
from handrail.inspector.origins import leads_to_labels, origins
from handrail.inspector.server.app import create_app
from handrail.inspector.server.findings import findings
from handrail.inspector.server.measured import Measured, Measures, beside, measure
from handrail.inspector.server.overview import pace
from handrail.records import Prompt
from inspector_world import made_run
from store_world import STORE, runs_with_labels

ABOUT = {"store": STORE, "project": "support"}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("looked") / "runs"


@pytest.fixture(scope="module")
def told(root) -> dict[str, str]:
    return runs_with_labels(root)


@pytest.fixture(scope="module")
def asked(root, told) -> TestClient:
    """The pages, once everything has been measured."""
    made = asking(root)
    measured(made)
    return made


def asking(root: Path, store: str = "", work=measure) -> TestClient:
    return TestClient(create_app(root, store, Measures(work)), "http://127.0.0.1", raise_server_exceptions=False)


def measured(asked: TestClient, about: dict[str, str] = ABOUT) -> dict:
    """The figures, when they are there."""
    while (found := asked.get("/api/quality", params=about).json())["busy"] or not (found["quality"] or found["problem"]):
        time.sleep(0.02)
    return found


def names(asked: TestClient, **query: object) -> list[tuple[str, int]]:
    """(task, number in it) of the items in the table's order."""
    found = asked.get("/api/items", params={"count": 500} | ABOUT | query).json()
    return [(row["task"], row["number"]) for row in found["rows"]]


# --- which stores ---


def test_the_store_of_a_round_is_found_and_its_only_project_shown(asked):
    answer = asked.get("/labels", follow_redirects=False)
    assert answer.status_code == 307 and "project=support" in answer.headers["location"]
    assert asked.get("/labels").status_code == 200


def test_stores_that_notes_name_are_found_and_what_cannot_be_opened_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    elsewhere, runs = tmp_path / "elsewhere", tmp_path / "runs"
    elsewhere.mkdir()
    for path in (elsewhere / "labels.db", tmp_path / "feedback.db", runs / "old/feedback.db"):
        path.parent.mkdir(exist_ok=True, parents=True)
        with closing(Database.open(path)) as db:
            projects.make_project(db, path.parent.name, "<b>bold</b>")
    with closing(sqlite3.connect(runs / "old/feedback.db")) as raw:
        raw.execute("update alembic_version set version_num = '0001'")
        raw.commit()
    for number, where in enumerate(["../../elsewhere/labels.db", "postgresql://u:secret@h/db", "$STORE", "gone.db"]):
        made_run(runs / f"run-{number}", steps=0, data={"path": str(runs / f"run-{number}/labels.jsonl")})
        note = {"snapshot": "s", "project": "p", "rules": {}, "upto": 1, "labels": 1, "labels_sha256": "0", "file": "labels.jsonl"}
        note |= {"file_sha256": "0", "created": 1.0, "store": where if ":" in where or "$" in where else f"../{where[3:]}"}
        (runs / f"run-{number}/labels.jsonl.snapshot.json").write_text(json.dumps(note | {"store": where}))
    page = unescape(asking(runs).get("/labels").text)
    for shown in ("old/feedback.db", "postgresql://u:***@h/db", "$STORE", str(elsewhere / "labels.db"), str(tmp_path / "feedback.db")):
        assert page.count(shown) >= 1, shown
    assert "an older Handrail" in page and page.count("no file: by itself") == 2 and "gone.db" not in page
    assert "secret" not in page
    assert "<b>bold" not in asking(runs).get("/labels").text
    named = asking(runs, str(elsewhere / "labels.db"))
    assert "elsewhere" in named.get("/labels").url.params["project"]


def test_what_is_not_there_is_said_to_be_not_there(asked):
    for query in ({"store": "other.db"}, {"project": "other"}, {"store": "../../etc/passwd"}):
        assert asked.get("/api/labels", params=ABOUT | query).status_code == 404
        assert asked.get("/labels", params=ABOUT | query).status_code == 404
        assert asked.get("/items", params=ABOUT | query).status_code == 404
    for path in ("/item", "/api/item", "/api/learnt"):
        assert asked.get(path, params={"store": STORE, "id": "nothing"}).status_code == 404
    assert asked.get("/api/items", params=ABOUT | {"by": "secret"}).status_code == 422


# --- labels ---


def test_the_progress_and_the_people_are_those_of_the_store(asked, root):
    found = asked.get("/api/labels", params=ABOUT).json()
    db = look(str(root / STORE))
    for task in projects.all_tasks(db, "support"):
        (mine,) = [one for one in found["tasks"] if one["name"] == task.name]
        assert mine.items() >= projects.progress(db, task).items()
    odd = found["tasks"][-1]
    assert (odd["labels"], odd["skipped"], odd["flagged"], odd["title"]) == (2, 1, 1, "An <i>odd</i> one")
    assert {one["labeller"]: one["labels"] for one in found["people"]} == review.answered(db, "support")
    assert sum(one["skipped"] for one in found["people"]) == 1
    assert sum(found["pace"]["came"]) == found["labels"] == sum(counts[-1] for counts in found["pace"]["so_far"].values())
    assert asked.get("/api/labels", params=ABOUT | {"version": found["version"]}).json().keys() == {"version", "tasks"}


@pytest.mark.parametrize(("apart", "unit"), [(1.0, "second"), (60.0, "minute"), (3600.0, "hour"), (86_400.0, "day"), (7e5, "week")])
def test_the_curve_is_as_fine_as_it_has_room_for(apart, unit):
    done = [Done(str(n), "i", "t", "ann", "done", "work", 1.8e9 + apart * n, 1.8e9 + apart * n, 3.0) for n in range(100)]
    found = pace(done)
    assert found and found["unit"] == unit and found["came"][0] == 0 and sum(found["came"]) == 100
    assert found["so_far"]["t"][-1] == 100 and found["times"][0] < done[0].at <= done[-1].at < found["times"][-1] + 7 * 86_400
    assert len(found["times"]) == len(found["came"]) <= 121


def test_the_figures_are_those_of_the_quality_room(asked, root):
    everything = review.everything(look(str(root / STORE)), "support")[1]
    expected = summary(everything, contested=0).model_dump(mode="json", exclude={"disagreements"})
    assert json.dumps(measured(asked)["quality"]) == json.dumps(expected)
    assert any(part["agreement"]["kappa"]["value"] is not None for part in expected["parts"])


def test_labels_that_come_are_seen(root, told, tmp_path):
    path = tmp_path / "runs/feedback.db"
    path.parent.mkdir()
    with closing(sqlite3.connect(root / STORE)) as there, closing(sqlite3.connect(path)) as copy:
        there.backup(copy)
    made = asking(path.parent)
    about = {"store": "feedback.db", "project": "support"}
    before = made.get("/api/labels", params=about).json()
    upto = measured(made, about)["upto"]
    with closing(Database.open(path)) as db:
        labels.submit(db, people.named(db, "labeller-1"), told["label"], labels.Submission(key="another-key", act="undo"))
        after = made.get("/api/labels", params=about | {"version": before["version"]}).json()
        assert after["labels"] == before["labels"] - 1
    until = time.monotonic() + 30
    while measured(made, about)["upto"] == upto:
        assert time.monotonic() < until


def test_a_store_that_is_made_again_is_another_one(tmp_path):
    path = tmp_path / "runs/feedback.db"
    path.parent.mkdir()
    made = asking(path.parent)
    for kind in ("ranking", "rating"):
        path.unlink(missing_ok=True)
        with closing(Database.open(path)) as db:
            projects.make_project(db, "support")
            task = projects.make_task(db, "support", kind, TaskSettings(kind="demonstrate"))
            projects.take_in(db, task, [Item(prompt=Prompt.of(kind))])
        made.app.state.stores._until = 0.0
        rows = made.get("/api/items", params={"store": "feedback.db", "project": "support"}).json()["rows"]
        assert [(row["task"], row["prompt"]) for row in rows] == [(kind, kind)]


def test_what_cannot_be_measured_is_said(root, told):
    def fails(where: str, project: str) -> Measured:
        raise RunError("there was no memory")

    made = asking(root, work=fails)
    assert measured(made)["problem"] == "there was no memory"
    assert made.get("/api/items", params=ABOUT).json()["measured"] is True
    assert "there was no memory" in made.get("/item", params={"store": STORE, "id": told["odd"]}).text


@pytest.mark.slow
def test_figures_from_a_process_of_their_own_are_the_same(root, told):
    where = str(root / STORE)
    there, here = beside(where, "support"), measure(where, "support")
    assert (there.upto, there.quality, there.sizes, there.consensus) == (here.upto, here.quality, here.sizes, here.consensus)
    with pytest.raises(Exception, match="there is no store"):
        beside(where + "x", "support")


# --- items ---


def test_items_are_sorted_filtered_and_windowed(asked, root, told):
    every = names(asked)
    assert len(every) == len(set(every)) == 12 + 4 + 12 + 12 + 2
    assert names(asked, start=3, count=4) == every[3:7]
    assert every[0] == ("odd", 1) and every[-1] == ("odd", 2)  # the last that was touched, and the one that nobody had
    assert names(asked, falling=False)[-1] == ("odd", 2)
    contested = disagreements(review.everything(look(str(root / STORE)), "support")[1])
    biggest = {one.item: max(each.size for each in contested if each.item == one.item) for one in contested}
    rows = asked.get("/api/items", params=ABOUT | {"by": "size", "count": 500, "disputed": True}).json()["rows"]
    assert {row["id"]: row["size"] for row in rows} == pytest.approx(biggest)
    assert [row["size"] for row in rows] == sorted((row["size"] for row in rows), reverse=True)
    assert {row["labels"] for row in asked.get("/api/items", params=ABOUT | {"by": "labels", "count": 12}).json()["rows"]} == {3}


def test_each_filter_keeps_what_it_says(asked):
    assert names(asked, flagged=True) == names(asked, skipped=True) == [("odd", 1)]
    assert {task for task, _ in names(asked, task="ranking")} == {"ranking"} == {task for task, _ in names(asked, kind="rank")}
    assert {task for task, _ in names(asked, kind="compare")} == {"pairs", "odd"}
    assert names(asked, words="FILM 11") == [("ranking", 12)] == names(asked, words='"a film 11"')
    assert names(asked, words='"film a"') == [] and names(asked, words="good bad question 3") == [("pairs", 4)]
    assert len(names(asked, words="drops")) == 12  # in a response
    assert {task for task, _ in names(asked, person="labeller-3")} == {"pairs", "odd"} and names(asked, person="nobody") == []
    assert names(asked, person="labeller-3", flagged=True) == [("odd", 1)] == names(asked, words="yes no", person="labeller-1")


def test_the_items_that_a_run_learnt_from_are_those_of_its_labels(asked):
    assert set(names(asked, run="demo/round-1/ppo")) == set(names(asked, task="ranking"))
    assert names(asked, run="alone") == []


# --- one item ---


def test_an_item_tells_who_said_what_and_what_was_taken_back(asked, told):
    found = asked.get("/api/item", params={"store": STORE, "id": told["odd"]}).json()
    first, second, third = sorted(found["asked"], key=lambda one: one["labeller"])
    assert (first["answer"], second["answer"], third["answer"]) == ("A is better", "B is better", "")
    assert [one["act"] for one in first["past"]] == ["answered", "took back: answered", "answered"]
    assert [one["answer"] for one in first["past"]] == ["B is better", "", "A is better"] and first["past"][0]["reason"] == "too quick"
    assert second["flagged"] and not first["flagged"] and second["past"][-1]["reason"] == "neither is true"
    assert third["state"] == "skipped" and third["past"][0]["reason"] == "I cannot tell"
    assert sorted(first["stood"]) == ["A", "B"] and first["seconds"] <= 4.0
    assert found["size"] == 0.0 or found["size"] is None  # one of the two answers is flagged


def test_people_and_the_reward_model_stand_beside_each_other(asked, told):
    found = asked.get("/api/item", params={"store": STORE, "id": told["film"]}).json()
    (people_say,), (model,) = found["together"], found["rewards"]
    assert people_say["places"] == [1, 2, 3] and model["places"] == [2, 1, 3] and model["scores"] == [0.5, 1.25, -0.75]
    assert found["told"] == ["demo/round-1/reward orders 2 of the 3 pairs as people do together."]
    (sentence,) = asked.get("/api/item", params={"store": STORE, "id": told["odd"]}).json()["told"]
    assert sentence == "demo/round-1/reward holds B to be better, 88 % likely; people put A first."  # sigmoid(2 · 1)
    page = asked.get("/item", params={"store": STORE, "id": told["film"]}).text
    assert "/reward/demo/round-1/reward" in page and "1.25" in page


def test_an_item_leads_to_the_runs_that_learnt_from_it_and_they_lead_back(asked, root, told):
    found = asked.get("/api/learnt", params={"store": STORE, "id": told["film"]}).json()["runs"]
    assert {(one["run"], one["through"], one["labels"]) for one in found} == {
        ("demo/round-1/reward", "", 2),
        ("demo/round-1/ppo", "demo/round-1/reward", 2),
    }
    assert asked.get("/api/learnt", params={"store": STORE, "id": told["odd"]}).json()["runs"] == []
    (origin,) = origins(root / "demo/round-1/ppo")
    page = unescape(asked.get("/labels/demo/round-1/ppo").text)
    assert f"{len(origin.labels)} labels" in page and "project=support" in page and "run=demo" in page
    assert "not started with these very bytes" not in page
    assert "/labels/demo" in asked.get("/run/demo/round-1/ppo").text
    assert not leads_to_labels(root / "alone") and asked.get("/labels/alone").status_code == 404


def test_a_run_of_another_store_has_not_learnt_from_labels_of_the_same_ids(root, told, tmp_path):
    for name in ("one", "other"):  # simulated labellers leave such rounds
        shutil.copytree(root, tmp_path / name)
        for config in (tmp_path / name).rglob("config.yaml"):
            config.write_text(config.read_text().replace(str(root), str(tmp_path / name)))
    rankings = tmp_path / "other/demo/round-1/labels/rankings.jsonl"
    note = rankings.with_name("rankings.jsonl.snapshot.json")
    made, about = asking(tmp_path), {"store": f"one/{STORE}", "id": told["film"]}

    def learnt() -> set[str]:
        return {one["run"] for one in made.get("/api/learnt", params=about).json()["runs"]}

    mine = {"one/demo/round-1/reward", "one/demo/round-1/ppo"}
    assert learnt() == mine
    query = {"store": f"one/{STORE}", "project": "support", "run": "other/demo/round-1/reward"}
    assert made.get("/api/items", params=query).json()["total"] == 0
    note.unlink()
    (tmp_path / "other" / STORE).unlink()
    made = asking(tmp_path)
    assert learnt() == {*mine, *(one.replace("one/", "other/") for one in mine)}, "where nothing tells the store, the ids do"


def test_a_setting_that_can_be_no_path_is_none(tmp_path):
    run = made_run(tmp_path / "runs/run", steps=0, words="long " * 100, home="~nobody-of-this-name/x", empty="", deep="a/" * 300)
    assert not leads_to_labels(run) and origins(run) == []
    made = asking(tmp_path / "runs")
    assert made.get("/run/run").status_code == 200 and made.get("/labels").status_code == 200


# --- what is not shown, and what is not changed ---


def everything_shown(asked: TestClient, told: dict[str, str]) -> dict[str, str]:
    """Every page and answer over the store."""
    paths = ["/labels", "/labels/demo/round-1/ppo", "/labels/demo/round-1/reward"]
    found = {path: asked.get(path).text for path in paths}
    for path in ("/labels", "/items", "/api/labels", "/api/quality", "/api/items"):
        found[f"{path}?"] = asked.get(path, params=ABOUT).text
    for item in ("odd", "film"):
        for path in ("/item", "/api/item", "/api/learnt"):
            answer = asked.get(path, params={"store": STORE, "id": told[item]})
            assert answer.status_code == 200
            found[f"{path} {item}"] = answer.text
    return found


def test_no_name_and_no_secret_is_ever_shown(asked, root, told):
    with closing(sqlite3.connect(root / STORE)) as raw:
        digests = [digest for (digest,) in raw.execute("select digest from keys")]
    assert len(digests) == 2
    for where, text in everything_shown(asked, told).items():
        for secret in (told["link"], told["token"], *digests, "Person 1", "Person 2"):
            assert secret not in text, where


def test_text_of_people_and_models_can_do_nothing_and_what_is_hidden_in_it_is_marked(asked, told):
    page = asked.get("/item", params={"store": STORE, "id": told["odd"]}).text
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page and "<i>odd" not in page
    assert "U+202E" in page and "\u202e" not in page
    (reason,) = [
        one["reason"] for one in asked.get("/api/item", params={"store": STORE, "id": told["odd"]}).json()["asked"] if one.get("reason")
    ]
    assert {"code": "U+202E", "name": "right-to-left override"} in reason
    row = next(row for row in asked.get("/api/items", params=ABOUT | {"task": "pairs", "count": 1}).json()["rows"])
    asked_first = asked.get("/item", params={"store": STORE, "id": row["id"]}).text
    assert "<script>alert" not in asked_first and "<img" not in asked_first.split("<main")[1]


def test_looking_leaves_the_store_as_it_is(asked, root, told):
    folder = (root / STORE).parent
    before = {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir()}
    everything_shown(asking(root), told)
    assert {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir()} == before
    for path in ("/labels", "/items", "/item"):
        assert "default-src 'none'" in asked.get(path, params=ABOUT).headers["content-security-policy"]
        assert asked.post(path, headers={"origin": "http://127.0.0.1"}).status_code == 405


def test_the_verb_refuses_a_store_that_cannot_be_looked_at(root, told, tmp_path, monkeypatch):
    def ends(*words: str) -> str:
        done = CliRunner().invoke(app, ["inspect", str(root), *words])
        assert done.exit_code == 2
        return " ".join(done.output.split())

    assert "there is no store" in ends("--db", str(tmp_path / "no.db"))
    assert "no such environment variable" in ends("--db", "$NO_SUCH_STORE")
    monkeypatch.setenv("THE_STORE", str(tmp_path))
    assert "a folder" in ends("--db", "$THE_STORE")
    assert not (tmp_path / "no.db").exists()


# --- findings ---


def test_a_finding_that_becomes_worse_is_told_once_at_its_worst_with_its_history():
    def line(step: int, name: str, severity: str, first: int | None = None, **more: object) -> dict:
        return {"step": step, "name": name, "severity": severity, **({} if first is None else {"first": first}), **more}

    lines = [line(4, "kl", "notice", 2, evidence="0.1"), line(6, "length", "note"), line(8, "kl", "sick", 3, evidence="9.0")]
    kl, length = findings([*lines, line(9, "strange", "?")])[:2]
    assert (kl["severity"], kl["evidence"], kl["since"]) == ("sick", "9.0", 2)
    assert kl["history"] == [{"step": 2, "severity": "notice"}, {"step": 8, "severity": "sick"}]
    assert length["history"] == [{"step": 6, "severity": "note"}] and findings([]) == []
