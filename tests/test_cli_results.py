"""What is said of a stage and of a round, in the terminal."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from handrail.cli.results import example, learnt, panel, percent, sickness, stages_of
from handrail.cli.verbs import longer, whole_round


def printed(what) -> str:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(what)
    return console.export_text()


def share(value: float, n: int) -> dict:
    return {"value": value, "low": value - 0.1, "high": value + 0.1, "n": n}


def test_a_share_of_few_says_of_how_many():
    assert percent(share(0.8, 5)) == "80.0 % (70.0 to 90.0, n = 5)"
    assert percent(share(0.8, 512)) == "80.0 % (70.0 to 90.0)"
    assert percent({"value": 0.8, "low": 0.7, "high": 0.9}) == "80.0 % (70.0 to 90.0)"
    assert percent(None) == percent({"value": float("nan")}) == "unknown"


@pytest.mark.parametrize(
    "judge, said, caveat",
    [
        ("reward model", "reward model", True),
        ("handrail.tasks.movie_night:gold_parts", "the labellers' true taste", False),
        ("judge.py:score", "judge.py:score", False),
    ],
)
def test_the_judge_is_named_and_a_reward_model_is_not_taken_for_people(tmp_path, judge, said, caveat):
    summary = {"win_rate": share(0.9, 5), "control": share(0.8, 5), "judge": judge, "judges": []}
    shown = " ".join(printed(panel(summary, "After against before")).split())
    assert f"judge {said}" in shown and ("trained against" in shown) == caveat
    assert "control 80.0 % (70.0 to 90.0, n = 5)" in shown
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    sentence = learnt("evaluation", tmp_path)
    assert ("what people prefer is another question" in sentence) == caveat and said in sentence


def test_what_a_stage_left_out_is_told(tmp_path):
    data = "completion: 9 rows, 9 demonstrations, 0 dropped; 2 left out: longer than 64 tokens"
    (tmp_path / "summary.json").write_text(json.dumps({"eval_loss": 1.0, "data": data}))
    assert learnt("sft", tmp_path).endswith("2 left out: longer than 64 tokens.")
    (tmp_path / "summary.json").write_text(json.dumps({"eval_loss": 1.0, "data": "completion: 9 rows"}))
    assert "left out" not in learnt("sft", tmp_path)


def test_a_sick_stage_is_told_with_its_findings(tmp_path):
    for name in ("sft", "ppo"):
        (tmp_path / name).mkdir()
    found = [("warning", "kl_runaway", 4), ("sick", "kl_runaway", 3), ("sick", "kl_runaway", 2), ("notice", "short_run", 0)]
    told = [json.dumps({"step": 9, "name": name, "severity": severity, "first": first}) for severity, name, first in found]
    (tmp_path / "ppo/findings.jsonl").write_text("\n".join(told) + "\n")
    stages = [{"name": name, "folder": str(tmp_path / name)} for name in ("sft", "ppo")]
    (tmp_path / "round.json").write_text(json.dumps({"stages": stages}))
    assert sickness(stages_of(tmp_path)) == ["ppo sick: kl runaway, from step 3"]


def test_the_next_command_keeps_what_was_given():
    ppo = SimpleNamespace(method="ppo", ppo={"steps": 4})
    given = ["out=runs/my run", "ppo.steps=4", "ppo.lr=0.001"]
    assert longer(ppo, Path("r.yaml"), given) == "handrail run r.yaml 'out=runs/my run' ppo.lr=0.001 ppo.steps=8"
    dpo = SimpleNamespace(method="dpo", dpo={"epochs": 2})
    assert longer(dpo, Path("r.yaml"), ["method=dpo"]) == "handrail run r.yaml method=dpo dpo.epochs=4"


def test_a_round_with_a_sick_stage_ends_with_the_doctor(tmp_path, monkeypatch, capsys):
    (tmp_path / "ppo").mkdir()
    (tmp_path / "ppo/findings.jsonl").write_text('{"step": 9, "name": "kl_runaway", "severity": "warning", "first": 3}\n')
    (tmp_path / "round.json").write_text(json.dumps({"stages": [{"name": "ppo", "folder": str(tmp_path / "ppo")}]}))
    summary = {"win_rate": share(0.9, 5), "control": share(0.5, 5), "judge": "reward model", "judges": []}
    monkeypatch.setattr("handrail.pipeline.run", lambda cfg: summary)
    cfg = SimpleNamespace(out=str(tmp_path), rounds=1, method="ppo", title="A round", model=SimpleNamespace(path="m"))
    whole_round(cfg, ("handrail run r.yaml ppo.steps=8", "more"))
    said = "".join(capsys.readouterr())
    assert "ppo.steps=8" in said and "handrail doctor" not in said
    (tmp_path / "ppo/findings.jsonl").write_text('{"step": 9, "name": "kl_runaway", "severity": "sick", "first": 3}\n')
    whole_round(cfg, ("handrail run r.yaml ppo.steps=8", "more"))
    said = "".join(capsys.readouterr())
    assert "ppo.steps=8" not in said and f"handrail doctor {tmp_path}" in said
    assert "The doctor found ppo sick: kl runaway, from step 3." in said


def pair_of(before: str, after: str, gain: float) -> dict:
    return {"prompt": "Which?", "before": before, "after": after, "gold_before": 0.0, "gold_after": gain}


def test_the_example_is_a_reply_that_changed_near_the_median_gain():
    same = [pair_of("same", "same", 0.0) for _ in range(5)]
    shown = printed(example([pair_of("old", "worst", -1.0), *same, pair_of("old", "little", 0.1), pair_of("old", "most", 2.0)]))
    assert "little" in shown and "near the median gain of 8" in shown
    shown = printed(example([pair_of("old", "less", -1.0), pair_of("old", "middle", 0.5), pair_of("old", "more", 1.0)]))
    assert "middle" in shown and ": the median gain of 3 " in shown
    assert "none of which changed" in printed(example(same))
