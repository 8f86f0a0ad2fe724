"""`handrail selftest`: a figure and a bound a line, a verdict, an exit code; and that it notices what is wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from handrail.algo.kl import kl_k3
from handrail.cli import app
from handrail.cli.frame import out
from handrail.recipes import ppo
from handrail.recipes.progress import console
from handrail.selftest import checks, resume


@pytest.fixture(autouse=True)
def loud_again():
    yield
    console.quiet = out.quiet = False


def selftest(monkeypatch, *arguments: str, only=lambda folder: [("the gradient", lambda: checks.gradients("ppo", folder / "run"))]):
    monkeypatch.setattr(checks, "all_checks", only)
    return CliRunner(env={"COLUMNS": "160", "TERM": "dumb"}).invoke(app, [*arguments, "selftest"])


def test_each_line_has_a_figure_and_a_bound_and_the_machine_is_named(monkeypatch):
    told = selftest(monkeypatch)
    assert told.exit_code == 0
    first, _, *lines, last = told.stdout.strip().splitlines()
    assert torch.__version__ in first and "cores" in first
    assert len(lines) == 2 and all(line.startswith("\u2713 ppo: ") for line in lines)
    assert "< 1e-10" in lines[0] and "> 0.01" in lines[1] and "All 2 checks passed" in last


def test_a_cross_ends_with_1_and_is_in_the_json(monkeypatch):
    def both(folder: Path):
        return [("two", lambda: [checks.below("good", "error", 0.1, 1.0), checks.above("bad", "share", float("nan"), 0.97)])]

    told = selftest(monkeypatch, only=both)
    assert told.exit_code == 1 and "\u2717 bad" in told.stdout and "1 of 2 checks failed" in told.stdout
    told = selftest(monkeypatch, "--json", only=both)
    result = json.loads(told.stdout)
    assert told.exit_code == 1 and result["failed"] == 1
    assert [(c["name"], c["passed"], c["found"]) for c in result["checks"]] == [("good", True, 0.1), ("bad", False, None)]
    assert result["machine"]["packages"]["torch"]


def test_it_notices_a_wrong_formula(monkeypatch):
    monkeypatch.setattr(ppo, "kl_k1", kl_k3)
    told = selftest(monkeypatch)
    assert told.exit_code == 1 and "\u2717 ppo: the mean update" in told.stdout


def test_it_notices_an_engine_that_samples_by_another_law(monkeypatch, tmp_path):
    (good,) = checks.engine(tmp_path)
    assert good.passed
    build = checks.ppo.build

    def cooler(cfg):
        parts, inputs = build(cfg)
        sample = parts.answers.engine.generate
        parts.answers.engine.generate = lambda p, s, sampling: sample(p, s, sampling.model_copy(update={"temperature": 0.9}))
        return parts, inputs

    monkeypatch.setattr(checks.ppo, "build", cooler)
    (bad,) = checks.engine(tmp_path)
    assert not bad.passed


def two_runs(folder: Path, weight: float, kl: float) -> None:
    for name, w, k in (("whole", 1.0, 0.5), ("killed", weight, kl)):
        (folder / name / "model").mkdir(parents=True)
        save_file({"w": torch.full((3,), w)}, folder / name / "model" / "model.safetensors")
        (folder / name / "metrics.jsonl").write_text(json.dumps({"step": 0, "kl": k}) + "\n")


@pytest.mark.parametrize(
    ("weight", "kl", "passed"), [(1.0, 0.5, True), (1.0 + 2**-20, 0.5, False), (1.0, 0.5000001, False), (1.0, float("nan"), False)]
)
def test_one_bit_is_a_difference(monkeypatch, tmp_path, weight, kl, passed):
    two_runs(tmp_path, weight, kl)
    monkeypatch.setattr(resume, "both", lambda folder: "")
    monkeypatch.setattr(checks, "device", lambda: torch.device("cpu"))
    (check,) = checks.resumed(tmp_path)
    assert check.passed is passed and "5 weights and logged numbers" in check.remark


def test_a_run_that_cannot_be_resumed_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(resume, "start", lambda folder: subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.exit('no such thing')"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ))  # fmt: skip
    (check,) = checks.resumed(tmp_path)
    assert not check.passed and "0 of 12 steps: no such thing" in check.remark


@pytest.mark.slow
def test_the_whole_of_it_passes_here():
    done = subprocess.run([sys.executable, "-m", "handrail", "selftest", "--json"], capture_output=True, text=True, check=False)
    result = json.loads(done.stdout)
    assert done.returncode == 0 and result["failed"] == 0
    assert {c["figure"] for c in result["checks"]} == {"relative error", "distance", "share", "difference"}
