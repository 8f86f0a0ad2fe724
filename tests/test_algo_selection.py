"""What an ensemble has to learn from a group of responses: by hand, against sums over pairs, and that choosing by it pays."""

import math
from itertools import combinations

import pytest
import torch
from torch import Tensor

from handrail.algo.selection import disagreement, information_gain

F64 = torch.float64


def entropy(p: float) -> float:
    return -sum(q * math.log(q) for q in (p, 1 - p) if q > 0)


def test_two_members_on_one_pair_by_hand():
    scores = torch.tensor([[math.log(3), 0.0], [0.0, 0.0]], dtype=F64)  # p = 3/4 by one member, 1/2 by the other
    assert float(disagreement(scores)) == pytest.approx((math.log(3) / 2) ** 2, abs=1e-15)
    wanted = entropy(5 / 8) - (entropy(3 / 4) + math.log(2)) / 2
    assert float(information_gain(scores)) == pytest.approx(wanted, abs=1e-15)
    assert wanted == pytest.approx(0.033822, abs=1e-6)


def test_members_that_are_sure_of_opposite_answers_leave_one_bit():
    scores = torch.tensor([[800.0, -800.0], [0.0, 0.0]], dtype=F64)
    assert float(information_gain(scores)) == pytest.approx(math.log(2), abs=1e-12)


def test_members_that_agree_leave_nothing_however_undecided_they_are():
    for gap in (0.0, 0.3, 40.0):
        alike = torch.tensor([[gap] * 3, [0.0] * 3], dtype=F64)
        assert float(information_gain(alike)) == pytest.approx(0, abs=1e-15) and float(disagreement(alike)) == 0


def test_information_and_disagreement_differ_where_all_members_are_sure():
    """Members that differ about how much better, and not about which, are apart and have nothing to learn from an answer."""
    sure = torch.tensor([[20.0, 40.0], [0.0, 0.0]], dtype=F64)
    torn = torch.tensor([[1.0, -1.0], [0.0, 0.0]], dtype=F64)
    assert disagreement(sure) > disagreement(torn) and information_gain(sure) < 1e-6 < information_gain(torn)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_a_group_is_worth_the_mean_over_its_pairs(k):
    scores = torch.randn(4, k, 6, dtype=F64, generator=torch.Generator().manual_seed(k))
    for row, spread, gain in zip(scores.tolist(), disagreement(scores).tolist(), information_gain(scores).tolist(), strict=True):
        variances, gains = [], []
        for a, b in combinations(row, 2):
            gaps = [x - y for x, y in zip(a, b, strict=True)]
            chances = [1 / (1 + math.exp(-gap)) for gap in gaps]
            middle = sum(gaps) / 6
            variances.append(sum((gap - middle) ** 2 for gap in gaps) / 6)
            gains.append(entropy(sum(chances) / 6) - sum(map(entropy, chances)) / 6)
        assert spread == pytest.approx(sum(variances) / len(variances), rel=1e-12)
        assert gain == pytest.approx(sum(gains) / len(gains), rel=1e-10)


def test_what_a_member_adds_to_all_responses_and_their_order_change_nothing():
    scores = torch.randn(3, 4, 5, dtype=F64)
    moved = scores + torch.randn(3, 1, 5, dtype=F64) * 10
    for value in (disagreement, information_gain):
        torch.testing.assert_close(value(moved), value(scores), rtol=0, atol=1e-12)
        torch.testing.assert_close(value(scores[:, [2, 0, 3, 1]]), value(scores), rtol=0, atol=1e-12)
        torch.testing.assert_close(value(scores[:, :, [4, 2, 0, 1, 3]]), value(scores), rtol=0, atol=1e-12)
        assert value(torch.cat([scores, scores[:, :1]], 1)).shape == (3,)
        with pytest.raises(ValueError, match="no pair"):
            value(scores[:, :1])


def test_the_gain_is_the_mutual_information_of_answer_and_member():
    """H[y] - H[y | m] from the table of P(y, m), which is what it is said to be."""
    gaps = torch.tensor([-1.5, 0.2, 2.0, 0.9], dtype=F64)
    joint = torch.stack([torch.sigmoid(gaps), torch.sigmoid(-gaps)]) / 4
    apart = joint.sum(0, keepdim=True) * joint.sum(1, keepdim=True)
    wanted = float((joint * (joint / apart).log()).sum())
    assert float(information_gain(torch.stack([gaps, torch.zeros(4, dtype=F64)]))) == pytest.approx(wanted, abs=1e-14)


# --- does choosing by it pay?  A linear reward whose truth is known. ---

FEATURES, MEMBERS, POOL, FIRST, MORE = 8, 10, 400, 12, 24


def fitted(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """[M, D] the linear reward of each member that makes the answers most likely, held near 0: Newton's method on -log p + |w|^2 / 2.

    x is [N, D] the difference of features of each pair, y is [N] 1 where the first is preferred, weight is [M, N].
    """
    w = x.new_zeros(len(weight), x.shape[1])
    for _ in range(12):
        p = torch.sigmoid(w @ x.T)
        slope = (weight * (p - y)) @ x + w
        bend = torch.einsum("mn,nd,ne->mde", weight * p * (1 - p), x, x) + torch.eye(x.shape[1], dtype=x.dtype)
        w = w - torch.linalg.solve(bend, slope)
    return w


def accuracy_after(choose: str, seed: int) -> float:
    """On pairs without noise, after labels to begin with and as many chosen in one of three ways."""
    draw = torch.Generator().manual_seed(seed)
    truth = 3 * torch.randn(FEATURES, generator=draw, dtype=F64)
    scale = torch.exp(torch.randn(POOL, 1, 1, generator=draw, dtype=F64))  # responses to some prompts hardly differ
    groups = scale * torch.randn(POOL, 2, FEATURES, generator=draw, dtype=F64)
    pairs = groups[:, 0] - groups[:, 1]
    answers = (torch.rand(POOL, generator=draw, dtype=F64) < torch.sigmoid(pairs @ truth)).to(F64)
    often = torch.poisson(torch.ones(MEMBERS, POOL, dtype=F64), generator=draw)
    members = fitted(pairs[:FIRST], answers[:FIRST], often[:, :FIRST])
    value = {
        "random": torch.rand(POOL, generator=draw, dtype=F64),
        "information": information_gain(groups @ members.T),
        "disagreement": disagreement(groups @ members.T),
    }[choose]
    chosen = torch.cat([torch.arange(FIRST), FIRST + value[FIRST:].topk(MORE).indices])
    learned = fitted(pairs[chosen], answers[chosen], torch.ones(1, len(chosen), dtype=F64))[0]
    test = torch.randn(2000, FEATURES, generator=draw, dtype=F64)
    return float(((test @ learned > 0) == (test @ truth > 0)).double().mean())


def gained(by: str) -> tuple[float, float]:
    """(mean, half of the 95 % interval by Student's t with 99 degrees of freedom) of accuracy over random choice, in 100 worlds."""
    found = torch.tensor([accuracy_after(by, seed) - accuracy_after("random", seed) for seed in range(100)], dtype=F64)
    return float(found.mean()), float(1.984 * found.std() / math.sqrt(100))


def test_labels_chosen_by_information_teach_a_linear_reward_more_than_random_ones():
    (information, half), (spread, _) = gained("information"), gained("disagreement")
    assert information - half > 0
    assert spread < information  # it asks about prompts whose answers are far apart, and known
