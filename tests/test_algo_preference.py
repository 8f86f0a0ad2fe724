"""Losses of reward models against the law that they assume: on exact probabilities the true reward is their minimum."""

from itertools import permutations

import pytest
import torch
from torch import Tensor

from handrail.algo.preference import bradley_terry_loss, centring_loss, ranking_loss

TRUE = torch.tensor([1.3, -0.4, 0.2, -2.1], dtype=torch.float64)
LOG2 = 0.6931471805599453


def minimise(loss, size: int) -> Tensor:
    """The [size] rewards at which `loss` is least; their mean stays 0 where the loss leaves it free."""
    rewards = torch.zeros(size, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([rewards], max_iter=200, tolerance_grad=1e-13, tolerance_change=0, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = loss(rewards)
        value.backward()
        return value

    optimizer.step(closure)
    return rewards.detach()


def centred(rewards: Tensor) -> Tensor:
    return rewards - rewards.mean()


def all_pairs() -> tuple[Tensor, Tensor, Tensor]:
    """Better, worse and P(better beats worse) for every ordered pair, by Bradley-Terry on TRUE."""
    better, worse = torch.tensor(list(permutations(range(len(TRUE)), 2))).T
    return better, worse, 1 / (1 + (TRUE[worse] - TRUE[better]).exp())


def zeros(n: int) -> Tensor:
    return torch.zeros(n, dtype=torch.float64)


def ones(n: int) -> Tensor:
    return torch.ones(n, dtype=torch.float64)


def test_bradley_terry_recovers_the_reward_up_to_a_constant():
    better, worse, law = all_pairs()
    found = minimise(lambda r: (law * bradley_terry_loss(r[better] - r[worse])).sum(), len(TRUE))
    torch.testing.assert_close(found, centred(TRUE), rtol=0, atol=1e-7)


def test_swapped_labels_give_the_negative_reward():
    better, worse, law = all_pairs()
    found = minimise(lambda r: (law * bradley_terry_loss(r[worse] - r[better])).sum(), len(TRUE))
    torch.testing.assert_close(found, -centred(TRUE), rtol=0, atol=1e-7)


def plackett_luce_law() -> tuple[Tensor, Tensor]:
    """Places [24, 4] of every order of four responses, and its probability under TRUE."""
    orders = list(permutations(range(4)))
    places = torch.tensor([[order.index(k) + 1 for k in range(4)] for order in orders])
    law = [torch.stack([TRUE[order[i]] - TRUE[list(order[i:])].logsumexp(0) for i in range(4)]).sum().exp() for order in orders]
    return places, torch.stack(law)


@pytest.mark.parametrize("sign", [1, -1])
def test_rankings_recover_the_reward_and_reversed_rankings_its_negative(sign):
    """Under Plackett-Luce every pair of a ranking follows Bradley-Terry, so all pairs of it have the same minimum."""
    places, law = plackett_luce_law()
    assert abs(law.sum() - 1) < 1e-12
    places = places if sign == 1 else 5 - places
    mask = torch.ones_like(places, dtype=torch.bool)
    found = minimise(lambda r: ranking_loss(r.expand(24, 4), places, mask, zeros(24), law, 1.0), 4)
    torch.testing.assert_close(found, sign * centred(TRUE), rtol=0, atol=1e-6)


def test_the_value_of_one_pair_is_the_formula():
    loss = bradley_terry_loss(torch.tensor(1.0 - 0.2 - 0.3, dtype=torch.float64))
    assert abs(float(loss) - 0.47407698418010663) < 1e-12  # log(1 + exp(-0.5))


def test_a_ranking_of_two_is_a_pair():
    chosen, rejected, margin = torch.randn(3, 5, dtype=torch.float64)
    margin, weight = margin.abs(), torch.rand(5, dtype=torch.float64) + 0.1
    flip = torch.tensor([False, True, False, True, True])
    scores = torch.where(flip[:, None], torch.stack([rejected, chosen], 1), torch.stack([chosen, rejected], 1))
    places = torch.where(flip[:, None], torch.tensor([2, 1]), torch.tensor([1, 2]))
    ranking = ranking_loss(scores, places, torch.ones(5, 2, dtype=torch.bool), margin, weight, weight.sum())
    pairs = weight * bradley_terry_loss(chosen - rejected - margin)
    torch.testing.assert_close(ranking, pairs.sum() / weight.sum(), rtol=1e-13, atol=0)


def test_a_larger_margin_asks_for_a_larger_difference():
    scores, places, mask = torch.tensor([[0.5, 0.0]]), torch.tensor([[1, 2]]), torch.ones(1, 2, dtype=torch.bool)
    plain, wide = (ranking_loss(scores, places, mask, torch.tensor([m]), torch.ones(1), 1.0) for m in (0.0, 1.0))
    assert wide > plain


def test_a_ranking_is_the_mean_over_its_pairs():
    """Every pair, weighted 1 / C(K, 2): equal scores cost log 2 whatever K is, and a ranking of four its six pairs."""
    for k in (2, 3, 4, 7):
        places = torch.arange(1, k + 1)[None]
        loss = ranking_loss(zeros(k)[None], places, torch.ones(1, k, dtype=torch.bool), zeros(1), ones(1), 1.0)
        assert abs(float(loss) - LOG2) < 1e-12
    scores = torch.randn(4, dtype=torch.float64)
    pairs = [bradley_terry_loss(scores[i] - scores[j]) for i in range(4) for j in range(i + 1, 4)]
    loss = ranking_loss(scores[None], torch.tensor([[1, 2, 3, 4]]), torch.ones(1, 4, dtype=torch.bool), zeros(1), ones(1), 1.0)
    torch.testing.assert_close(loss, torch.stack(pairs).mean(), rtol=1e-13, atol=0)


def test_a_tie_is_half_a_win_for_each():
    scores, mask = (
        torch.tensor([[0.7, -0.2]], dtype=torch.float64, requires_grad=True),
        torch.ones(1, 2, dtype=torch.bool),
    )

    def of(places: list[int], margin: float = 0.0) -> Tensor:
        return ranking_loss(scores, torch.tensor([places]), mask, torch.tensor([margin], dtype=torch.float64), ones(1), 1.0)

    torch.testing.assert_close(of([3, 3]), (of([1, 2]) + of([2, 1])) / 2, rtol=1e-13, atol=0)
    torch.testing.assert_close(of([1, 1], margin=2.0), of([1, 1]), rtol=0, atol=0)  # a margin is for a pair that was decided
    level = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    tie = ranking_loss(level, torch.tensor([[1, 1]]), mask, zeros(1), ones(1), 1.0)
    assert (torch.autograd.grad(tie, level)[0] == 0).all()
    pull = torch.autograd.grad(of([1, 1]), scores)[0]
    assert pull[0, 0] > 0 > pull[0, 1], "descending brings tied scores together"


def batch() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    places = torch.tensor([[1, 2, 3, 4], [2, 1, 2, 9], [1, 1, 9, 9], [3, 1, 2, 9]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 0]], dtype=torch.bool)
    return (
        torch.randn(4, 4, dtype=torch.float64),
        places,
        mask,
        torch.rand(4, dtype=torch.float64),
        torch.rand(4, dtype=torch.float64) + 0.5,
    )


def value_and_gradient(
    scores: Tensor, places: Tensor, mask: Tensor, margin: Tensor, weight: Tensor, count: Tensor
) -> tuple[Tensor, Tensor]:
    scores = scores.detach().requires_grad_()
    loss = ranking_loss(scores, places, mask, margin, weight, count)
    return loss.detach(), torch.autograd.grad(loss, scores)[0]


def test_the_order_of_responses_and_of_rankings_changes_nothing():
    scores, places, mask, margin, weight = batch()
    loss, gradient = value_and_gradient(scores, places, mask, margin, weight, weight.sum())
    columns, rows = torch.tensor([2, 0, 3, 1]), torch.tensor([3, 1, 0, 2])
    moved = [x[:, columns][rows] for x in (scores, places, mask)]
    loss_moved, gradient_moved = value_and_gradient(*moved, margin[rows], weight[rows], weight.sum())
    torch.testing.assert_close(loss_moved, loss, rtol=1e-13, atol=0)
    torch.testing.assert_close(gradient_moved, gradient[:, columns][rows], rtol=1e-12, atol=1e-15)


def test_what_stands_under_the_mask_is_never_read():
    scores, places, mask, margin, weight = batch()
    loss, gradient = value_and_gradient(scores, places, mask, margin, weight, weight.sum())
    hollow = scores.masked_fill(~mask, float("nan"))
    loss_hollow, gradient_hollow = value_and_gradient(hollow, places.masked_fill(~mask, -77), mask, margin, weight, weight.sum())
    assert torch.equal(loss_hollow, loss) and torch.equal(gradient_hollow, gradient)
    assert (gradient[~mask] == 0).all() and (gradient[0] != 0).all()
    narrow = value_and_gradient(scores[2:3, :2], places[2:3, :2], mask[2:3, :2], margin[2:3], weight[2:3], weight.sum())
    wide = value_and_gradient(hollow[2:3], places[2:3], mask[2:3], margin[2:3], weight[2:3], weight.sum())
    torch.testing.assert_close(wide[0], narrow[0], rtol=1e-14, atol=0)


def test_slices_with_the_global_count_add_up():
    scores, places, mask, margin, weight = batch()
    whole, gradient = value_and_gradient(scores, places, mask, margin, weight, weight.sum())
    parts = [value_and_gradient(*(x[i] for x in (scores, places, mask, margin, weight)), weight.sum()) for i in torch.arange(4).split(3)]
    torch.testing.assert_close(sum(loss for loss, _ in parts), whole, rtol=1e-13, atol=0)
    torch.testing.assert_close(torch.cat([g for _, g in parts]), gradient, rtol=1e-13, atol=1e-16)


def test_a_ranking_without_a_pair_costs_nothing():
    scores = torch.tensor([[5.0, float("nan")]], requires_grad=True)
    loss = ranking_loss(scores, torch.tensor([[1, 2]]), torch.tensor([[True, False]]), torch.zeros(1), torch.ones(1), 1.0)
    assert loss == 0 and (torch.autograd.grad(loss, scores)[0] == 0).all()


def test_scores_far_apart_stay_finite():
    scores = torch.tensor([[-1e4, 1e4]], requires_grad=True)
    loss = ranking_loss(scores, torch.tensor([[1, 2]]), torch.ones(1, 2, dtype=torch.bool), torch.zeros(1), torch.ones(1), 1.0)
    assert loss == 2e4
    torch.testing.assert_close(torch.autograd.grad(loss, scores)[0], torch.tensor([[-1.0, 1.0]]))


def test_centring_is_the_squared_mean_of_each_ranking():
    scores = torch.tensor([[1.0, 3.0, float("nan")], [-1.0, -2.0, -6.0]], requires_grad=True)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    loss = centring_loss(scores, mask, 2)
    assert loss == (2.0**2 + 3.0**2) / 2
    torch.testing.assert_close(torch.autograd.grad(loss, scores)[0], torch.tensor([[1.0, 1.0, 0.0], [-1.0, -1.0, -1.0]]))


def test_centring_pins_the_constant_and_leaves_differences():
    places, law = plackett_luce_law()
    mask = torch.ones_like(places, dtype=torch.bool)

    def loss(r: Tensor) -> Tensor:
        scores = (r + 3.0).expand(24, 4)  # starts off centre
        return ranking_loss(scores, places, mask, zeros(24), law, 1.0) + 0.01 * centring_loss(scores, mask, 24)

    torch.testing.assert_close(minimise(loss, 4) + 3.0, centred(TRUE), rtol=0, atol=1e-5)
