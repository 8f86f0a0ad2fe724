"""`handrail feedback`: what goes in, what comes out, and the way back from a trained model to its labels."""

import html
import json
import os
import re
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from handrail.cli import app, feedback_models, feedback_trace
from handrail.errors import InputError, ModelError
from handrail.feedback.kinds import Rated
from handrail.feedback.server import ServerSettings, served
from handrail.feedback.store import Database, people, projects, review, snapshots
from handrail.records import Message
from office_world import in_order, work, write_lines


def call(*arguments: str, status: int = 0) -> dict:
    """The verb with --json, in the working folder."""
    done = CliRunner(env={"COLUMNS": "160", "TERM": "dumb"}).invoke(app, ["feedback", *arguments, "--json"])
    assert done.exit_code == status, done.output
    return json.loads(done.stdout)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with responses to rank."""
    monkeypatch.chdir(tmp_path)
    rows: list[dict] = [{"prompt": f"Question {i}", "text": "word " * (j + 1), "model": "sft"} for i in range(12) for j in range(3)]
    write_lines(tmp_path / "responses.jsonl", rows)
    return tmp_path


def ranked(here: Path, labellers: int = 1) -> None:
    """Responses taken in and ranked, by each labeller in the order in which they were written."""
    call("import", "responses.jsonl", "--project", "support", "--task", "round-1", "--kind", "rank", "--overlap", str(labellers))
    db = Database.open(here / "feedback.db")
    for number in range(labellers):
        person = people.invite(db, f"Person {number}", to=["support"], pseudonym=f"labeller-{number + 1}")
        work(db, projects.find_task(db, "support", "round-1"), person, in_order)
    db.close()


def test_help_teaches_every_verb() -> None:
    told = CliRunner(env={"COLUMNS": "160", "TERM": "dumb"}).invoke(app, ["feedback", "--help"]).stdout
    for verb in ("serve", "import", "invite", "status", "export", "trace", "archive", "restore", "delete"):
        assert f" {verb} " in told
        page = CliRunner(env={"COLUMNS": "160", "TERM": "dumb"}).invoke(app, ["feedback", verb, "--help"]).stdout
        assert f"handrail feedback {verb}" in page.split("Example:")[1]


def test_items_are_taken_in_once_and_project_and_task_are_made(here: Path) -> None:
    first = call("import", "responses.jsonl", "--project", "support", "--task", "round-1", "--kind", "rank")
    assert (first["new"], first["known"], first["read"]) == (12, 0, {"response": 36})
    again = call("import", "responses.jsonl", "--project", "support", "--task", "round-1")
    assert (again["new"], again["known"]) == (0, 12)
    pairs = call("import", "responses.jsonl", "--project", "support", "--task", "pairs", "--kind", "compare")
    assert pairs["new"] == 12 and pairs["left_out"] == {"a response left over when the others are in pairs": 12}
    found = call("status")["projects"][0]
    assert [(task["name"], task["kind"], task["items"], task["labels"]) for task in found["tasks"]] == [
        ("round-1", "rank", 12, 0),
        ("pairs", "compare", 12, 0),
    ]


@pytest.mark.parametrize(
    "arguments, found",
    [
        (("import", "absent.jsonl", "--project", "p", "--task", "t", "--kind", "rank"), "absent.jsonl: cannot be read"),
        (("import", "responses.jsonl", "--project", "p", "--task", "t"), "a new task without --kind"),
        (("import", "responses.jsonl", "--project", "p", "--task", "t", "--kind", "guess"), "--kind guess"),
        (("import", "responses.jsonl", "--project", "p", "--task", "t", "--kind", "chat"), "a chat is between two models"),
        (("import", "broken.jsonl", "--project", "p", "--task", "t", "--kind", "rank"), "broken.jsonl, line 2"),
        (("import", "responses.jsonl", "--project", "p", "--task", "t", "--kind", "rank", "--gold"), "nothing to ask about"),
        (("status",), "there is no store"),
        (("export", "x.jsonl", "--project", "p"), "there is no store"),
        (("serve", "--host", "0.0.0.0"), "without --public"),
        (("serve", "--chat", "nothing"), "--chat nothing"),
        (("serve", "--chat", "sft=./nowhere"), "there is no such folder"),
        (("serve", "--db", "nowhere/feedback.db"), "there is no folder nowhere"),
        (("serve", "--db", "."), "a folder"),
        (("serve", "--db", "responses.jsonl"), "file is not a database"),
        (("serve", "--db", "others.db"), "a database of another program, with the table theirs"),
        (("import", "responses.jsonl", "--project", "p", "--task", "t", "--kind", "rank", "--db", "nowhere/x.db"), "there is no folder"),
    ],
)
def test_wrong_input_is_named_and_nothing_is_written(here: Path, arguments: tuple[str, ...], found: str) -> None:
    (here / "broken.jsonl").write_text('{"prompt": "fine", "text": "a"}\n{"prompt"\n')
    with sqlite3.connect(here / "others.db") as raw:
        raw.execute("create table theirs (x)")
    before = sorted(here.iterdir())
    error = call(*arguments, status=2)["error"]
    assert found in error["found"] and error["allowed"]
    assert sorted(here.iterdir()) == before


def test_a_taken_port_is_found_before_anything_is_made(here: Path) -> None:
    before = sorted(here.iterdir())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        error = call("serve", "--port", str(taken.getsockname()[1]), status=2)["error"]
    assert "cannot be used" in error["found"] and "--port" in error["remedy"]
    assert sorted(here.iterdir()) == before


def test_a_typing_error_makes_no_project(here: Path) -> None:
    given = ("responses.jsonl", "--task", "round-1", "--kind", "rank", "--project")
    call("import", *given, "support")
    error = call("import", *given, "suport", status=2)["error"]
    assert error["found"] == "there is no project 'suport'" and error["allowed"] == "one of support"
    assert error["remedy"].startswith("did you mean 'support'?") and "--new" in error["remedy"]
    assert [project["name"] for project in call("status")["projects"]] == ["support"]
    assert call("import", *given, "other", "--new")["new"] == 12
    assert [project["name"] for project in call("status")["projects"]] == ["support", "other"]


def test_an_invitation_leads_to_where_the_app_is_served_and_says_so_where_it_is_not(here: Path) -> None:
    ranked(here)
    told = call("invite", "One", "--project", "support")
    assert told["link"].startswith("http://127.0.0.1:8000/enter/") and told["answers"] is False
    db = Database.open("feedback.db")
    with served(db, ServerSettings(port=0)) as address:
        people.announce(db, address)
        told = call("invite", "Two", "--project", "support")
        assert told["link"].startswith(f"{address}/enter/") and told["answers"] is True
        assert people.peek(db, told["link"].rsplit("/", 1)[1]) is not None, "looking whether it works does not use it up"
    said = CliRunner(env={"COLUMNS": "400", "TERM": "dumb"}).invoke(app, ["feedback", "invite", "Three"]).stdout
    assert f"{address}/enter/" in said and f"does not answer at {address} now" in said and "serve --db feedback.db" in said
    db.close()


def test_somebody_is_invited_and_deleted(here: Path) -> None:
    ranked(here)
    told = call("invite", "Labeller Two", "--project", "support", "--pseudonym", "labeller-2", "--address", "https://labels.example.org/")
    db = Database.open("feedback.db")
    assert told["link"].startswith("https://labels.example.org/enter/")
    assert people.peek(db, told["link"].rsplit("/", 1)[1]) == people.named(db, "labeller-2")
    token = call("invite", "Program", "--project", "support", "--token")["token"]
    assert people.known(db, token, "token")
    assert call("invite", "x", "--project", "nowhere", status=2)["error"]["found"] == "there is no project 'nowhere'"
    call("delete", "labeller-1")
    assert {one["pseudonym"]: one["name"] for one in call("status")["people"]}["labeller-1"] is None
    assert len(snapshots.labels(db, "support")) == 12
    assert "nobody has the pseudonym" in call("delete", "labeller-1", status=2)["error"]["found"]
    again = call("invite", "--again", "labeller-2", "--address", "https://labels.example.org")
    assert people.peek(db, again["link"].rsplit("/", 1)[1]) == people.named(db, "labeller-2"), "a new link for the same person"
    assert "nobody has" in call("invite", "--again", "labeller-1", status=2)["error"]["found"]
    assert "--again beside" in call("invite", "--again", "labeller-2", "--admin", status=2)["error"]["found"]
    db.close()


def test_an_export_has_its_note_and_comes_out_the_same_again(here: Path) -> None:
    ranked(here, 2)
    first = call("export", "labels/rankings.jsonl", "--project", "support", "--weights")
    content = (here / "labels/rankings.jsonl").read_bytes()
    note = json.loads((here / "labels/rankings.jsonl.snapshot.json").read_text())
    assert note["snapshot"] == first["snapshot"] and note["labels"] == first["labels"] == 24 and note["rules"] == first["rules"]
    assert first["files"] == {"labels/rankings.jsonl": note["file_sha256"]} and set(note["weights"]) == {"labeller-1", "labeller-2"}
    assert {json.loads(line).get("weight", 1.0) for line in content.splitlines()} == {*note["weights"].values()}
    call("import", "responses.jsonl", "--project", "support", "--task", "later", "--kind", "rank")
    db = Database.open("feedback.db")
    work(db, projects.find_task(db, "support", "later"), people.named(db, "labeller-1"), in_order)
    db.close()
    call("export", "again/rankings.jsonl", "--project", "support", "--snapshot", first["snapshot"], "--weights")
    assert (here / "again/rankings.jsonl").read_bytes() == content
    folder = call("export", "trl", "--project", "support", "--format", "trl", "--task", "later", "--without", "labeller-2")
    assert folder["labels"] == 12 and (here / "trl/preference.jsonl.snapshot.json").is_file()
    call("export", "trl", "--project", "support", "--format", "trl")  # an earlier export is replaced
    assert "beside rules" in call("export", "x.jsonl", "--project", "support", "--snapshot", "0", "--flagged", status=2)["error"]["found"]
    assert "no format" in call("export", "x.jsonl", "--project", "support", "--format", "tarot", status=2)["error"]["found"]


def test_ratings_become_wanted_and_unwanted_about_a_threshold(here: Path) -> None:
    call("import", "responses.jsonl", "--project", "support", "--task", "scales", "--kind", "rate")
    db = Database.open("feedback.db")
    rated = lambda given: Rated(ratings=tuple({"overall": float(len(text) // 5 + 1)} for text in given.responses))  # noqa: E731
    work(db, projects.find_task(db, "support", "scales"), people.invite(db, "One", to=["support"]), rated)
    db.close()
    for more, wanted in (((), {4.0: True, 2.0: False}), (("--threshold", "3.5"), {4.0: True, 3.0: False, 2.0: False})):
        call("export", "ratings.jsonl", "--project", "support", "--format", "trl", *more)
        rows = [json.loads(line) for line in (here / "ratings.jsonl").read_text().splitlines()]
        assert {row["score"]: row["label"] for row in rows} == wanted
    refused = call("export", "x.jsonl", "--project", "support", "--threshold", "3", status=2)["error"]
    assert refused["found"] == "--threshold 3 with format handrail" and not (here / "x.jsonl").exists()


def test_an_archive_restored_gives_the_same_snapshot(here: Path) -> None:
    ranked(here, 2)
    first = call("export", "one.jsonl", "--project", "support")
    kept = call("archive", "support.archive", "--project", "support")
    assert kept["items"] == 12 and kept["people"] == 2
    call("restore", "support.archive", "--db", "other.db")
    same = call("export", "two.jsonl", "--project", "support", "--db", "other.db")
    assert (same["snapshot"], same["labels_sha256"]) == (first["snapshot"], first["labels_sha256"])
    assert (here / "one.jsonl").read_bytes() == (here / "two.jsonl").read_bytes()
    assert "the store has the project support" in call("restore", "support.archive", "--db", "other.db", status=2)["error"]["found"]


def run_folder(folder: Path, config: str, inputs: dict) -> Path:
    """A run folder as training writes it, as far as the way back goes."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config)
    (folder / "inputs.json").write_text(json.dumps({"stage": "reward", "inputs": inputs}))
    return folder


def test_a_policy_leads_back_to_each_answer(here: Path) -> None:
    ranked(here)
    taken = call("export", "rankings.jsonl", "--project", "support")
    config = "model:\n  path: hub/name\ndata:\n  path: rankings.jsonl\n"
    run_folder(here / "runs/reward", config, {"data": taken["files"]["rankings.jsonl"]})
    (here / "runs/reward/model").mkdir()
    run_folder(here / "runs/ppo", "reward:\n  model: runs/reward/model\n", {"reward": "0"})
    [origin] = call("trace", "runs/ppo")["origins"]
    assert origin["run"] == "runs/reward" and origin["key"] == "data.path" and origin["trained_on_these_bytes"] is True
    assert len(origin["labels"]) == 12 and origin["note"]["snapshot"] == taken["snapshot"]
    one = origin["labels"][3]
    whole = call("trace", "runs/ppo", "--label", one["id"])
    assert whole["label"] == one and [event["act"] for event in whole["past"]] == ["submit"] and whole["past"][0]["by"] == "labeller-1"
    told = CliRunner(env={"COLUMNS": "160", "TERM": "dumb"}).invoke(app, ["feedback", "trace", "runs/ppo", "--label", one["id"]]).stdout
    assert "stood at place" in told and "by sft" in told and one["shown"] in told
    assert "did not learn from" in call("trace", "runs/ppo", "--label", "other", status=2)["error"]["found"]
    (here / "rankings.jsonl").unlink()
    assert len(call("trace", "runs/ppo")["origins"][0]["labels"]) == 12, "the note is enough"
    (here / "rankings.jsonl.snapshot.json").unlink()
    assert "none of its files comes from" in call("trace", "runs/ppo", status=2)["error"]["found"]


def test_the_way_back_finds_its_store_and_takes_the_beginning_of_an_id(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from handrail.inspector import write_report

    (here / "stores").mkdir()
    call("import", "responses.jsonl", "--project", "support", "--task", "round-1", "--kind", "rank", "--db", "stores/a b.db")
    db = Database.open(here / "stores/a b.db")
    work(db, projects.find_task(db, "support", "round-1"), people.invite(db, "One", to=["support"]), in_order)
    db.close()
    taken = call("export", "labels/rankings.jsonl", "--project", "support", "--db", "stores/a b.db")
    run = run_folder(here / "runs/reward", "data:\n  path: labels/rankings.jsonl\n", {"data": taken["files"]["labels/rankings.jsonl"]})
    (run / "metrics.jsonl").write_text('{"step": 0, "loss": 1.0, "accuracy": 0.5}\n')
    [origin] = call("trace", "runs/reward")["origins"]
    ids = [one["id"] for one in origin["labels"]]
    page = write_report(Path("runs/reward"), here / "report.html").read_text(encoding="utf-8")
    command = html.unescape(re.search("<code>(handrail feedback trace .*?)</code>", page)[1])  # type: ignore[index]
    assert shlex.split(command)[-2:] == ["--db", "stores/a b.db"]
    told = CliRunner(env={"COLUMNS": "80", "TERM": "dumb"}).invoke(app, shlex.split(command)[1:]).stdout
    lines = told.splitlines()
    head = next(i for i, line in enumerate(lines) if line.split()[:1] == ["label"])
    shown = [line.split()[0] for line in lines[head + 1 : head + 13]]
    for label, beginning in zip(ids, shown, strict=True):
        assert len(beginning) >= 8 and label.startswith(beginning), "an id in a narrow table can be given back"
    assert call("trace", "runs/reward", f"--label={shown[3]}")["label"]["id"] == ids[3]
    alike = [SimpleNamespace(id=name) for name in ("abc-1", "abc-2", "abc")]
    assert (
        feedback_trace.meant("abc", [(origin, alike)])[1].id == "abc" and feedback_trace.meant("abc-2", [(origin, alike)])[1].id == "abc-2"
    )
    with pytest.raises(InputError, match="3 labels begin with 'ab'"):
        feedback_trace.meant("ab", [(origin, alike)])
    monkeypatch.setenv("THE_STORE", str(here / "stores/a b.db"))
    assert len(call("trace", "runs/reward", "--db", "$THE_STORE")["origins"][0]["labels"]) == 12
    assert "no such environment variable" in call("trace", "runs/reward", "--db", "$OTHER", status=2)["error"]["found"]


def test_lines_without_a_note_lead_back_by_their_ids_and_another_store_is_refused(here: Path) -> None:
    ranked(here)
    taken = call("export", "rankings.jsonl", "--project", "support")
    lines = (here / "rankings.jsonl").read_text().splitlines()
    (here / "some.jsonl").write_text("\n".join(lines[:4]) + "\n")
    run_folder(here / "some", "data:\n  path: some.jsonl\n", {"data": "0"})
    [origin] = call("trace", "some")["origins"]
    assert origin["note"] is None
    assert {one["id"] for one in origin["labels"]} == {json.loads(line)["label"] for line in lines[:4]}
    run_folder(here / "all", "data:\n  path: rankings.jsonl\n", {"data": "0"})
    assert call("trace", "all")["origins"][0]["trained_on_these_bytes"] is False
    Database.open("empty.db").close()
    assert f"no snapshot '{taken['snapshot']}'" in call("trace", "all", "--db", "empty.db", status=2)["error"]["found"]
    assert "no run folder" in call("trace", str(here / "labels"), status=2)["error"]["found"]


def test_nothing_heavy_is_loaded_without_a_model(here: Path) -> None:
    ranked(here)
    work = "try:\n    app(sys.argv[1:])\nexcept SystemExit as end:\n    assert not end.code"
    code = f"import sys\nfrom handrail.cli import app\n{work}\nassert 'torch' not in sys.modules"
    for arguments in (("status",), ("invite", "X"), ("export", "x.jsonl", "--project", "support"), ("serve", "--help")):
        done = subprocess.run([sys.executable, "-c", code, "feedback", *arguments], capture_output=True, text=True, cwd=here)
        assert done.returncode == 0, done.stderr


def test_ctrl_c_ends_it_cleanly_and_the_first_link_is_told(here: Path) -> None:
    command = [sys.executable, "-m", "handrail", "feedback", "serve", "--port", "0"]
    env, pipe = os.environ | {"PYTHONUNBUFFERED": "1"}, subprocess.PIPE
    app_process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=here, env=env)
    assert app_process.stdout is not None
    made, address, link = (app_process.stdout.readline() for _ in range(3))
    assert made == "a new store: feedback.db\n"
    assert "http://127.0.0.1:" in address and "/enter/" in link
    told = call("invite", "One", "--admin")
    assert told["link"].startswith(address.split()[-1] + "/enter/") and told["answers"] is True
    with open(f"/proc/{app_process.pid}/maps") as maps:
        assert "libtorch" not in maps.read()
    app_process.send_signal(signal.SIGINT)
    out, err = app_process.communicate(timeout=60)
    assert app_process.returncode == 0 and "stopped" in out and "Traceback" not in err
    db = Database.open(here / "feedback.db")
    assert people.peek(db, link.strip().rsplit("/", 1)[1]) == people.named(db, "admin")
    db.close()


def test_models_to_chat_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import httpx2

    asked = {}

    def post(url: str, json: dict, headers: dict, timeout: float) -> httpx2.Response:
        asked.update(url=url, body=json, headers=headers)
        return httpx2.Response(200, json={"choices": [{"message": {"content": "hello"}}]}, request=httpx2.Request("POST", url))

    monkeypatch.setattr(httpx2, "post", post)
    monkeypatch.setenv("SOME_KEY", "secret")
    loads = []
    backwards = lambda said, *rest: said[-1]["content"][::-1]  # noqa: E731
    monkeypatch.setattr(feedback_models, "load", lambda path, template: loads.append(path) or backwards)
    found = feedback_models.responders([f"mine={tmp_path}", "theirs=http://127.0.0.1:1/v1/#big"], "SOME_KEY")
    said = (Message(role="user", content="abc"),)
    assert loads == [], "nothing is loaded before somebody talks to it"
    assert found["mine"].reply(said) == "cba" and found["mine"].reply(said) == "cba" and loads == [str(tmp_path)]
    assert found["theirs"].reply(said) == "hello"
    assert asked["url"] == "http://127.0.0.1:1/v1/chat/completions" and asked["body"]["model"] == "big"
    assert asked["headers"] == {"authorization": "Bearer secret"} and "secret" not in repr(found["theirs"])
    with pytest.raises(InputError, match="twice"):
        feedback_models.responders(["a=http://x", "a=http://y"], "SOME_KEY")
    with pytest.raises(ModelError):
        feedback_models.responders(["a=./nowhere"], "SOME_KEY")


@pytest.mark.slow
def test_a_trained_reward_model_and_its_report_lead_back_to_the_store(here: Path) -> None:
    from handrail.inspector import write_report
    from handrail.recipes import reward, sft
    from recipe_runs import make_records

    world = make_records(here)
    prompts = [json.loads(line) for line in (here / "rankings.jsonl").read_text().splitlines()]
    write_lines(here / "asked.jsonl", [{"prompt": row["prompt"], "responses": row["responses"]} for row in prompts])
    call("import", "asked.jsonl", "--project", "movies", "--task", "round-1", "--kind", "rank")
    db = Database.open("feedback.db")
    work(db, projects.find_task(db, "movies", "round-1"), people.invite(db, "One", to=["movies"], pseudonym="labeller-1"), in_order)
    taken = call("export", str(here / "rankings.jsonl"), "--project", "movies")
    sft.run(world.sft(here / "sft"))
    reward.run(world.reward(here / "reward"))
    [origin] = call("trace", str(here / "reward"))["origins"]
    assert origin["trained_on_these_bytes"] is True, "the run's own hash of its data is that of the note"
    assert {one["id"] for one in origin["labels"]} == {label.id for label in review.everything(db, "movies")[1]}
    page = write_report(here / "reward", here / "report.html").read_text(encoding="utf-8")
    assert "Whose word it learned from" in page and taken["snapshot"] in page and taken["labels_sha256"][:16] in page
    db.close()
