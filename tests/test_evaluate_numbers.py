"""Win rates, accuracies, intervals, calibration and overlap, against hand-made cases and known laws."""

import math

import numpy as np
import pytest

from handrail.evaluate import (
    accuracy,
    bleu,
    bootstrap,
    calibration,
    distinct_n,
    expected_calibration_error,
    labeller_agreement,
    length_rule_accuracy,
    repetition,
    rouge_l,
    win_rate,
)
from handrail.records import Prompt, Ranking


def ranking(prompt: str, responses: list[str], places: list[int], labeller: str = "") -> Ranking:
    return Ranking(prompt=Prompt.of(prompt), responses=tuple(responses), places=tuple(places), labeller=labeller)


def of(rankings: list[Ranking]) -> tuple[list[tuple[int, ...]], list[str]]:
    return [r.places for r in rankings], [r.prompt.id for r in rankings]


def test_win_rate_counts_a_tie_as_one_half():
    found = win_rate([1.0, 2.0, 3.0, 4.0], [0.0, 2.0, 5.0, 1.0])
    assert found.value == (1 + 0.5 + 0 + 1) / 4
    assert found.n == 4
    assert found.low <= found.value <= found.high


def test_win_rate_of_a_model_against_itself_is_one_half_exactly():
    scores = np.random.default_rng(0).normal(size=50).tolist()
    found = win_rate(scores, scores)
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)


def test_win_rate_is_antisymmetric_and_repeatable():
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.4, 1, 200).round(1).tolist(), rng.normal(0, 1, 200).round(1).tolist()
    assert win_rate(a, b).value + win_rate(b, a).value == pytest.approx(1, abs=1e-12)
    assert win_rate(a, b, seed=3) == win_rate(a, b, seed=3)
    assert win_rate(a, b, seed=3) != win_rate(a, b, seed=4)


def test_interval_has_the_width_of_a_binomial():
    wins = np.array([1.0] * 320 + [0.0] * 192)
    low, high = bootstrap(wins, np.ones(512))
    p = 320 / 512
    half = 1.96 * math.sqrt(p * (1 - p) / 512)
    assert low == pytest.approx(p - half, abs=0.006)
    assert high == pytest.approx(p + half, abs=0.006)


@pytest.mark.parametrize("n", [1, 5, 200])
def test_five_wins_of_five_are_not_certainty(n):
    won = win_rate([1.0] * n, [0.0] * n)
    lost = win_rate([0.0] * n, [1.0] * n)
    low = n / (n + 1.96**2)  # the p at which p + 1.96 sqrt(p (1 - p) / n) is 1, which is what Wilson's interval asks
    assert low + 1.96 * math.sqrt(low * (1 - low) / n) == pytest.approx(1.0, abs=1e-9)
    assert (won.value, won.high) == (1.0, 1.0) and won.low == pytest.approx(low, abs=1e-9)
    assert (lost.value, lost.low) == (0.0, 0.0) and lost.high == pytest.approx(1 - low, abs=1e-9)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    truth, covered = 0.7, 0
    for seed in range(200):
        low, high = bootstrap(rng.random(100) < truth, np.ones(100), seed, resamples=400)
        covered += low <= truth <= high
    assert 178 <= covered <= 200  # 0.95 of 200 with four standard errors


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        ([1.0], [1.0, 2.0], "same prompts"),
        ([math.nan], [1.0], "NaN"),
        ([1.0], [math.inf], "infinite"),
        ([], [], "at least one"),
    ],
)
def test_win_rate_refuses_what_it_cannot_compare(a, b, says):
    with pytest.raises(ValueError, match=says):
        win_rate(a, b)


def test_accuracy_counts_every_untied_pair():
    tied = ranking("r", ["a", "b"], [1, 1])
    rankings = [ranking("p", ["a", "b", "c"], [1, 2, 2]), ranking("q", ["a", "b"], [2, 1]), tied]
    scores = [[0.5, 0.1, 0.9], [0.3, 0.3], [5.0, -5.0]]
    found = accuracy(scores, *of(rankings))
    assert found.n == 3  # two of p, one of q, none of r
    assert found.value == pytest.approx((1 + 0 + 0.5) / 3)


def test_accuracy_draws_prompts_and_not_pairs():
    """All pairs of a prompt right, or all wrong: the interval is that of 40 prompts, not of 240 pairs."""
    names, places = ["a", "b", "c", "d"], [1, 2, 3, 4]
    rankings = [ranking(str(i), names, places) for i in range(40)]
    scores = [[4.0, 3.0, 2.0, 1.0] if i % 4 else [1.0, 2.0, 3.0, 4.0] for i in range(40)]
    found = accuracy(scores, *of(rankings))
    assert (found.value, found.n) == (0.75, 240)
    half = 1.96 * math.sqrt(0.75 * 0.25 / 40)
    assert (found.high - found.low) / 2 == pytest.approx(half, abs=0.01)


def test_rankings_of_one_prompt_are_drawn_together():
    apart = [ranking(str(i), ["a", "b"], [1, 2]) for i in range(60)]
    together = [ranking(str(i // 6), ["a", "b"], [1, 2]) for i in range(60)]
    scores = [[1.0, 0.0] if (i // 6) % 2 else [0.0, 1.0] for i in range(60)]
    one, other = accuracy(scores, *of(apart)), accuracy(scores, *of(together))
    assert one.value == other.value == 0.5
    assert other.high - other.low > 1.8 * (one.high - one.low)


def test_accuracy_refuses_wrong_shapes_and_nothing_to_judge():
    with pytest.raises(ValueError, match="2 places and 1 scores"):
        accuracy([[1.0]], [[1, 2]])
    with pytest.raises(ValueError, match="NaN"):
        accuracy([[1.0, math.nan]], [[1, 2]])
    with pytest.raises(ValueError, match="tied"):
        accuracy([[1.0, 2.0]], [[1, 1]])


@pytest.mark.parametrize(("better", "rule"), [("long answer", "longer"), ("x", "shorter")])
def test_length_rule_takes_the_better_way_round(better, rule):
    places = [[1, 2]] * 9 + [[2, 1]]
    found = length_rule_accuracy([[len(better), len("middle")]] * 10, places)
    assert (found.rule, found.value, found.n) == (rule, 0.9, 10)


def test_agreement_counts_two_judgements_of_the_same_two_responses():
    rankings = [
        ranking("p", ["a", "b"], [1, 2], "ann"),
        ranking("p", ["b", "a"], [2, 1], "ben"),  # agrees, shown in the other order
        ranking("p", ["a", "b"], [2, 1], "cat"),  # disagrees with both
        ranking("q", ["a", "b"], [1, 2], "ann"),  # another prompt
        ranking("p", ["a", "c"], [1, 2], "ann"),  # another response
        ranking("p", ["a", "b"], [1, 1], "dan"),  # a tie prefers neither
        ranking("p", ["a", "b"], [1, 2], "ann"),  # ann again: agrees with ben, not with cat, not counted with herself
    ]
    found = labeller_agreement(rankings)
    assert found is not None
    assert found.n == 5
    assert found.value == pytest.approx(2 / 5)


def test_agreement_is_none_without_overlap():
    apart = [ranking("p", ["a", "b"], [1, 2], "ann"), ranking("q", ["a", "b"], [1, 2], "ben")]
    assert labeller_agreement(apart) is None


def test_calibration_of_a_model_that_tells_the_truth():
    rng = np.random.default_rng(5)
    d = rng.normal(0, 1.5, 40_000)
    won = rng.random(d.size) < 1 / (1 + np.exp(-d))
    bins = calibration(d, won)
    assert sum(b.n for b in bins) == d.size
    assert all(b.low <= b.predicted <= b.high for b in bins)
    assert expected_calibration_error(bins) < 0.01
    assert expected_calibration_error(calibration(3 * d, won)) > 0.1  # too sure of itself


def test_calibration_does_not_depend_on_which_response_comes_first():
    d, won = [0.3, -1.2, 2.0, 0.7], [1, 0, 0, 1]
    turned = calibration([-x for x in d], [1 - w for w in won])
    assert calibration(d, won) == turned
    assert calibration([0.3, 1.2, -2.0, 0.7]) == turned  # better minus worse


def test_calibration_at_the_edges():
    (tie,) = calibration([0.0], [1])
    assert (tie.predicted, tie.observed, tie.n) == (0.5, 0.5, 1)
    (sure,) = calibration([1000.0], [1])
    assert (sure.high, sure.predicted) == (1.0, 1.0)
    with pytest.raises(ValueError, match="NaN"):
        calibration([math.nan], [1])


def test_rouge_and_bleu_on_known_texts():
    assert rouge_l(["the cat sat"], ["the cat sat"]) == 1
    # Longest common subsequence 2 of 3 and 4 words: precision 2/3, recall 1/2.
    assert rouge_l(["the dog sat"], ["the cat sat down"]) == pytest.approx(2 * (2 / 3) * 0.5 / (2 / 3 + 0.5))
    assert bleu(["the cat sat on the mat today"], ["the cat sat on the mat today"]) == pytest.approx(100)
    assert bleu(["one two three four five"], ["six seven eight nine ten"]) < 5
    with pytest.raises(ValueError, match="one reference a response"):
        rouge_l(["a"], [])


def test_distinct_and_repetition_by_hand():
    assert distinct_n(["a b a b"], 2) == pytest.approx(2 / 3)  # ab, ba, ab
    assert distinct_n(["a b", "a b"], 2) == 0.5  # over all texts together
    assert repetition(["a b a b", "c d e"], 2) == pytest.approx((1 / 3 + 0) / 2)
    assert distinct_n(["a"], 2) == 0 and repetition([]) == 0
