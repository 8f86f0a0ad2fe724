"""What is said of a stage and of a round, in the terminal."""

import json

import pytest
from rich.console import Console

from handrail.cli.results import learnt, panel, percent


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
