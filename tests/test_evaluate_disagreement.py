"""The spread of differences, and what an ensemble's disagreement is worth, by hand."""

import math

import numpy as np
import pytest

from handrail.evaluate import disagreement, labeller_agreement, margins
from handrail.evaluate.disagreement import chance
from handrail.records import Prompt, Ranking


def test_margins_are_counted_in_equal_bins_around_zero():
    found = margins([-1.0, -0.25, 0.0, 0.1, 0.6, 2.0], bins=4)
    assert [(b.low, b.high, b.n) for b in found] == [(-1.0, 0.0, 2), (0.0, 1.0, 3), (1.0, 2.0, 1)]
    assert sum(b.n for b in margins(np.random.default_rng(0).normal(size=500).tolist())) == 500
    assert margins([]) == [] and [(b.low, b.high, b.n) for b in margins([0.0, 0.0])] == [(0.0, 1.0, 2)]
    with pytest.raises(ValueError, match="NaN"):
        margins([math.nan])


def test_disagreement_by_hand():
    members = [[1.0, 3.0], [2.0, 2.0], [-1.0, 3.0], [-3.0, 1.0], [1.0, -1.0]]
    found = disagreement(members, [2.0, 2.0, 1.0, -1.0, 0.0])
    assert (found.n, found.mistakes, found.unanimous) == (5, 1, pytest.approx(2 / 5))
    assert found.spread_right == pytest.approx((1 + 0 + 2) / 3) and found.spread_wrong == pytest.approx(2)
    assert found.by_spread == pytest.approx((1 + 1 + 0.5) / 3)  # 2 against 1, 0 and 2
    assert found.by_closeness == pytest.approx((1 + 1 + 0.5) / 3)  # 1 from zero against 2, 2 and 1


def test_without_a_mistake_there_is_no_chance():
    found = disagreement([[1.0, 2.0]], [1.5])
    assert found.by_spread is None and found.spread_wrong is None and found.spread_right == 0.5
    with pytest.raises(ValueError, match="pairs"):
        disagreement([], [])


def test_the_chance_is_that_of_all_couples():
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 5, 30).astype(float), rng.integers(0, 5, 40).astype(float)
    wanted = np.mean([(x > y) + 0.5 * (x == y) for x in a for y in b])
    assert chance(a, b) == pytest.approx(wanted, abs=1e-12) and chance(b, a) == pytest.approx(1 - wanted, abs=1e-12)


def test_labellers_are_compared_within_a_criterion():
    def by(labeller: str, criterion: str, places: tuple[int, int]) -> Ranking:
        return Ranking(prompt=Prompt.of("q"), responses=("a", "b"), places=places, labeller=labeller, criterion=criterion)

    found = labeller_agreement([by("ann", "kind", (1, 2)), by("bob", "short", (2, 1)), by("eve", "kind", (1, 2))])
    assert found is not None and (found.value, found.n) == (1.0, 1)
