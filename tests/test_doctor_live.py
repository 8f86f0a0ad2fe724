"""The doctor beside a run that goes on: what is said and when, what stops it, and what the verb and the report show of it."""

import json
import math
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from handrail.cli import app
from handrail.doctor.live import Attendant, looks_at
from handrail.errors import InputError, RunError
from handrail.inspector import write_report
from handrail.recipes.parts import RunSettings
from handrail.recipes.preflight import Dry, longest_slice, preflight
from handrail.records import Prompt
from handrail.rollout import Sampling
from handrail.track import Run, read_run
from test_doctor import changed, healthy
from test_track_run import opened


def log(run: Run, lines: list[dict], start: int = 0, die: int = -1) -> None:
    for line in lines[start:]:
        run.log(line["step"], {k: v for k, v in line.items() if k != "step"})
        if run.due(line["step"]):
            run.save(line["step"] + 1, {}, {})
        if line["step"] == die:
            return
        run.check()


def attended(folder: Path, lines: list[dict], mode: str = "watch", die: int = -1) -> list[str]:
    said: list[str] = []
    with opened(folder) as run:
        run.attend(Attendant(run, mode, said.append))  # type: ignore[arg-type]
        log(run, lines, run.step, die)
        if die < 0:
            run.finish({})
    return said


SICK = changed(approx_kl=lambda s: 0.4 if s > 4 else 1e-3)


def test_a_finding_is_said_once_and_stands_in_the_run_folder(tmp_path):
    said = attended(tmp_path / "run", SICK)
    assert len(said) == 1 and said[0].startswith("sick (run, steps 5 to 6): steps too large.")
    (line,) = read_run(tmp_path / "run").findings
    assert line["name"] == "steps_too_large" and line["step"] == 6 and line["change"] == ""


@pytest.mark.parametrize("die", [5, 6, 7, 8, 20])
def test_a_resumed_run_has_the_same_findings(tmp_path, die):
    attended(tmp_path / "whole", SICK)
    attended(tmp_path / "run", SICK, die=die)
    attended(tmp_path / "run", SICK)
    assert (tmp_path / "run/findings.jsonl").read_bytes() == (tmp_path / "whole/findings.jsonl").read_bytes()


def test_a_sick_run_is_stopped_after_its_step_is_saved_and_goes_on_when_asked_again(tmp_path):
    with pytest.raises(RunError, match="steps too large"):
        attended(tmp_path / "run", SICK, mode="stop")
    assert [p.name for p in (tmp_path / "run/checkpoints").glob("step-*")][-1:] == ["step-00000008"]
    assert attended(tmp_path / "run", SICK, mode="stop") == []
    assert len(read_run(tmp_path / "run").metrics) == 30


def rising() -> list[dict]:
    """A run that first goes on a little too long and later never ends: a warning that becomes sick."""
    return changed(ended=lambda s: 0.98 if s < 6 else 0.6 if s < 16 else 0.1)


def test_a_finding_that_becomes_worse_is_said_again_and_stops_the_run(tmp_path):
    with pytest.raises(RunError, match="runs on"):
        attended(tmp_path / "run", rising(), mode="stop")
    said = [(line["name"], line["severity"]) for line in read_run(tmp_path / "run").findings]
    assert said == [("runs_on", "warning"), ("runs_on", "sick")]
    assert attended(tmp_path / "run", rising(), mode="stop") == [], "what was known is not said again after a resume"


def test_a_doctor_that_falls_ill_does_not_take_the_run_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr("handrail.doctor.live.examine", lambda *_: 1 / 0)
    said = attended(tmp_path / "run", SICK, mode="stop")
    assert len(said) == 1 and "unwatched" in said[0] and "ZeroDivisionError" in said[0]
    assert (tmp_path / "run/log.txt").read_text().count("ZeroDivisionError") == 1


def measured_first(folder: Path) -> None:
    with opened(folder) as run:
        preflight(run, RunSettings(), *[None] * 4, [], Sampling(), 0)  # type: ignore[arg-type]


def test_a_look_before_the_first_step_that_fails_does_not_keep_the_run_from_training(tmp_path, monkeypatch):
    monkeypatch.setattr("handrail.recipes.preflight.look", lambda *_: 1 / 0)
    measured_first(tmp_path / "run")
    assert not read_run(tmp_path / "run").preflight and "ZeroDivisionError" in (tmp_path / "run/log.txt").read_text()


def test_what_a_user_can_mend_still_ends_it_there(tmp_path, monkeypatch):
    def found(*_):
        raise InputError("a prompt is too long", "shorter ones", "leave it out")

    monkeypatch.setattr("handrail.recipes.preflight.look", found)
    with pytest.raises(InputError):
        measured_first(tmp_path / "run")


class Spelling:
    """A codec of one token a letter."""

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        return [ord(letter) for letter in prompt.text]


PLACE = SimpleNamespace(context=64, device=torch.device("cpu"))


def test_the_longest_slice_is_gone_through_and_leaves_no_gradient():
    weight, seen = torch.nn.Parameter(torch.ones(1)), []

    def forward(sequences):
        seen.append(sequences)
        return [weight * sequences.lengths.sum(), torch.zeros(3)]

    prompts = [Prompt.of("a" * n) for n in (3, 20, 11)]
    found = longest_slice(Dry(forward, [weight], 80, 50), Spelling(), PLACE, prompts, Sampling(max_new_tokens=16))
    assert seen[0].prompt_lengths.tolist() == [20, 11] and seen[0].response_lengths.tolist() == [16, 16]
    assert weight.grad is None
    assert 0 < found["slice_mib"] < found["memory_mib"] and found["moments_mib"] == 8 / 2**20
    longest_slice(Dry(forward, [weight], 10, 50), Spelling(), PLACE, prompts, Sampling(max_new_tokens=160))
    assert seen[1].lengths.tolist() == [64], "one response is always gone through, as far as the context reaches"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("cuda"), RuntimeError("DefaultCPUAllocator: can't allocate memory: 1 bytes")])
def test_memory_that_does_not_suffice_ends_the_run_before_its_first_step(error):
    def forward(sequences):
        raise error

    dry = Dry(forward, [torch.nn.Parameter(torch.ones(1))], 80, 50)
    with pytest.raises(RunError, match=r"out of memory before the first step.*2 responses of 16 tokens") as said:
        longest_slice(dry, Spelling(), PLACE, [Prompt.of("a" * 20)], Sampling(max_new_tokens=16))
    assert "micro_tokens=40" in str(said.value)


def test_it_looks_often_at_first_and_never_later_than_a_sixteenth_of_the_run():
    looks = [step for step in range(4000) if looks_at(step)]
    assert looks[:32] == list(range(32)) and len(looks) < 200
    assert all(b - a <= max(1, (a + 1) / 16) for a, b in pairwise(looks))


def test_what_was_measured_first_is_told_before_the_first_step(tmp_path):
    said: list[str] = []
    with opened(tmp_path / "run") as run:
        run.attend(Attendant(run, "stop", said.append))
        with pytest.raises(RunError, match="before the first step"):
            run.measured({"double_start": 1.0, "engine_difference": math.nan})
    view = read_run(tmp_path / "run")
    assert view.preflight == {"double_start": 1.0} and view.findings[0]["step"] == -1 and len(said) == 1


# --- the verb and the report ---


def test_the_verb_tells_names_and_exits_with_1_where_a_run_is_sick(tmp_path):
    attended(tmp_path / "round-1" / "sft", healthy())
    attended(tmp_path / "round-1" / "ppo", SICK)
    done = CliRunner(env={"COLUMNS": "160"}).invoke(app, ["doctor", str(tmp_path)])
    assert done.exit_code == 1 and "steps too large" in done.stdout and "docs/doctor.md#steps_too_large" in done.stdout
    told = json.loads(CliRunner().invoke(app, ["doctor", str(tmp_path / "round-1" / "sft"), "--json"]).stdout)
    assert told["exit_code"] == 0 and told["runs"][0]["findings"] == [] and len(told["runs"][0]["verdict"]["sentences"]) == 3
    assert CliRunner().invoke(app, ["doctor", str(tmp_path / "nothing")]).exit_code == 2


def test_the_report_has_the_findings(tmp_path):
    attended(tmp_path / "run", SICK)
    page = write_report(tmp_path / "run", tmp_path / "report.html").read_text()
    assert "What the doctor says" in page and "steps too large" in page
