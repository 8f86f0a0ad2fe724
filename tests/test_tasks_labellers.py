"""Simulated labellers: they answer by Bradley and Terry, with the noise that was asked for and no other."""

import random

import numpy as np
import pytest

from handrail.errors import InputError
from handrail.records import Prompt, Ranking
from handrail.tasks import TASKS, Labeller, ceiling, crew, label

PROMPT = Prompt.of("?")
WORTH = {"a": 0.6, "b": 0.0, "c": -0.3, "d": -5.0}
EXACT = Labeller(temperature=0.5, reliability=1.0, position_bias=0.0, tie_width=0.0)


def gold(_: Prompt, response: str) -> float:
    return WORTH[response]


def first_wins(labeller: Labeller, n: int, responses=("a", "b")) -> float:
    rng = np.random.default_rng(0)
    places = [labeller.rank(PROMPT, responses, gold, rng).places for _ in range(n)]
    return float(np.mean([p[0] < p[1] for p in places]))


def test_two_responses_by_bradley_and_terry():
    n, expected = 4000, 1 / (1 + np.exp(-0.6 / 0.5))
    assert abs(first_wins(EXACT, n) - expected) < 4 * np.sqrt(expected * (1 - expected) / n)


def test_the_best_of_k_by_plackett_and_luce():
    n, rng, texts = 4000, np.random.default_rng(1), ("a", "b", "c")
    wins = np.zeros(3)
    for _ in range(n):
        wins[EXACT.rank(PROMPT, texts, gold, rng).places.index(1)] += 1
    weight = np.exp(np.array([WORTH[t] for t in texts]) / 0.5)
    expected = weight / weight.sum()
    assert np.all(np.abs(wins / n - expected) < 4 * np.sqrt(expected * (1 - expected) / n))


def test_reliability_mixes_in_coin_tosses():
    share = first_wins(Labeller(temperature=0.01, reliability=0.6, position_bias=0.0, tie_width=0.0), 4000)
    assert abs(share - 0.8) < 4 * np.sqrt(0.16 / 4000)


def test_an_unreliable_one_says_nothing():
    share = first_wins(Labeller(temperature=0.01, reliability=0.0, position_bias=0.0, tie_width=0.0), 4000)
    assert abs(share - 0.5) < 4 * np.sqrt(0.25 / 4000)


def test_the_bias_is_for_what_is_shown_first_not_for_what_stands_first():
    biased = Labeller(temperature=0.01, reliability=1.0, position_bias=0.7, tie_width=0.0)
    share = first_wins(biased, 4000, ("b", "a"))  # b, worse by 0.6, wins just when it is shown first
    assert abs(share - 0.5) < 4 * np.sqrt(0.25 / 4000)
    assert first_wins(Labeller(temperature=0.01, reliability=1.0, position_bias=0.0, tie_width=0.0), 500, ("b", "a")) == 0


def test_ties():
    rng = np.random.default_rng(0)
    near = Labeller(temperature=0.01, reliability=1.0, position_bias=0.0, tie_width=1.0).rank(PROMPT, ("a", "b", "d"), gold, rng)
    assert near.places == (1, 1, 2)
    assert all(len(set(EXACT.rank(PROMPT, "abcd", gold, rng).places)) == 4 for _ in range(50))


def test_the_same_text_is_always_tied():
    rng = np.random.default_rng(0)
    for _ in range(30):
        places = EXACT.rank(PROMPT, ("a", "b", "a"), gold, rng).places
        assert places[0] == places[2] != places[1]


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"temperature": float("nan")}, {"reliability": 1.5}, {"tie_width": -1.0}])
def test_settings_out_of_range(wrong):
    with pytest.raises(InputError):
        Labeller(**wrong)


def test_a_crew_is_deterministic_and_varied():
    assert crew(5, 0) == crew(5, 0) != crew(5, 1)
    assert crew(9, 0)[:5] == crew(5, 0)
    assert crew(3, 0)[2].id == "simulated-03"
    assert len({one.temperature for one in crew(8, 0)}) == 8


def test_ceiling_counts_pairs():
    def ranking(*places: int) -> Ranking:
        return Ranking(prompt=PROMPT, responses=("a", "b", "c"), places=places)

    assert ceiling([ranking(1, 2, 3)], gold) == 1
    assert ceiling([ranking(3, 2, 1)], gold) == 0
    assert ceiling([ranking(2, 1, 3)], gold) == pytest.approx(2 / 3)
    assert ceiling([ranking(1, 2, 2)], gold) == 1
    assert ceiling([ranking(1, 2, 3)], lambda p, r: 0.0) == 0.5
    assert np.isnan(ceiling([ranking(1, 1, 1)], gold))


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_the_default_crew_leaves_room_to_learn(task):
    demonstrations = task.demonstrations(200, 0)
    draw = random.Random(0)
    responses = [[task.draw_response(draw, d.prompt) for _ in range(4)] for d in demonstrations]
    prompts = [d.prompt for d in demonstrations]
    rankings = label(prompts, responses, task.gold, crew(8, 0), seed=0)
    assert 0.85 < ceiling(rankings, task.gold) < 0.95
    assert len({r.labeller for r in rankings}) == 8


def test_labels_are_deterministic_and_each_is_its_own():
    prompts, responses = [PROMPT] * 30, [list("abcd")] * 30
    once = label(prompts, responses, gold, crew(4, 0), seed=1)
    assert once == label(prompts, responses, gold, crew(4, 0), seed=1)
    assert once[:10] == label(prompts[:10], responses[:10], gold, crew(4, 0), seed=1)
    assert once != label(prompts, responses, gold, crew(4, 0), seed=2)
    assert len({r.places for r in once}) > 3
