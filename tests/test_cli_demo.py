"""`handrail demo`: its settings, and what it says before it begins."""

import json
import os
import signal
import threading
from pathlib import Path

import httpx2
import pytest
from typer.testing import CliRunner

from handrail.cli import app
from handrail.cli.demo import announce, settings
from handrail.config import validate
from handrail.errors import ConfigError
from handrail.inspector.curves import TITLES
from handrail.pipeline import Round, stage_settings
from handrail.tasks import TASKS

TINY = [
    *("task.demonstrations=40", "task.prompts=24", "task.held_out=10", "model.new.hidden=32", "model.new.layers=1", "model.new.heads=2"),
    *(
        "sft.epochs=1",
        "sample.limit=12",
        "sample.responses=2",
        "reward.normalise_on=8",
        "reward.held_out=0.4",
        "ppo.steps=2",
        "ppo.batch_size=8",
    ),
    *("sampling.max_new_tokens=12",),
]


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_settings_that_hold(task: str) -> None:
    cfg = validate(Round, settings(task, 3, None, "", None, []), task)
    stages = stage_settings(cfg, Path(cfg.out))[0]
    assert cfg.out == f"runs/demo-{task}-3" and cfg.labels == "simulated"
    assert stages["ppo"].seed == 3 and stages["evaluate"].limit >= 512
    assert cfg.task is not None and cfg.task.held_out >= 512


def test_the_command_line_stands_over_the_file() -> None:
    made = settings("movie-night", 1, Path("elsewhere"), "", 2, ["ppo.steps=7", "out=third"])
    assert (made["seed"], made["rounds"], made["ppo"]["steps"], made["out"]) == (1, 2, 7, "third")


def test_a_pretrained_model_gets_slower_rates() -> None:
    fresh, given = (settings("movie-night", 0, None, model, None, []) for model in ("", "some/model"))
    assert given["model"] == {"path": "some/model"}
    for stage in ("sft", "reward", "ppo"):
        assert given[stage]["lr"] < fresh[stage]["lr"]
    assert validate(Round, given, "demo").model.path == "some/model"


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'short-version'"):
        settings("short-versoin", 0, None, "", None, [])


def test_it_says_what_will_happen_and_how_long_it_takes() -> None:
    told = announce(settings("movie-night", 0, None, "", None, ["ppo.steps=9"]))
    assert TASKS["movie-night"].description in told and "minutes" in told and "9 steps" in told


def test_a_wrong_setting_ends_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(app, ["demo", "ppo.stpes=3"])
    assert told.exit_code == 2 and "did you mean 'steps'" in told.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_a_tiny_demo_ends_with_figures_a_report_and_what_to_type_next(task: str, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    told = CliRunner().invoke(app, ["demo", "--task", task, "--out", str(folder), "--json", *TINY])
    assert told.exit_code == 0, told.stderr
    summary = json.loads(told.stdout)["summary"]
    assert {"win_rate", "control", "kl", "length_ratio", "gold_before", "gold_after", "reward_accuracy", "seconds"} <= summary.keys()
    assert (folder / "report.html").is_file()
    assert "Next:" in told.stderr and "win rate" in told.stderr
    again = CliRunner().invoke(app, ["demo", "--task", task, "--out", str(folder), "--json", *TINY])
    assert json.loads(again.stdout)["summary"]["win_rate"] == summary["win_rate"]
    assert "as before" in again.stderr


def answered(link: str) -> threading.Thread:
    """Somebody who opens the link in a browser and puts every item in the order in which it stands."""
    address, _, secret = link.partition("/enter/")

    def work() -> None:
        with httpx2.Client(base_url=address, headers={"origin": address}, timeout=60.0) as browser:
            assert browser.post(f"/enter/{secret}").status_code == 303
            (task,) = browser.get("/api/me").json()["tasks"]
            while items := browser.post(f"/api/tasks/{task['id']}/next", json={"count": 1}).json()["items"]:
                places = list(range(1, len(items[0]["responses"]) + 1))
                answer = {"key": f"key-{items[0]['id']}", "act": "submit", "answer": {"kind": "rank", "places": places}}
                browser.post(f"/api/assignments/{items[0]['id']}", json=answer).raise_for_status()

    def guarded() -> None:
        try:
            work()
        except BaseException:
            os.kill(os.getpid(), signal.SIGINT)  # or the demo would wait for ever
            raise

    worker = threading.Thread(target=guarded, daemon=True)
    worker.start()
    return worker


@pytest.mark.slow
def test_your_rankings_have_one_way_in_and_the_report_says_how_far_the_reward_model_agrees(tmp_path: Path, monkeypatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("handrail.cli.demo.label.webbrowser.open", lambda link: opened.append(link) or answered(link))
    folder = tmp_path / "demo"
    told = CliRunner().invoke(app, ["demo", "--label", "--out", str(folder), "--json", *TINY, "people.prompts=6", "people.poll=0.1"])
    assert told.exit_code == 0, told.stderr
    assert len(opened) == 1 and told.stderr.replace("\n", "").count("/enter/") == 1 and "feedback serve" not in told.stderr
    agreed = json.loads(told.stdout)["summary"]["agreement"]
    assert agreed["labellers"] == ["you"] and agreed["all"]["rankings"] == 6 and agreed["all"]["n"] == 6
    assert agreed["all"]["low"] <= agreed["all"]["value"] <= agreed["all"]["high"]
    assert agreed["held_out"] is None or agreed["held_out"]["n"] < 6
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Of the rankings that you gave, the reward model orders" in page and f"--db {folder}/feedback.db" in page


METHODS = {
    "reinforce": ["reinforce.steps=2", "reinforce.batch_size=8"],
    "best_of_n": ["best_of_n.steps=2", "best_of_n.batch_size=2"],
    "dpo": ["dpo.batch_size=4"],
    "relaxed": ["relaxed.steps=2", "relaxed.batch_size=8"],
}


@pytest.mark.slow
def test_a_round_improves_its_policy_by_any_method(tmp_path: Path) -> None:
    """The same round again with another method: what comes before is as before, and what comes after is judged and shown."""
    folder = tmp_path / "demo"
    for method, given in METHODS.items():
        told = CliRunner().invoke(app, ["demo", "--out", str(folder), "--json", *TINY, f"method={method}", *given])
        assert told.exit_code == 0, told.stderr
        assert json.loads(told.stdout)["summary"]["win_rate"]["n"] > 0 and (folder / f"round-1/{method}/model").is_dir()
        stages = {s["name"]: s["skipped"] for s in json.loads((folder / "round.json").read_text())["stages"]}
        assert not stages[method] and stages["reward"] == (method != "reinforce")
        assert f"round-1/{method}" in told.stderr.split("Next:")[1]
        assert TITLES[method] in (folder / "report.html").read_text(encoding="utf-8")
