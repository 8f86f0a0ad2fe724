"""How far it pays to go, and what a reward model pays for: from numbers whose answer is known."""

import json
import math

import numpy as np
import pytest
from jinja2 import Environment, PackageLoader

from handrail.doctor import examine
from handrail.doctor import verdict as verdict_of
from handrail.doctor.best import best
from handrail.errors import DataError
from handrail.inspector import frontier, rewarded
from handrail.inspector.frontier import Frontier, distances, fit
from handrail.track import RunView


def steps(alpha: float, beta: float, start: float = 0.5, count: int = 40, **more: float) -> list[dict]:
    """A run's numbers whose gold follows the curve exactly; the reward rises for ever."""
    rows = []
    for step in range(count):
        d = 0.1 * step
        gold = start + (d * (alpha - beta * math.log(d)) if d else 0.0)
        rows.append({"step": step, "kl": d * d, "gold": gold, "reward": start + 1.5 * d} | more)
    return rows


def test_the_curve_is_found_again_with_its_peak():
    found = fit([(d, y) for _, d, y in distances(steps(1.0, 0.8), "gold")])
    assert found and (found.start, found.alpha, found.beta) == pytest.approx((0.5, 1.0, 0.8))
    top = max((found.at(0.01 * i), 0.01 * i) for i in range(1, 1000))[1]
    assert found.peak == pytest.approx(top, abs=0.01) and found.peak == pytest.approx(math.exp(1 / 0.8 - 1), abs=0.05)


def test_where_reward_and_gold_part_and_which_checkpoint_to_take(tmp_path):
    found = frontier.read_frontier(tmp_path / "runs/ppo", tmp_path, steps(1.0, 0.8))
    said = " ".join(frontier.told(found))
    assert "√KL 1.2" in said and "step 13 is the first to reach" in said and "the reward goes on rising" in said
    assert found.best is not None and found.best[0] == "gold" and abs(found.best[1] - 13) <= 1
    assert "gold is highest" in str(frontier.picture(found))


def test_among_steps_that_noise_cannot_tell_apart_the_last_is_taken():
    """A curve that has come to rest, and one that has fallen again: the first is taken at its end, the second at its height."""
    rng = np.random.default_rng(0)
    rests, falls = 0, []
    for _ in range(100):
        noise = 0.2 * rng.standard_normal(60)
        rise = np.minimum(1.0, np.arange(60) / 20)
        rests += best(rise + noise)[0] == 59
        falls.append(best(rise - np.maximum(0.0, (np.arange(60) - 25) / 20) + noise)[0])
    assert rests >= 80 and max(falls) < 40 and abs(np.mean(falls) - 22.5) < 2  # between step 20 and step 25 it is at its height
    assert best([1.0]) == (0, 1.0) and best([2.0, 1.0])[0] in (0, 1)
    peak = [0.0, 1.0, 2.0, 3.0, 4.0, 3.0, 2.0, 1.0, 0.0]
    assert best(peak) == (4, pytest.approx(2.8)), "centred: not a step late"
    assert best([0.0, 1.0, 2.0, -5.0])[0] == 2, "of a few steps none is averaged with all the others"
    assert best([-2.0, -1.0, -1.5, -2.0, -2.5], around=0) == (1, -1.0), "what is measured exactly is not averaged"


def test_the_end_of_a_long_run_that_has_come_to_rest_is_taken():
    """Among a thousand steps the luckiest few would lie high above the rest."""
    rng = np.random.default_rng(1)
    rise = np.minimum(1.0, np.arange(1000) / 100)
    assert sum(best(rise + 0.2 * rng.standard_normal(1000))[0] == 999 for _ in range(50)) >= 30


def test_the_doctor_and_the_inspector_take_the_same_step(tmp_path):
    """Of a run whose gold falls while its reward rises: the verdict, the finding and the frontier name one step."""
    rng = np.random.default_rng(2)
    gold = np.minimum(np.arange(60) / 25, 1 + (25 - np.arange(60)) / 20) + 0.05 * rng.standard_normal(60)
    lines = [{"step": s, "kl": 0.1 * s, "reward": 0.1 * s, "reward_by_length": 0.0, "gold": float(y)} for s, y in enumerate(gold)]
    run = RunView(tmp_path, "ppo", {"steps": 60, "kl": {"beta": 0.05}}, {}, {}, lines, [], [], None)
    findings = examine(run)
    shown = frontier.read_frontier(tmp_path, tmp_path, lines).best
    assert shown is not None and 23 <= shown[1] <= 27 and verdict_of(run, findings).step == shown[1]
    said = next(found.evidence for found in findings if found.name == "overoptimised")
    assert f"gold was best at step {shown[1]} with {shown[2]:+.2f}" in said


def test_a_run_that_has_not_come_so_far_has_not_parted(tmp_path):
    rising = frontier.read_frontier(tmp_path, tmp_path, steps(1.0, 0.8, count=11))
    assert "still rises" in " ".join(frontier.told(rising))
    without = frontier.read_frontier(tmp_path, tmp_path, [{k: v for k, v in row.items() if k != "gold"} for row in steps(1.0, 0.8)])
    assert "no gold score" in frontier.told(without)[0] and without.best is not None and without.best[0] == "reward"
    nothing = frontier.read_frontier(tmp_path, tmp_path, [{"step": 0, "kl": float("nan"), "reward": 1.0}])
    assert nothing == Frontier({}, {}, None, []) and frontier.picture(nothing) is None


@pytest.mark.parametrize(("alpha", "beta"), [(-1.0, 0.0), (-1.0, -0.1)])
def test_gold_that_only_falls_is_not_said_to_rise(tmp_path, alpha, beta):
    falling = frontier.read_frontier(tmp_path, tmp_path, steps(alpha, beta))
    said = " ".join(frontier.told(falling))
    assert falling.fits["gold"].alpha < 0 and "falls from the start" in said and "rises" not in said
    assert falling.best is not None and falling.best[1] <= 2  # a step is averaged with its neighbours


def test_where_no_step_was_better_than_the_start_there_is_no_checkpoint_to_take(tmp_path):
    (tmp_path / "config.yaml").write_text("policy: {path: runs/look/round-1/sft}\n")
    lines = [{"step": i, "kl": 0.1 * i, "reward": 0.1 * i, "gold": -0.2 * i} for i in range(20)]
    read = frontier.read_frontier(tmp_path, tmp_path, lines)
    assert read.best is not None and read.best[1] == 0
    said = "No step was better than the model that it started from: keep that model (runs/look/round-1/sft)."
    assert frontier.told(read)[-1] == said and "checkpoint to take" not in " ".join(frontier.told(read))
    run = RunView(tmp_path, "ppo", {"steps": 20, "policy": {"path": "runs/look/round-1/sft"}}, {}, {}, lines, [], [], None)
    assert verdict_of(run, []).sentences[2] == said


def test_a_reward_that_falls_with_gold_is_not_said_to_go_on_rising(tmp_path):
    rows = [row | {"reward": 0.5 - 0.2 * math.sqrt(row["kl"])} for row in steps(1.0, 0.8)]
    said = " ".join(frontier.told(frontier.read_frontier(tmp_path, tmp_path, rows)))
    assert "gold is highest" in said and "the reward goes on rising" not in said


def test_too_few_steps_are_not_fitted_and_a_kl_below_zero_is_none():
    assert fit([(0.1 * i, 1.0) for i in range(6)]) is None
    assert distances([{"step": 3, "kl": -0.2, "reward": 1.0}], "reward") == [(3, 0.0, 1.0)]


def test_lines_are_said_to_be_fitted_only_where_they_are(tmp_path):
    loader = PackageLoader("handrail.inspector", "templates")
    legend = Environment(loader=loader, autoescape=True).get_template("frontier_legend.html.j2")
    few, many = (frontier.read_frontier(tmp_path / "runs/ppo", tmp_path, steps(1.0, 0.8, count=count)) for count in (4, 40))
    assert "lines are fitted" in legend.render(found=many) and 'class="curve' in str(frontier.picture(many))
    assert "lines are fitted" not in legend.render(found=few) and 'class="curve' not in str(frontier.picture(few))


def test_best_of_n_stands_beside_where_a_comparison_measured_it(tmp_path):
    run = tmp_path / "runs/seed-0/ppo/round-1/ppo"
    run.mkdir(parents=True)
    rows = [{"n": 1, "kl": 0.0, "reward": 0.1, "gold": 0.2}, {"n": 4, "kl": 0.64, "reward": 0.9, "gold": 0.7}]
    (tmp_path / "runs/seed-0/yardstick.json").write_text(json.dumps({"rows": rows}))
    found = frontier.read_frontier(run, tmp_path / "runs", steps(1.0, 0.8))
    assert found.yardstick == rows and str(frontier.picture(found)).count("dashed") == 2
    assert frontier.yardstick(run, tmp_path / "runs/seed-0/ppo") == []  # what stands above the folder that is looked at is left alone


def verdict(responses: list[str], places: list[int], scores: list[float], **more) -> dict:
    return {"prompt": "p", "responses": responses, "places": places, "scores": scores, "unit": 2.0, "labeller": "ann"} | more


def test_pairs_are_those_that_people_did_not_tie():
    found = rewarded.pairs([verdict(["a", "bb", "c"], [1, 2, 2], [0.5, 1.0, 0.5])])
    assert [(pair.better, pair.worse, pair.gap, pair.right) for pair in found] == [("a", "bb", -0.5, 0.0), ("a", "c", 0.0, 0.5)]
    assert found[0].sure == pytest.approx(1 / (1 + math.exp(-1.0)))
    assert [pair.worse for pair in rewarded.mistakes(found)] == ["bb"]


def test_accuracy_by_length_and_by_margin():
    long, short = "a long answer with many words", "short"
    pays = [verdict([long, short], [1, 2], [1.0 + 0.1 * i, 0.0]) for i in range(4)]  # for length: right
    errs = [verdict([short, long], [1, 2], [0.0, 3.0]) for _ in range(2)]  # wrong where people like it short
    by_length = {one.name: one.value for one in rewarded.by_length(rewarded.pairs([*pays, *errs]))}
    assert by_length == {"shorter preferred, 2": 0.0, "longer preferred, 4": 1.0}
    by_margin = rewarded.by_margin(rewarded.pairs([*pays, *errs]))
    assert [one.value for one in by_margin] == [1.0, 1.0, 1.0, 0.0] and all(one.low <= one.value <= one.high for one in by_margin)


def test_what_it_pays_for_is_told_within_prompts():
    # Prompts differ much in what they are worth; within each the word "please" earns one, and people do not care.
    rows = [verdict([f"please {i} x", f"{i} y", f"{i} z"], [2, 1, 3], [10.0 * i + 1, 10.0 * i, 10.0 * i]) for i in range(12)]
    dear = {word: price for word, _, price, _ in rewarded.words(rows)}
    assert dear["please"] == pytest.approx(1.0) and dear["y"] == pytest.approx(-0.5) and dear["z"] == pytest.approx(-0.5)
    found = {name: (score, people) for name, score, people in rewarded.correlations(rows)}
    assert found["length, in words"][0] == pytest.approx(1.0) and abs(found["length, in words"][1]) < 1e-9
    assert "question marks" not in found and rewarded.correlations([]) == [] and rewarded.words([]) == []


def test_verdicts_that_are_damaged_are_told(tmp_path):
    assert rewarded.read_verdicts(tmp_path) == []
    (tmp_path / "verdicts.jsonl").write_text('{"prompt": ')
    with pytest.raises(DataError, match=r"verdicts\.jsonl"):
        rewarded.read_verdicts(tmp_path)
