"""Whole rankings, smoothed labels and ensembles, held against scalar float64 code that follows the formulas."""

import math
from itertools import combinations, pairwise, permutations

import pytest
import torch
from torch import Tensor

import tabular
from handrail.algo.ensemble import ensemble_mean, ensemble_mean_minus_std, ensemble_minimum, ensemble_spread
from handrail.algo.preference import bradley_terry_loss, plackett_luce_loss, ranking_loss
from test_algo_preference import TRUE, centred, minimise, ones, plackett_luce_law, zeros

F64 = torch.float64


def softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def pairs_by_hand(scores: list[float], places: list[int], margin: float, smoothing: float) -> float:
    """Mean over pairs; the better one's lead less the margin is x, a tie is half a win for each."""
    losses = []
    for i, j in combinations(range(len(scores)), 2):
        if places[i] == places[j]:
            d = scores[i] - scores[j]
            losses.append(0.5 * softplus(-d) + 0.5 * softplus(d))
        else:
            i, j = (i, j) if places[i] < places[j] else (j, i)
            x = scores[i] - scores[j] - margin
            losses.append((1 - smoothing) * softplus(-x) + smoothing * softplus(x))
    return sum(losses) / len(losses) if losses else 0.0


def order_by_hand(order: tuple[int, ...], scores: list[float], places: list[int], margin: float) -> float:
    """-log probability of one strict order; those in worse places than the chosen lean forward by the margin."""
    total = 0.0
    for t, chosen in enumerate(order):
        rest = order[t + 1 :]
        against = sum(math.exp(scores[j] + (margin if places[j] > places[chosen] else 0.0) - scores[chosen]) for j in rest)
        total += math.log1p(against)
    return total


def breaking_ties(places: list[int]) -> list[tuple[int, ...]]:
    return [o for o in permutations(range(len(places))) if all(places[a] <= places[b] for a, b in pairwise(o))]


def plackett_luce_by_hand(scores: list[float], places: list[int], margin: float) -> float:
    orders = breaking_ties(places)
    return sum(order_by_hand(order, scores, places, margin) for order in orders) / len(orders)


PLACES = [[1, 2, 3, 4], [2, 1, 2, 3], [1, 1, 1, 1], [3, 1, 2], [2, 2, 1], [1, 1], [2, 1], [5], [7, 7, 2, 2, 9], [1, 4, 4, 4, 4]]


def padded() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Scores, places, mask, margin, weight of PLACES; NaN and nonsense where there is no response."""
    torch.manual_seed(3)
    mask = torch.tensor([[k < len(p) for k in range(5)] for p in PLACES])
    places = torch.tensor([p + [-3] * (5 - len(p)) for p in PLACES])
    scores = (2 * torch.randn(len(PLACES), 5, dtype=F64)).masked_fill(~mask, math.nan)
    return scores, places, mask, torch.rand(len(PLACES), dtype=F64), torch.rand(len(PLACES), dtype=F64) + 0.2


def by_hand(formula) -> float:
    scores, _, _, margin, weight = padded()
    each = [float(weight[n]) * formula(scores[n, : len(places)].tolist(), places, float(margin[n])) for n, places in enumerate(PLACES)]
    return sum(each) / 3.7


@pytest.mark.parametrize("smoothing", [0.0, 0.15])
def test_all_pairs_is_the_formula_with_ties_margins_weights_and_smoothing(smoothing):
    found = ranking_loss(*padded(), 3.7, smoothing)
    assert float(found) == pytest.approx(by_hand(lambda s, p, m: pairs_by_hand(s, p, m, smoothing)), rel=1e-12)


def test_plackett_luce_is_the_formula_with_ties_margins_and_weights():
    assert float(plackett_luce_loss(*padded(), 3.7)) == pytest.approx(by_hand(plackett_luce_by_hand), rel=1e-12)


def test_plackett_luce_has_the_gradient_of_finite_differences_and_none_where_nothing_stands():
    scores, places, mask, margin, weight = padded()
    scores.requires_grad_()
    gradient = torch.autograd.grad(plackett_luce_loss(scores, places, mask, margin, weight, 2.0), scores)[0]
    assert (gradient[~mask] == 0).all()
    for n, k in ((0, 1), (1, 0), (2, 3), (8, 4), (9, 0)):
        moved = []
        for step in (1e-6, -1e-6):
            other = scores.detach().clone()
            other[n, k] += step
            moved.append(float(plackett_luce_loss(other, places, mask, margin, weight, 2.0)))
        assert float(gradient[n, k]) == pytest.approx((moved[0] - moved[1]) / 2e-6, abs=1e-7)
    torch.testing.assert_close(torch.where(mask, gradient, 0).sum(1), zeros(len(PLACES)), rtol=0, atol=1e-14)  # only differences count


def one(places: list[int], scores: Tensor, margin: float = 0.0) -> Tensor:
    mask = torch.ones(1, len(places), dtype=torch.bool)
    return plackett_luce_loss(scores[None], torch.tensor([places]), mask, torch.tensor([margin], dtype=F64), ones(1), 1.0)


def test_the_probabilities_of_all_orders_sum_to_one_and_a_tie_is_the_mean_of_its_orders():
    scores = torch.tensor([0.8, -1.1, 0.3], dtype=F64)
    strict = {order: float(one([order.index(k) + 1 for k in range(3)], scores)) for order in permutations(range(3))}
    assert sum(math.exp(-loss) for loss in strict.values()) == pytest.approx(1, abs=1e-14)
    for places in ([1, 1, 2], [1, 2, 2], [2, 1, 2], [1, 1, 1]):
        orders = breaking_ties(places)
        probability = math.prod(math.exp(-strict[order]) for order in orders) ** (1 / len(orders))  # the geometric mean
        assert math.exp(-float(one(places, scores))) == pytest.approx(probability, rel=1e-13)


def test_a_ranking_is_the_product_of_its_choices():
    scores = torch.tensor([0.8, -1.1, 0.3, 0.1], dtype=F64)
    order, law = [2, 0, 3, 1], 1.0
    for t in range(3):
        law *= float(torch.softmax(scores[order[t:]], 0)[0])
    assert math.exp(-float(one([order.index(k) + 1 for k in range(4)], scores))) == pytest.approx(law, rel=1e-13)


@pytest.mark.parametrize("places", [[1, 2], [2, 1], [3, 3]])
def test_of_two_responses_both_losses_are_the_same(places):
    torch.manual_seed(1)
    scores, margin, weight = torch.randn(6, 2, dtype=F64, requires_grad=True), torch.rand(6, dtype=F64), torch.rand(6, dtype=F64)
    given = (torch.tensor([places] * 6), torch.ones(6, 2, dtype=torch.bool), margin, weight, weight.sum())
    losses = [loss(scores, *given) for loss in (plackett_luce_loss, ranking_loss)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-13, atol=0)
    gradients = [torch.autograd.grad(loss, scores)[0] for loss in losses]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-12, atol=1e-15)


def test_tied_responses_are_drawn_together():
    scores = torch.tensor([1.0, -0.5, 0.2], dtype=F64, requires_grad=True)
    pull = torch.autograd.grad(one([1, 1, 1], scores), scores)[0]
    assert pull[0] > 0 > pull[1] and pull[0] > pull[2] > pull[1]
    level = torch.zeros(3, dtype=F64, requires_grad=True)
    assert (torch.autograd.grad(one([1, 1, 1], level), level)[0].abs() < 1e-15).all()
    torch.testing.assert_close(one([1, 1, 1], scores.detach(), margin=2.0), one([1, 1, 1], scores.detach()), rtol=0, atol=0)


# --- what is learned where the labels follow the law ---


def triples() -> tuple[Tensor, Tensor, Tensor]:
    """Of responses of the enumerated model: rows of three with each of their six orders, the places, the exact probability."""
    scores = tabular.random_scores(5)
    rng = torch.Generator().manual_seed(0)
    rows, places, law = [], [], []
    for group in [torch.randperm(tabular.N, generator=rng)[:3] for _ in range(300)]:
        r = scores[group].tolist()
        for order in permutations(range(3)):
            rows.append(group)
            places.append([order.index(k) + 1 for k in range(3)])
            law.append(math.exp(-order_by_hand(order, r, [1, 2, 3], 0.0)))
    return torch.stack(rows), torch.tensor(places), torch.tensor(law, dtype=F64)


@pytest.mark.parametrize("loss", [plackett_luce_loss, ranking_loss])
def test_on_exact_probabilities_of_orders_both_losses_find_the_reward(loss):
    """Rankings by Plackett-Luce have pairs by Bradley-Terry: all pairs, which leave out how these hang together, end at the same r."""
    rows, places, law = triples()
    assert float(law.view(-1, 6).sum(1).sub(1).abs().max()) < 1e-12 and len(rows.unique()) == tabular.N
    mask, none = torch.ones_like(places, dtype=torch.bool), zeros(len(law))
    found = minimise(lambda r: loss(r[rows], places, mask, none, law, 300.0), tabular.N)
    torch.testing.assert_close(centred(found), centred(tabular.random_scores(5)), rtol=0, atol=1e-5)


def test_of_rankings_by_plackett_luce_the_whole_tells_more_than_its_pairs():
    """Variance of the estimate after many rankings of four: H^-1 G H^-1, H the mean Hessian, G the variance of the gradient."""
    places, law = plackett_luce_law()
    mask = torch.ones(1, 4, dtype=torch.bool)
    variance = {}
    for loss in (plackett_luce_loss, ranking_loss):
        hessian, spread = torch.zeros(4, 4, dtype=F64), torch.zeros(4, 4, dtype=F64)
        for place, p in zip(places, law, strict=True):

            def of(r: Tensor, place=place, loss=loss) -> Tensor:
                return loss(r[None], place[None], mask, zeros(1), ones(1), 1.0)

            gradient = torch.autograd.functional.jacobian(of, TRUE)
            hessian += p * torch.autograd.functional.hessian(of, TRUE)
            spread += p * gradient[:, None] * gradient
        inverse = torch.linalg.pinv(hessian)
        variance[loss] = inverse @ spread @ inverse
        if loss is plackett_luce_loss:  # as of any likelihood
            torch.testing.assert_close(hessian, spread, rtol=0, atol=1e-12)
    saved = torch.linalg.eigvalsh(variance[ranking_loss] - variance[plackett_luce_loss])
    assert saved.min() > -1e-12 and saved.max() > 0.05


# --- smoothed labels ---


@pytest.mark.parametrize("eps", [0.01, 0.1, 0.3])
@pytest.mark.parametrize("margin", [0.0, 0.7])
def test_a_labeller_who_errs_leaves_a_finite_difference(eps, margin):
    given = torch.tensor([[1, 2]]), torch.ones(1, 2, dtype=torch.bool), torch.tensor([margin], dtype=F64), ones(1), 1.0
    found = minimise(lambda r: ranking_loss(r[None], *given, eps), 2)
    assert float(found[0] - found[1]) == pytest.approx(margin + math.log((1 - eps) / eps), abs=1e-6)
    far = [float(ranking_loss(torch.tensor([[d, 0.0]], dtype=F64), *given)) for d in (10.0, 20.0, 40.0)]
    assert far[0] > far[1] > far[2] > 0, "a label taken for certain is never satisfied"


def test_smoothed_labels_that_follow_a_law_shrink_it():
    """With P(i beats j) = p the least loss is at the log-odds of p (1 - eps) + (1 - p) eps: nearer to 0, in the same order."""
    for p in (0.55, 0.8, 0.99):
        law = torch.tensor([p, 1 - p], dtype=F64)
        found = minimise(lambda r, law=law: (law * bradley_terry_loss(torch.stack([r[0] - r[1], r[1] - r[0]]), 0.1)).sum(), 2)
        smooth = 0.9 * p + 0.1 * (1 - p)
        assert float(found[0] - found[1]) == pytest.approx(math.log(smooth / (1 - smooth)), abs=1e-6)


def test_a_tie_is_a_label_that_errs_half_the_time():
    d = torch.linspace(-3, 3, 13, dtype=F64)
    torch.testing.assert_close(bradley_terry_loss(d, 0.5), (bradley_terry_loss(d) + bradley_terry_loss(-d)) / 2, rtol=1e-14, atol=0)


# --- ratings ---


def test_a_rating_taken_off_the_score_is_a_margin_for_each_pair():
    scores, ratings, places = [0.4, -0.2, 1.5], [5.0, 2.0, 4.0], [1, 3, 2]
    wanted = sum(softplus(-(scores[i] - scores[j] - 0.3 * (ratings[i] - ratings[j]))) for i, j in ((0, 1), (0, 2), (2, 1))) / 3
    led = torch.tensor([scores], dtype=F64) - 0.3 * torch.tensor([ratings], dtype=F64)
    found = ranking_loss(led, torch.tensor([places]), torch.ones(1, 3, dtype=torch.bool), zeros(1), ones(1), 1.0)
    assert float(found) == pytest.approx(wanted, rel=1e-13)


# --- ensembles ---


def test_combinations_of_an_ensemble_by_hand():
    scores = torch.tensor([[1.0, 4.0, 1.0], [-2.0, -2.0, -2.0]], dtype=F64)
    assert ensemble_mean(scores).tolist() == [2.0, -2.0]
    assert ensemble_minimum(scores).tolist() == [1.0, -2.0]
    assert ensemble_spread(scores).tolist() == [pytest.approx(math.sqrt(2)), 0.0]  # (1 + 4 + 1) / 3
    assert ensemble_mean_minus_std(scores, 0.5).tolist() == [pytest.approx(2 - math.sqrt(2) / 2), -2.0]
    assert torch.equal(ensemble_mean_minus_std(scores, 0.0), ensemble_mean(scores))
    assert ensemble_spread(torch.tensor([[3.0]])).tolist() == [0.0]
