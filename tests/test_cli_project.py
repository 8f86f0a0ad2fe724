"""A project from `handrail init` to its report: init, show tokens, run, a stage by itself, report, chat."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from handrail.cli import app
from handrail.cli.init import write
from handrail.config import load
from handrail.data import Codec, load_demonstrations, load_rankings
from handrail.errors import ConfigError
from handrail.models import load_tokenizer
from handrail.pipeline import Round, stage_settings

TINY = [
    *("model.new.hidden=32", "model.new.layers=1", "model.new.heads=2", "sft.epochs=1", "reward.epochs=1", "ppo.steps=2"),
    *("ppo.batch_size=4", "sampling.max_new_tokens=8", "reward.normalise_on=4"),
]


def call(*arguments: str):
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, list(arguments))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh project that we stand in."""
    folder = tmp_path / "project"
    write(folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, str]:
    """A project whose tiny round has been run; the round's result and what was said."""
    folder = tmp_path_factory.mktemp("done") / "project"
    write(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        told = call("run", "handrail.yaml", "--json", *TINY)
    assert told.exit_code == 0, told.stderr
    return folder, json.loads(told.stdout), told.stderr


def test_init_refuses_to_overwrite(project: Path) -> None:
    before = (project / "handrail.yaml").read_bytes()
    told = call("init", ".")
    assert told.exit_code == 2 and "not overwritten" in told.stderr
    assert (project / "handrail.yaml").read_bytes() == before


def test_init_keeps_data_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    mine = tmp_path / "data" / "comparisons.example.jsonl"
    mine.write_text("mine\n")
    write(tmp_path)
    assert mine.read_text() == "mine\n"


def test_init_refuses_a_file_as_folder(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        write(tmp_path / "x")


def test_the_template_and_its_records_are_valid(project: Path) -> None:
    cfg = load(Round, "handrail.yaml")
    assert set(stage_settings(cfg, Path(cfg.out))[0]) == {"sft", "sample", "reward", "ppo", "evaluate"}
    assert cfg.data is not None and cfg.data.demonstrations and cfg.data.comparisons
    assert load_demonstrations(cfg.data.demonstrations).dropped == {}
    assert load_rankings(cfg.data.comparisons).dropped == {}


def test_show_tokens_before_the_round_writes_nothing(project: Path) -> None:
    before = sorted(project.rglob("*"))
    told = call("show", "tokens", "handrail.yaml", "--json", "--rows", "0", "held_out=0.3")
    assert told.exit_code == 0, told.stderr
    assert sorted(project.rglob("*")) == before
    shown = json.loads(told.stdout)
    records = {d.response for d in load_demonstrations(load(Round, "handrail.yaml").data.demonstrations).records}
    assert len(shown["rows"]) == shown["sequences"]
    for row in shown["rows"]:
        trained = [token for token in row["tokens"] if token["trained"]]
        assert trained[-1]["text"] == "<|end|>" and trained[-1]["special"]
        assert "".join(token["text"] for token in trained[:-1]).strip() in records
        assert [token["text"] for token in row["tokens"] if token["special"]] == ["<|user|>", "<|end|>", "<|assistant|>", "<|end|>"]


def test_show_tokens_reads_well_in_a_pipe(project: Path) -> None:
    told = call("show", "tokens", "handrail.yaml", "--rows", "1")
    assert "[{<|end|>:" in told.stdout and "{<|assistant|>:" in told.stdout and "\x1b" not in told.stdout
    assert "[token:id]" in told.stdout and "more; --rows 0" in told.stdout


def test_show_tokens_refuses_an_unknown_stage(project: Path) -> None:
    assert call("show", "tokens", "handrail.yaml", "--stage", "dpo").exit_code == 2


def test_a_round_ends_with_figures_and_what_to_type_next(done: tuple[Path, dict, str]) -> None:
    folder, result, told = done
    assert (folder / result["report"]).is_file()
    assert 0 <= result["summary"]["win_rate"]["value"] <= 1
    assert "win rate" in told and "control" in told and "before and after" in told
    assert f"handrail chat {result['folder']}/round-1/sft {result['folder']}/round-1/ppo" in told


def test_show_tokens_of_reward_and_ppo(done: tuple[Path, dict, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(done[0])
    scored = json.loads(call("show", "tokens", "handrail.yaml", "--stage", "reward", "--json", "--rows", "0").stdout)
    for row in scored["rows"]:
        assert [token["trained"] for token in row["tokens"]] == [False] * (len(row["tokens"]) - 1) + [True]
    cfg = load(Round, "handrail.yaml", TINY)
    ppo = stage_settings(cfg, Path(cfg.out))[0]["ppo"]
    shown = json.loads(call("show", "tokens", "handrail.yaml", "--stage", "ppo", "--json", "--rows", "0", "batch_size=3").stdout)
    codec = Codec(load_tokenizer(ppo.policy), ppo.template)
    known = {tuple(codec.encode_prompt(r.prompt)) for r in load_rankings(cfg.data.comparisons).records}
    known |= {tuple(codec.encode_prompt(d.prompt)) for d in load_demonstrations(cfg.data.demonstrations).records}
    assert {tuple(token["id"] for token in row["tokens"]) for row in shown["rows"]} <= known
    assert shown["trained"] == 0 and shown["sequences"] == 3


def test_a_stage_of_a_rounds_file_by_itself(done: tuple[Path, dict, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(done[0])
    told = call("sft", "handrail.yaml", "--json", f"out={tmp_path / 'alone'}", "epochs=1", "model.new.hidden=32")
    assert told.exit_code == 0, told.stderr
    assert (tmp_path / "alone" / "model" / "config.json").is_file()
    assert json.loads(told.stdout)["summary"]["eval_loss"] > 0
    target = tmp_path / "responses.jsonl"
    told = call("sample", "handrail.yaml", "--json", f"out={target}", "responses=2", "limit=3")
    assert json.loads(told.stdout) == {"stage": "sample", "out": str(target), "responses": 6}
    assert len(target.read_text().splitlines()) == 6


def test_report_of_a_run_and_of_nothing(done: tuple[Path, dict, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(done[0])
    target = tmp_path / "one.html"
    assert call("report", "runs/first/round-1/ppo", "--out", str(target)).exit_code == 0
    assert "<html" in target.read_text()
    assert call("report", str(tmp_path / "nowhere")).exit_code == 2


def test_chat_of_two_models_through_a_pipe(done: tuple[Path, dict, str]) -> None:
    command = [
        sys.executable,
        "-m",
        "handrail",
        "chat",
        "runs/first/round-1/sft",
        "runs/first/round-1/ppo",
        "--json",
        "--max-new-tokens",
        "6",
    ]
    typed = "hello\n2\n/temperature 0\nand now?\n"
    told = subprocess.run(command, input=typed, capture_output=True, text=True, cwd=done[0], check=True)
    result = json.loads(told.stdout)
    assert [(turn["user"], turn["chosen"], len(turn["replies"])) for turn in result["turns"]] == [("hello", 2, 2), ("and now?", 1, 2)]
    assert "The temperature is 0." in told.stderr
