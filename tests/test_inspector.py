"""The inspector's pages and what they ask for: which runs are found, which rows are shown in which order, and what is let in."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from handrail.cli import app
from handrail.errors import InputError
from handrail.inspector.server.app import create_app
from handrail.inspector.server.growing import Growing
from handrail.inspector.server.near import nearest
from handrail.inspector.server.rows import PLACES, Rows, name_of
from handrail.inspector.server.runs import Runs, state
from handrail.inspector.server.said import said
from handrail.track.lock import process_start
from inspector_world import add_step, made_run

HOSTILE = '<img src=x onerror="alert(1)">\u202eevil\u200b</script><script>alert(2)</script>'


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


def asking(root: Path) -> TestClient:
    return TestClient(create_app(root), "http://127.0.0.1", raise_server_exceptions=False)


# --- runs ---


def test_runs_are_found_wherever_they_stand_and_nothing_else_is(root, tmp_path):
    made_run(root / "one")
    made_run(root / "demo/round-1/ppo")
    made_run(root / "demo/round-1/ppo.before-1")  # moved aside and done again
    made_run(root / "one/model/inside")
    made_run(tmp_path / "elsewhere/secret")
    (root / "link").symlink_to(tmp_path / "elsewhere")
    (root / "broken").mkdir()
    (root / "broken/config.yaml").write_text("{")
    (root / "broken/inputs.json").write_text("{}")
    asked = asking(root)
    assert [run["path"] for run in asked.get("/api/runs").json()] == ["demo/round-1/ppo", "one"]
    for path in ("../elsewhere/secret", "link/secret", "one/%2e%2e/one", "%2e%2e/elsewhere/secret", "nothing", "broken", "/etc"):
        assert asked.get(f"/run/{path}").status_code == 404
        assert asked.get(f"/api/metrics/{path}").status_code == 404
    assert asked.get("/run/demo/round-1/ppo").status_code == 200


def test_a_single_run_can_be_looked_at_by_itself(root):
    made_run(root / "alone")
    asked = asking(root / "alone")
    assert [run["path"] for run in asked.get("/api/runs").json()] == ["alone"]
    assert asked.get("/run/alone").status_code == 200 and asked.get("/api/rows/alone").json()["total"] == 15


def test_a_run_is_running_finished_stopped_or_failed(root):
    assert state(made_run(root / "finished")) == "finished"
    stopped = made_run(root / "stopped", finished=False)
    assert state(stopped) == "stopped"
    holder = {"pid": os.getpid(), "started": process_start(os.getpid()), "host": socket.gethostname()}
    (stopped / "lock").write_text(json.dumps(holder))
    assert state(stopped) == "running"
    (stopped / "lock").write_text(json.dumps(holder | {"started": holder["started"] + 1}))  # the number went to another process
    assert state(stopped) == "stopped"
    (stopped / "log.txt").write_text("2026-01-01 INFO ppo: step 0\n2026-01-01 ERROR ended by NonFiniteError: three such steps\n")
    assert state(stopped) == "failed"


def test_a_run_whose_process_was_killed_is_not_running(root):
    run = made_run(root / "killed", finished=False)
    code = "import sys, time, pathlib, handrail.track.lock as lock\n"
    code += "lock.Lock(pathlib.Path(sys.argv[1])); print(1, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(run / "lock")], stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline()
        assert state(run) == "running"
        process.kill()
    assert state(run) == "stopped"


def test_runs_that_differ_in_their_seed_alone_belong_together(root):
    for name, config in (("a", {"seed": 0}), ("b", {"seed": 1}), ("c", {"seed": 0, "kl": {"beta": 0.2}})):
        made_run(root / name, **config)
    found = asking(root).get("/api/differences", params={"run": ["a", "b", "c"]}).json()
    assert found["groups"] == [[0, 1], [2]]
    assert {row["name"]: row["values"] for row in found["rows"]} == {"seed": ["0", "1", "0"], "kl.beta": ["0.1", "0.1", "0.2"]}


# --- numbers that come ---


def test_only_what_is_new_is_sent_and_all_of_it_again_when_the_run_went_back(root):
    run = made_run(root / "run", steps=3, finished=False)
    asked = asking(root)
    first = asked.get("/api/metrics/run").json()
    assert first["columns"]["step"] == [0, 1, 2] and first["columns"]["reward"] == [0.0, 0.1, 0.2]
    add_step(run, 3, 2)
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 4, "rew')  # it is being written
    more = asked.get("/api/metrics/run", params={"version": first["version"], "since": first["lines"]}).json()
    assert more["since"] == 3 and more["columns"]["step"] == [3] and more["lines"] == 4
    kept = (run / "metrics.jsonl").read_text().splitlines(keepends=True)[:2]
    (run / "fresh").write_text("".join(kept))
    (run / "fresh").rename(run / "metrics.jsonl")  # as a resume cuts it
    again = asked.get("/api/metrics/run", params={"version": more["version"], "since": more["lines"]}).json()
    assert again["since"] == 0 and again["columns"]["step"] == [0, 1] and again["version"] != more["version"]


def test_numbers_that_are_none_are_gaps(root):
    run = made_run(root / "run", steps=1)
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 1, "reward": "NaN", "late": 2}\n{"step": 2, "reward": 0.5}\n')
    columns = asking(root).get("/api/metrics/run").json()["columns"]
    assert columns["reward"] == [0.0, "NaN", 0.5] and columns["late"] == [None, 2.0, None]


def test_a_file_that_is_not_there_yet(tmp_path):
    growing = Growing(tmp_path / "metrics.jsonl")
    assert growing.read() == []
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n')
    assert growing.read() == [{"step": 0}] and growing.version == 0


def test_findings_are_told_where_there_are_some(root):
    run = made_run(root / "run")
    asked = asking(root)
    assert asked.get("/api/metrics/run").json()["findings"] == []
    one = {"name": "reward hacking", "severity": "warning", "step": 2, "evidence": HOSTILE, "cause": "c", "remedy": "r"}
    (run / "findings.jsonl").write_text(json.dumps(one) + "\n")
    (found,) = asked.get("/api/metrics/run").json()["findings"]
    assert found["step"] == 2 and found["name"] == "reward hacking"
    assert {"code": "U+202E", "name": "right-to-left override"} in found["evidence"]


# --- rows ---


def shown(asked: TestClient, **query) -> list[tuple[int, int]]:
    """(step, row in it) in the order of the table."""
    found = asked.get("/api/rows/run", params={"count": 500} | query).json()
    return [(row["step"], row["in_step"]) for row in found["rows"]]


def test_rows_are_sorted_filtered_and_windowed_over_all_steps(root):
    made_run(root / "run", steps=4, rows=3)
    asked = asking(root)
    every = [(step, row) for step in range(4) for row in range(3)]
    assert shown(asked, falling=False) == every and shown(asked) == every[::-1]
    by_score = sorted(every, key=lambda at: at[0] - at[1])
    assert shown(asked, by="score", falling=False) == by_score
    assert shown(asked, by="score", falling=False, start=5, count=4) == by_score[5:9]
    assert shown(asked, words='"step 2" number', falling=False) == [(2, 0), (2, 1), (2, 2)]
    assert shown(asked, words='"NUMBER 1"', falling=False) == [(step, 1) for step in range(4)] and shown(asked, words="absent") == []
    assert shown(asked, prompt=name_of(2, 1), falling=False) == [(step, 1) for step in range(4)]


def test_what_has_no_number_comes_last_either_way(root):
    run = made_run(root / "run", steps=1, rows=3)
    add_step(run, 1, 3, score=[float("nan"), 9.0, None])
    for falling in (True, False):
        assert set(shown(asking(root), by="score", falling=falling)[-2:]) == {(1, 0), (1, 2)}


def in_order(rows: Rows, name: str = "score") -> list[float]:
    """What the rows are sorted by, in the order of the rows."""
    rows.order(name, False, "", None)
    return np.concatenate([rows._gathered["numbers"].found[step][name] for step in rows.steps]).tolist()


def test_a_step_that_comes_and_one_that_is_done_again(root):
    run = made_run(root / "run", steps=2, rows=2)
    rows = Rows(run / "tokens")
    rows.refresh()
    assert in_order(rows) == [0, -1, 1, 0]
    add_step(run, 2, 3)
    rows.refresh()
    assert in_order(rows) == [0, -1, 1, 0, 2, 1, 0]
    assert rows.place(name_of(1, 1)) == (1, 1, 2) and rows.place(name_of(2, 9)) == (2, 2, 3)  # beyond the last is the last
    assert rows.around(1, 1, 2) == (name_of(1, 0), name_of(2, 0)) and rows.around(0, 0, 2) == (None, name_of(0, 1))
    assert rows.around(2, 0, 3)[0] == name_of(1, PLACES - 1) and rows.around(2, 2, 3)[1] is None
    time.sleep(0.01)
    add_step(run, 2, 1, score=[8.0])  # from a checkpoint before it
    rows.refresh()
    assert in_order(rows) == [0, -1, 1, 0, 8]
    (run / "tokens/step-000002.parquet").unlink()
    rows.refresh()
    assert in_order(rows) == [0, -1, 1, 0] and len(rows.order("step", True, "", None)[0]) == 4


def test_numbers_of_a_trace_without_them_are_taken_from_its_tokens(root):
    run = made_run(root / "run", steps=1, rows=3)  # as earlier versions wrote it
    (found,) = asking(root).get("/api/rows/run", params={"start": 1, "count": 1, "by": "kl_sum", "falling": False}).json()["rows"]
    tokens = parquet.read_table(run / "tokens/step-000000.parquet")["kl"].to_pylist()
    rows = Rows(run / "tokens")
    rows.refresh()
    np.testing.assert_allclose(in_order(rows, "kl_sum"), [sum(row) for row in tokens], rtol=1e-6)
    assert in_order(rows, "length") == [len(row) for row in tokens] and found["in_step"] == 1


def test_a_long_run_shows_what_was_read_so_far_and_goes_on(root):
    run = made_run(root / "run", steps=20, rows=2)
    rows = Rows(run / "tokens")
    rows.refresh()
    order, share = rows.order("score", True, "answer", None, seconds=0)
    assert 0 < len(order) < 40 and len(order) == round(share * 40)
    while share < 1:
        order, share = rows.order("score", True, "answer", None, seconds=0)
    assert len(order) == 40 and order[0] == name_of(19, 0)


def test_only_the_row_group_that_is_asked_for_is_read(root, monkeypatch):
    run = made_run(root / "run", steps=1, rows=400)
    groups = []
    original = parquet.ParquetFile.read_row_group
    monkeypatch.setattr(
        parquet.ParquetFile,
        "read_row_group",
        lambda self, number, *rest, **given: (groups.append(number), original(self, number, *rest, **given))[1],
    )
    found = asking(root).get("/api/response/run", params={"row": 300}).json()
    assert run.exists() and found["in_step"] == 300 and set(groups) == {2}


def test_an_old_trace_opens_under_the_microscope(root):
    made_run(root / "run")
    asked = asking(root)
    found = asked.get("/api/response/run", params={"row": name_of(1, 1)}).json()
    assert found["step"] == 1 and found["passes"] == [] and found["alternatives"] == [] and "earlier version" in found["note"]
    assert {one["name"] for one in found["quantities"]} >= {"logp_old", "kl", "advantage"}
    titles = [block["title"] for block in asked.get("/api/arithmetic/run", params={"row": name_of(1, 1), "token": 1}).json()["blocks"]]
    assert titles[0] == "Divergence" and "Advantage" in titles
    assert asked.get("/api/sums/run", params={"step": 1}).json()["whole"] is False
    for path in ("/api/response/run?row=9999999", "/api/arithmetic/run?row=1&token=99", "/api/near/run?row=9999999"):
        assert asked.get(path).status_code == 404


def test_nearest_are_those_that_share_most_word_triples():
    texts = ["the cat sat on the mat today", "The cat sat on the mat!", "a dog ran", "the cat sat on a chair", "yes"]
    assert [number for number, _ in nearest(texts, 0)] == [1, 3]
    assert nearest(["same words here", "same words here"], 0) == [(1, 1.0)] and nearest(["", "a"], 0) == []


# --- what is let in, and what comes out ---


def test_text_of_strangers_is_data_with_what_is_hidden_in_it_marked(root):
    assert said("plain  text\n\ttoo") == "plain  text\n\ttoo"
    assert said("a\u200bb") == ["a", {"code": "U+200B", "name": "zero width space"}, "b"]
    assert said("x" * 100, 10) == "x" * 9 + "…"
    run = made_run(root / "run", steps=1)
    add_step(run, 1, 1, text=HOSTILE.replace("{", ""), prompt=[HOSTILE])
    answer = asking(root).get("/api/rows/run", params={"count": 1})
    assert answer.headers["content-type"] == "application/json" and answer.headers["x-content-type-options"] == "nosniff"
    assert {"code": "U+202E", "name": "right-to-left override"} in answer.json()["rows"][0]["response"]


def test_names_of_runs_are_escaped_in_pages(root):
    made_run(root / "<b>bold & co</b>")
    page = asking(root).get("/run/%3Cb%3Ebold%20&%20co%3C%2Fb%3E")
    assert page.status_code == 404 or "<b>bold" not in page.text
    page = asking(root).get("/run/<img src=x>")
    assert page.status_code == 404 and "<img src=x>" not in page.text


def test_every_answer_is_strict_and_nothing_can_be_changed(root):
    made_run(root / "run")
    asked = asking(root)
    pages = ("/", "/run/run", "/responses/run", "/microscope/run", "/prompt/run", "/compare?run=run&run=run", "/nowhere/run")
    for path in (*pages, "/static/run.js", "/shared/base.css"):
        answer = asked.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and answer.status_code in (200, 404)
    assert asked.get("/", headers={"host": "evil.example"}).status_code == 421
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert asked.request(method, "/api/runs").status_code in (403, 405)
        assert asked.request(method, "/api/runs", headers={"origin": "http://127.0.0.1"}).status_code == 405
    assert asked.get("/shared/desk.js").status_code == 404 and asked.get("/static/../app.py").status_code == 404


def test_looking_writes_nothing(root):
    run = made_run(root / "run", finished=False)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    asked = asking(root)
    for path in (
        "/api/runs",
        "/api/metrics/run",
        "/api/panels/run",
        "/api/rows/run?by=score&words=answer",
        "/api/response/run?row=2",
        "/api/near/run?row=2",
    ):
        assert asked.get(path).status_code == 200
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*")}


def test_what_cannot_be_read_is_told(root):
    run = made_run(root / "run", steps=2)
    (run / "tokens/step-000001.parquet").write_bytes(b"PAR1 not really")
    answer = asking(root).get("/api/rows/run")
    assert answer.status_code == 404 and "not there" in answer.json()["found"]


# --- the verb ---


def test_the_verb_refuses_what_cannot_be_served(root, tmp_path):
    call = CliRunner().invoke
    assert call(app, ["inspect", str(tmp_path / "nowhere")]).exit_code == 2
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert call(app, ["inspect", str(root), "--port", str(taken.getsockname()[1])]).exit_code == 2
    with pytest.raises(InputError, match="no such folder"):
        Runs(tmp_path / "nowhere")


def test_the_verb_serves_until_it_is_told_to_end(root):
    made_run(root / "run")
    command = [sys.executable, "-m", "handrail", "inspect", str(root), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"COLUMNS": "200"}) as process:
        assert process.stdout
        where = process.stdout.readline().split()[1]
        assert where.startswith("http://127.0.0.1:")
        process.send_signal(signal.SIGINT)  # Ctrl-C
        assert process.wait(30) == 0
