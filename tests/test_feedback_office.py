"""What those who run the projects do: their pages and the API beside them, without a browser."""

import io
import json
import time
import zipfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from handrail.errors import DataError, InputError
from handrail.feedback import provenance, uploads
from handrail.feedback.formats import read_archive, write_archive
from handrail.feedback.kinds import Compared, Criterion, Demonstrated, Item, Ranked, Rated, TaskSettings, as_shown, blinded
from handrail.feedback.server import ServerSettings, board, create_app
from handrail.feedback.server.kept import Kept
from handrail.feedback.store import Database, archive, assignment, labels, people, projects, review, snapshots
from handrail.feedback.store.labels import Submission
from handrail.feedback.store.snapshots import Rules
from handrail.feedback.words import in_words
from handrail.records import Prompt
from office_world import HOSTILE, compare_items, in_order, key, prefers, work, worked_in

HERE = {"origin": "http://127.0.0.1"}


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    found = Database.open(tmp_path / "store.db")
    yield found
    found.close()


def client(db: Database, person: people.Person | None = None) -> TestClient:
    """Somebody's browser; nobody's without a person."""
    made = TestClient(create_app(db, ServerSettings()), base_url="http://127.0.0.1", headers=HERE)
    if person:
        made.cookies.set("handrail_session", people.issue(db, person, "session"))
    return made


@pytest.fixture
def office(db: Database) -> TestClient:
    """The admin's browser, over a project that has been worked in."""
    worked_in(db, 4)
    return client(db, people.named(db, "admin"))


def pages(db: Database) -> list[str]:
    """Every page that can be asked for."""
    task = projects.find_task(db, "support", "pairs")
    item = review.item_states(db, task, 1)[0].id
    parts = ("", "/new", "/new?kind=rank", "/quality", "/quality?task=pairs", "/disagreements", "/exports")
    inside = [f"/p/support{rest}" for rest in parts]
    about = [f"/tasks/{task.id}", f"/tasks/{task.id}/edit", f"/tasks/{task.id}/items/{item}"]
    return [f"/admin{rest}" for rest in ("", *inside, *about, "/people", "/people/labeller-1/delete", "/audit")]


def test_only_admins_see_the_pages(office: TestClient, db: Database) -> None:
    labeller, nobody = client(db, people.named(db, "labeller-1")), client(db)
    for address in pages(db):
        assert office.get(address).status_code == 200, address
        assert labeller.get(address).status_code == 403, address
        assert nobody.get(address).status_code == 401, address
    assert labeller.post("/admin", data={"name": "mine"}).status_code == 403
    assert nobody.post("/admin/people/labeller-1/delete").status_code == 401
    assert {one["name"] for one in projects.all_projects(db)} == {"support"}
    assert people.named(db, "labeller-1").name == "Person 1"


def test_a_form_from_elsewhere_changes_nothing(office: TestClient, db: Database) -> None:
    for origin in ({"origin": "http://elsewhere.example"}, {"origin": "null"}):
        assert office.post("/admin/people/labeller-1/delete", headers=origin).status_code == 403
    assert people.named(db, "labeller-1")


def test_no_page_has_anything_inline_and_texts_of_strangers_are_inert(office: TestClient, db: Database) -> None:
    for address in pages(db):
        html = office.get(address).text
        assert " style=" not in html and "<style" not in html and "onclick" not in html, address
        assert "<script>alert" not in html and "\u202e" not in html, address
        assert html.count("<script") == html.count('<script src="/static/') + html.count('<script type="module" src="/static/'), address
    assert HOSTILE[:8] == "<script>"


def test_a_task_is_made_from_its_form_and_revised(office: TestClient, db: Database) -> None:
    fields = {"kind": "rate", "name": "scored", "title": "Scored", "instructions": "Be\r\nfair.", "overlap": "3", "lease_minutes": "12.5"}
    fields |= {"gold_percent": "15", "repeats_percent": "0", "ask_reason": "on", "examples": "1", "example-0": "*so*", "scales": "2"}
    for n, name in enumerate(("helpful", "")):
        fields |= {f"scale-{n}-{k}": v for k, v in zip(("name", "low", "high", "question"), (name, "1", "7", "Does it?"), strict=True)}
    assert office.post("/admin/p/support/new", data=fields, follow_redirects=False).status_code == 303
    made = projects.find_task(db, "support", "scored")
    told = {"title": "Scored", "instructions": "Be\nfair.", "examples": ("*so*",), "ask_reason": True}
    wanted = TaskSettings(kind="rate", overlap=3, lease=750.0, gold=0.15, **told)
    scale = Criterion(name="helpful", question="Does it?", high=7)
    assert made.settings == wanted.model_copy(update={"criteria": (scale,), "ties": False, "strength": False})

    form = f"/admin/tasks/{made.id}/edit"
    faulty = office.post(form, data=fields | {"overlap": "none", "gold_percent": "90", "scale-0-high": "40"})
    assert faulty.status_code == 422 and "found &#39;none&#39;" in faulty.text and "a scale has 2 to 11 steps" in faulty.text
    assert projects.task_of(db, made.id).revision == 1 and "Does it?" in faulty.text
    assert office.post(form, data=fields, follow_redirects=False).status_code == 303
    assert projects.task_of(db, made.id).revision == 1, "nothing was changed"
    office.post(form, data=fields | {"paused": "on"})
    assert projects.task_of(db, made.id).settings.paused and projects.task_of(db, made.id).revision == 2


def test_an_upload_is_looked_at_before_it_is_taken_in(office: TestClient, db: Database) -> None:
    task = projects.find_task(db, "support", "pairs")
    before = len(review.item_states(db, task, 500))
    rows = [{"prompt": f"New {i}", "responses": ["one", "two"], "priority": i} for i in range(3)]
    rows += [{"prompt": "Three", "responses": ["a", "b", "c"]}, {"prompt": "New 0", "text": "loose"}]
    body = "\n".join(json.dumps(row) for row in rows) + '\n{"prompt": 5}\nnot json\n'
    looked = office.post(f"/admin/tasks/{task.id}/import", files={"file": ("../../items.jsonl", body)}, data={"as": "work"})
    assert looked.status_code == 200 and "Take 3 items in" in looked.text
    assert "items.jsonl, line 6" in looked.text and "items.jsonl, line 7: not JSON" in looked.text and "../../" not in looked.text
    assert "a prompt with one response" in looked.text and "an item with 3 responses" in looked.text
    assert len(review.item_states(db, task, 500)) == before
    assert client(db, people.invite(db, "Other", "admin")).get(looked.url.path).status_code == 404, "it is the uploader's"
    assert "3 items came in" in office.post(looked.url.path).text
    assert [one.priority for one in review.item_states(db, task, 500)[before:]] == [0.0, 1.0, 2.0]
    assert office.post(looked.url.path).status_code == 404, "once"


def test_a_secret_is_told_once_and_the_deleted_lose_access_and_keep_labels(office: TestClient, db: Database) -> None:
    told = office.post("/admin/people", data={"name": "Person 9", "pseudonym": "labeller-9", "projects": "support"})
    secret = told.text.split("/enter/")[1].split('"')[0]
    assert people.peek(db, secret) == people.named(db, "labeller-9")
    assert secret not in office.get(told.url.path + "?" + told.url.query.decode()).text
    token = office.post("/admin/people/labeller-1/token").text.split('class="secret"')[1].split('value="')[1].split('"')[0]
    assert people.known(db, token, "token") == people.named(db, "labeller-1")
    mine = [label for label in snapshots.labels(db, "support") if label.labeller == "labeller-1"]
    assert "pseudonym" in office.get("/admin/people/labeller-1/delete").text and people.known(db, token, "token")
    assert "Person 1" not in office.post("/admin/people/labeller-1/delete").text
    assert people.known(db, token, "token") is None
    assert [label for label in snapshots.labels(db, "support") if label.labeller == "labeller-1"] == mine


def test_kept_things_are_one_persons_for_an_hour(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other, kept = people.invite(db, "One"), people.invite(db, "Other"), Kept()
    name = kept.leave(one, "thing")
    assert kept.look(other, name) is None and kept.take(other, name) is None and kept.look(one, name) == "thing"
    later = time.monotonic() + 3601
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert kept.look(one, name) is None


def test_an_item_is_settled_blind_and_leaves_the_list(office: TestClient, db: Database) -> None:
    disputed = office.get("/api/projects/support/disagreements").json()
    of_pairs = [one for one in disputed if one["task"] == "pairs" and "Question" in one["prompt"]["messages"][0]["content"]]
    assert len(of_pairs) == 4
    assert {said["labeller"] for one in of_pairs for said in one["said"]} == {f"labeller-{n}" for n in (1, 2, 3)}
    one = of_pairs[0]
    address = f"/admin/tasks/{one['task_id']}/items/{one['item']}"
    page = office.get(address).text
    order = blinded(one["item"], 2)
    letters = "AB" if order == (0, 1) else "BA"
    assert "model-one" not in page and [page.count(f"{letter} is better") for letter in letters] == [2, 1]
    where = [page.index(one["responses"][i]) for i in order]
    assert where == sorted(where), "they stand in an order that tells nothing"
    listed = office.get("/admin/p/support/disagreements").text
    assert f"{letters[0]} is better" in listed, "and bear the same letters in the list"
    assert office.post(address, data={"key": key()}).status_code == 422
    mine = {"key": key(), "better": str(order.index(1)), "strength": "clearly", "reason": "looked twice"}
    assert office.post(address, data=mine, follow_redirects=False).status_code == 303
    assert office.post(address, data=mine, follow_redirects=False).status_code == 303, "pressed twice it is the same"
    left = office.get("/api/projects/support/disagreements").json()
    assert one["item"] not in {each["item"] for each in left} and len(left) == len(disputed) - 1
    [ruling] = [label for label in snapshots.labels(db, "support") if label.item == one["item"]]
    assert (ruling.purpose, ruling.answer, ruling.reason) == ("adjudication", Compared(better=1, strength="clearly"), "looked twice")
    assert ruling.order == order
    whole = office.get(f"/api/tasks/{one['task_id']}/items/{one['item']}").json()
    assert len(whole["labels"]) == 4 and whole["item"]["settled"] and whole["item"]["labels"] == 3


@pytest.mark.parametrize(
    "kind, fields, wanted",
    [
        ("ranking", {"place-0": "2", "place-1": "1", "place-2": "2"}, Ranked(places=(2, 1, 2))),
        ("ranking", {"place-0": "3", "place-1": "1", "place-2": "3"}, None),
        ("ranking", {"place-0": "1", "place-1": "x", "place-2": "2"}, None),
        (
            "scales",
            {f"rating-{i}-{name}": "2" for i in (0, 1) for name in ("helpful", "concise")},
            Rated(ratings=({"helpful": 2.0, "concise": 2.0},) * 2),
        ),
        ("scales", {f"rating-{i}-{name}": "5" for i in (0, 1) for name in ("helpful", "concise")}, None),
    ],
)
def test_each_kind_is_settled_by_its_form(office: TestClient, db: Database, kind: str, fields: dict, wanted: object) -> None:
    task = projects.find_task(db, "support", kind)
    item = review.item_states(db, task, 1)[0].id
    done = office.post(f"/admin/tasks/{task.id}/items/{item}", data=fields | {"key": key()}, follow_redirects=False)
    assert done.status_code == (303 if wanted else 422)
    rulings = [label for label in review.of_item(db, task, item)[1] if label.purpose == "adjudication"]
    assert [as_shown(label.answer, label.order) for label in rulings] == ([wanted] if wanted else [])


def test_flags_stand_until_they_are_taken_back(office: TestClient, db: Database) -> None:
    task, person = projects.find_task(db, "support", "pairs"), people.invite(db, "Late", to=["support"], pseudonym="late")
    projects.take_in(db, task, compare_items(6))
    one, other = assignment.give_out(db, task, person, 2)
    for given, reason in ((one, f"names a person {HOSTILE}"), (other, "twice the same")):
        labels.submit(db, person, given.id, Submission(key=key(), act="flag", reason=reason))
    labels.submit(db, person, other.id, Submission(key=key(), act="undo"))
    [flag] = office.get("/api/projects/support/flags").json()
    assert (flag["item"], flag["labeller"]) == (one.item, "late")
    assert "names a person" in office.get("/admin/p/support/disagreements").text
    assert office.get("/api/projects/support/status").json()["flags"] == 1


def test_status_counts_what_came_in_each_day(db: Database) -> None:
    now = [40 * 86_400.0 + 100]
    db.clock = lambda: now[0]
    projects.make_project(db, "p")
    task = projects.make_task(db, "p", "t", TaskSettings(kind="compare"))
    projects.take_in(db, task, compare_items(9))
    one, other = (people.invite(db, name, to=["p"], pseudonym=name) for name in ("one", "other"))
    work(db, task, one, prefers(True), 3)
    now[0] += 86_400
    last = work(db, task, one, prefers(True), 1)[0]
    labels.submit(db, one, last, Submission(key=key(), answer=Compared(better=0)))
    work(db, task, other, prefers(True), 2)
    days = review.days(db, "p", 3)
    assert [(day.day.isoformat(), day.labels, day.by) for day in days] == [
        ("1970-02-09", 0, {}),
        ("1970-02-10", 3, {"one": 3}),
        ("1970-02-11", 3, {"one": 1, "other": 2}),
    ]
    assert review.answered(db, "p") == {"one": 4, "other": 2}


def test_agreement_follows_the_labels_and_is_computed_once(office: TestClient, db: Database) -> None:
    figures = office.app.state.board  # type: ignore[attr-defined]
    found = office.get("/api/projects/support/agreement?task=ranking").json()
    [part] = found["quality"]["parts"]
    assert part["kind"] == "rank" and part["shared"] == 4 and found["upto"] == review.last_event(db, "support")
    assert figures.of("support", "ranking") is figures.of("support", "ranking")
    task = projects.find_task(db, "support", "ranking")
    projects.take_in(db, task, [Item(prompt=Prompt.of("more"), responses=("a", "b"))])
    known = figures.of("support", "ranking")
    db.clock = lambda: time.time() + 20 * known.took + 1
    work(db, task, people.named(db, "labeller-3"), in_order)
    assert figures.of("support", "ranking").quality.labels > known.quality.labels
    assert office.get("/api/projects/support/agreement?task=nothing").status_code == 404


def test_figures_that_take_long_are_made_in_the_background(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = worked_in(db, 4)
    found = board.Board(db)
    old = found.of("support")
    monkeypatch.setattr(board, "LONG", 0.0)
    projects.take_in(db, tasks["ranking"], [Item(prompt=Prompt.of("more"), responses=("a", "b"))])
    work(db, tasks["ranking"], people.named(db, "labeller-3"), in_order)
    db.clock = lambda: time.time() + 20 * old.took + 1
    assert found.of("support") is old, "nobody waits"
    until = time.monotonic() + 60
    while found.of("support") is old:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert found.of("support").quality.labels == old.quality.labels + 1


def test_a_snapshot_is_downloaded_with_what_leads_back_to_it(office: TestClient, db: Database) -> None:
    office.post("/admin/p/support/exports", data={"tasks": "pairs", "without": "labeller-3", "settled": "on", "extra": "on", "gold": "on"})
    [taken] = snapshots.all_snapshots(db, "support")
    assert taken.rules == Rules(tasks=("pairs",), purposes=("work", "adjudication", "gold"), without=("labeller-3",))
    address = f"/admin/snapshots/{taken.id}/download?form=handrail"
    first, again = office.get(address), office.get(address)
    assert first.content == again.content and f"support-{taken.id}-handrail.zip" in first.headers["content-disposition"]
    files = zipfile.ZipFile(io.BytesIO(first.content))
    note = provenance.Provenance.model_validate_json(files.read("rankings.jsonl.snapshot.json"))
    assert note.labels_sha256 == taken.sha256 and note.file_sha256 == sha256(files.read("rankings.jsonl")).hexdigest()
    rows = [json.loads(line) for line in files.read("rankings.jsonl").splitlines()]
    assert len(rows) == taken.labels and {row["labeller"] for row in rows} == {"labeller-1", "labeller-2"}
    weighted = zipfile.ZipFile(io.BytesIO(office.get(f"/api/snapshots/{taken.id}/export.zip?weights=true").content))
    told = provenance.Provenance.model_validate_json(weighted.read("rankings.jsonl.snapshot.json")).weights
    assert {row.get("weight", 1.0) for row in map(json.loads, weighted.read("rankings.jsonl").splitlines())} <= {*told.values(), 1.0}
    assert told["labeller-3"] < told["labeller-1"], "who contradicts the others and gold counts less"
    assert office.get("/admin/snapshots/nothing/download").status_code == 404
    assert office.get(f"/admin/snapshots/{taken.id}/download?form=nothing").status_code == 422


def test_items_come_a_page_at_a_time(office: TestClient, db: Database) -> None:
    task, after, seen = projects.find_task(db, "support", "pairs"), -1, []
    while after is not None:
        found = office.get(f"/api/tasks/{task.id}/items", params={"limit": 3, "after": after}).json()
        seen += [one["position"] for one in found["items"]]
        after = found["after"]
    assert seen == list(range(8))


def test_the_api_says_what_its_answers_are(office: TestClient) -> None:
    schema = office.get("/api/openapi.json").json()["paths"]
    for path in ("status", "agreement", "disagreements", "flags"):
        answer = schema[f"/api/projects/{{project}}/{path}"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        assert "$ref" in answer or "$ref" in answer["items"]


def test_a_project_comes_back_whole_from_its_archive(db: Database, tmp_path: Path) -> None:
    worked_in(db, 4)
    people.remove(db, "labeller-2")
    task = projects.find_task(db, "support", "pairs")
    projects.revise(db, task, task.settings.model_copy(update={"instructions": "new"}))
    taken, found = snapshots.take(db, "support", Rules(purposes=("work", "gold")))
    digest = write_archive(tmp_path / "a.jsonl", archive.collect(db, "support"))
    told = (tmp_path / "a.jsonl").read_text(encoding="utf-8")
    assert "Person 1" not in told and digest in told.splitlines()[-1]
    other = Database.open(tmp_path / "other.db")
    archive.apply(other, read_archive(tmp_path / "a.jsonl"))
    assert snapshots.again(other, taken.id) == (taken, found), "the same id gives the same labels in the other store"
    assert review.everything(other, "support") == review.everything(db, "support")
    assert projects.find_task(other, "support", "pairs").settings.instructions == "new"
    here, there = ([projects.progress(store, one) for one in projects.all_tasks(store)] for store in (db, other))
    assert here == there
    states = {one["pseudonym"]: (one["name"], one["deleted"] is None) for one in people.everybody(other)}
    assert states["labeller-1"] == ("labeller-1", True) and states["labeller-2"] == (None, False)
    same = work(other, projects.find_task(other, "support", "pairs"), people.named(other, "labeller-1"), prefers(True))
    assert same == [], "nobody is asked a second time"
    person = people.named(other, "labeller-3")
    projects.take_in(other, projects.find_task(other, "support", "pairs"), [Item(prompt=Prompt.of("one more"), responses=("x", "y"))])
    assert work(other, projects.find_task(other, "support", "pairs"), person, prefers(True)), "the work goes on"
    with pytest.raises(InputError, match="empty store"):
        archive.apply(other, read_archive(tmp_path / "a.jsonl"))
    other.close()


SETTINGS = {
    "compare": TaskSettings(kind="compare"),
    "rank": TaskSettings(kind="rank"),
    "rate": TaskSettings(kind="rate"),
    "demonstrate": TaskSettings(kind="demonstrate"),
}


@pytest.mark.parametrize(
    "kind, row, gold, practice",
    [
        ("rank", {"prompt": "p", "responses": ["a", "b", "c"], "places": [2, 4, 4]}, Ranked(places=(1, 2, 2)), False),
        ("compare", {"prompt": "p", "responses": ["a", "b"], "places": [2, 1]}, Compared(better=1), True),
        ("compare", {"prompt": "p", "responses": ["a", "b"], "places": [1, 1]}, Compared(better=None), False),
        ("rate", {"prompt": "p", "response": "a", "score": 4}, Rated(ratings=({"overall": 4.0},)), True),
        ("demonstrate", {"prompt": "p", "response": "a"}, Demonstrated(text="a"), True),
    ],
)
def test_answers_in_a_file_become_gold_or_practice(kind: str, row: dict, gold: object, practice: bool) -> None:
    read = uploads.read(json.dumps(row).encode(), "f", SETTINGS[kind], as_="practice" if practice else "gold").whole()
    assert [(item.gold, item.practice) for item in read.items] == [(gold, practice)]
    work_only = uploads.read(json.dumps(row).encode(), "f", SETTINGS["compare"])
    assert all(item.gold is None for item in work_only.items)


@pytest.mark.parametrize(
    "line, found",
    [
        (b"[1]", "found list"),
        (b'{"prompt": "x", "text": 5}', "response: text"),
        (b'{"messages": []}', "prompt: messages"),
        (b"\xff\xfe{}", "not JSON in UTF-8"),
        (b"[" * 100_000, "not JSON"),
        (b'{"prompt": "p", "responses": ["a", "b"], "places": [1]}', "2 responses have 1 places"),
    ],
)
def test_a_wrong_line_is_named(line: bytes, found: str) -> None:
    read = uploads.read(b'{"prompt": "fine"}\n' + line + b"\n", "some.jsonl", SETTINGS["demonstrate"])
    assert len(read.items) == 1 and read.faults[0].startswith("some.jsonl, line 2: ") and found in read.faults[0]
    with pytest.raises(DataError, match="line 2"):
        read.whole()


def test_the_most_urgent_response_gives_its_prompt_the_priority() -> None:
    item = Item(prompt=Prompt.of("p"), responses=("a", "b"))

    class Urgent:
        prompt, priority = Prompt.of("p"), 0.75

    assert uploads.prioritised([("", item)], [Urgent()])[0][1].priority == 0.75  # type: ignore[list-item]


def test_answers_in_words() -> None:
    assert in_words(Ranked(places=(2, 1, 2))) == "B > A = C"
    assert in_words(Compared(better=1, strength="slightly")) == "B is slightly better"
    assert in_words(Compared(better=None)) == "a tie"
    assert in_words(Rated(ratings=({"x": 2.0}, {"x": 1.0}))) == "A: x 2; B: x 1"
