"""Best of n and weighted regression against exact laws on the enumerated model."""

import itertools
import math
from itertools import product

import pytest
import torch
from torch import Tensor

import tabular
from handrail.algo.baseline import group_mean
from handrail.algo.regression import (
    advantage_weights,
    best_of_n_kl,
    best_of_n_mean,
    best_of_n_weights,
    group_best,
    reward_weights,
    weighted_nll,
)
from tabular import MASK, N

SAMPLER, OTHER, SCORES = tabular.random_logits(0), tabular.random_logits(1), tabular.random_scores(2)
TIED = (2 * SCORES).round() / 2  # 121 responses on about ten levels
BETA = 0.7


def best_of_n_law(p: Tensor, scores: Tensor, n: int) -> Tensor:
    """[N] by order statistics: F(r)^n - F(r-)^n for each level of the score, shared among its responses by p."""
    at_most = torch.stack([p[scores <= r].sum() for r in scores])
    below = torch.stack([p[scores < r].sum() for r in scores])
    return (at_most**n - below**n) * p / (at_most - below)


def divergence(q: Tensor, p: Tensor) -> float:
    return float(torch.where(q > 0, q * (q.log() - p.log()), 0).sum())


def draws(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Every way of drawing n of the responses: row of the response and number of the draw [N^n n], and its probability."""
    rows = torch.cartesian_prod(*[torch.arange(N)] * n)
    chance = tabular.probability(SAMPLER)[rows].prod(1)
    return rows.flatten(), torch.arange(len(rows)).repeat_interleave(n), chance


def uniform_policy() -> Tensor:
    """Logits under which all 121 responses are equally likely, so that none has a large mass."""
    return tabular.best_policy(SAMPLER, -tabular.response_logp(SAMPLER), 1.0)[0]


# --- the law of the best of n ---


@pytest.mark.parametrize("scores", [SCORES, TIED], ids=["distinct", "tied"])
@pytest.mark.parametrize("n", [2, 3])
def test_the_weights_pick_the_law_that_order_statistics_give(scores, n):
    rows, draw, chance = draws(n)
    weight = best_of_n_weights(scores[rows], draw)
    law = torch.zeros(N, dtype=torch.float64).index_add(0, rows, weight * chance[draw])
    torch.testing.assert_close(law, best_of_n_law(tabular.probability(SAMPLER), scores, n), rtol=1e-10, atol=1e-16)
    assert (law - tabular.probability(SAMPLER)).abs().sum() > 0.3


def test_the_expected_gradient_is_that_of_imitating_the_best_of_n():
    rows, draw, chance = draws(2)
    logits = OTHER.clone().requires_grad_()  # the policy that learns need not be the one that samples
    weight = best_of_n_weights(SCORES[rows], draw)
    loss = weighted_nll(tabular.token_logp(logits)[rows], weight * chance[draw], MASK[rows], 1)
    found = torch.autograd.grad(loss, logits)[0]
    law = best_of_n_law(tabular.probability(SAMPLER), SCORES, 2)
    true = torch.autograd.grad(-(law * tabular.response_logp(logits)).sum(), logits)[0]
    torch.testing.assert_close(found, true, rtol=1e-10, atol=1e-14)
    plain = torch.autograd.grad(-(tabular.probability(SAMPLER) * tabular.response_logp(logits)).sum(), logits)[0]
    assert (found - plain).norm() > 0.1 * plain.norm(), "imitating all responses would be another thing"


def test_the_best_of_n_among_the_best_of_m_is_the_best_of_n_times_m():
    p = tabular.probability(SAMPLER)
    torch.testing.assert_close(best_of_n_law(best_of_n_law(p, SCORES, 3), SCORES, 4), best_of_n_law(p, SCORES, 12), rtol=1e-9, atol=1e-15)


# --- its divergence ---


@pytest.mark.parametrize("scores", [SCORES, TIED], ids=["distinct", "tied"])
@pytest.mark.parametrize("n", [1, 2, 4, 16, 64, 1000])
def test_the_divergence_of_the_best_of_n_is_at_most_the_formulas(scores, n):
    for seed in range(5):
        p = tabular.probability(tabular.random_logits(seed, 2.0))
        law = best_of_n_law(p, scores, n)
        assert -1e-12 <= divergence(law, p) <= best_of_n_kl(n) + 1e-12
        assert (law <= n * p * (1 + 1e-9)).all(), "no response becomes more than n times as likely"


def test_the_formula_is_exact_where_no_response_has_a_large_mass():
    p = tabular.probability(uniform_policy())
    assert p.max() < 0.0083
    for n, tolerance in ((2, 1e-4), (4, 1e-4), (8, 3e-4)):
        assert abs(divergence(best_of_n_law(p, SCORES, n), p) - best_of_n_kl(n)) < tolerance
    gaps = []
    for count in (10, 100, 1000):  # of equally likely responses
        p = torch.full((count,), 1 / count, dtype=torch.float64)
        gaps.append(best_of_n_kl(4) - divergence(best_of_n_law(p, torch.arange(count), 4), p))
    assert gaps[0] > 20 * gaps[1] > 400 * gaps[2] > 0


def test_the_formula_is_far_too_high_where_one_response_has_most_of_the_mass():
    p = torch.full((N,), 0.1 / (N - 1), dtype=torch.float64)
    p[SCORES.argmax()] = 0.9
    assert divergence(best_of_n_law(p, SCORES, 4), p) < 0.11 < 0.6 < best_of_n_kl(4)


# --- reward-weighted and advantage-weighted regression ---


def imitated(weight: Tensor) -> Tensor:
    """[S, V] logits of the policy that minimises -sum_y weight(y) log pi(y): of all that went through a state, the
    share that went on with each token."""
    each = torch.where(MASK, weight[:, None], 0).flatten()
    counts = torch.zeros(tabular.S * tabular.V, dtype=torch.float64).index_add(
        0, (tabular.STATES * tabular.V + tabular.TOKENS).flatten(), each
    )
    return counts.view(tabular.S, tabular.V).log()


def by_reward(policy: Tensor) -> Tensor:
    return reward_weights(SCORES, BETA)


def by_advantage(policy: Tensor) -> Tensor:
    """With the exact baseline, the sampler's mean reward, and a limit that nothing reaches."""
    return advantage_weights(SCORES, (tabular.probability(policy) * SCORES).sum().expand(N), BETA, 1e9)


@pytest.mark.parametrize("weights", [by_reward, by_advantage])
def test_one_round_ends_at_the_sampler_tilted_by_the_reward(weights):
    best, _ = tabular.best_policy(SAMPLER, SCORES, BETA)
    weight = tabular.probability(SAMPLER) * weights(SAMPLER)

    def slope(logits: Tensor) -> float:
        variable = logits.clone().requires_grad_()
        return float(torch.autograd.grad(weighted_nll(tabular.token_logp(variable), weight, MASK, 1), variable)[0].norm() / weight.sum())

    assert slope(best) < 1e-12 and slope(SAMPLER) > 0.1 and slope(OTHER) > 0.1
    torch.testing.assert_close(tabular.probability(imitated(weight)), tabular.probability(best), rtol=1e-10, atol=1e-16)


@pytest.mark.parametrize("weights", [by_reward, by_advantage])
def test_k_rounds_divide_beta_by_k_and_do_not_stay_at_the_regularised_optimum(weights):
    """Each round tilts once more: pi_k = pi_ref exp(k r / beta) / Z.  The regularised objective is best after the first
    round and falls from then on, while the reward still grows, until one response is left."""
    policy, worth, reward = SAMPLER, [], []
    for k in range(1, 41):
        policy = imitated(tabular.probability(policy) * weights(policy))
        expected, _ = tabular.best_policy(SAMPLER, SCORES, BETA / k)
        torch.testing.assert_close(tabular.probability(policy), tabular.probability(expected), rtol=1e-9, atol=1e-15)
        worth.append(float(tabular.objective(policy, SAMPLER, SCORES, BETA)))
        reward.append(float((tabular.probability(policy) * SCORES).sum()))
    _, most = tabular.best_policy(SAMPLER, SCORES, BETA)
    assert math.isclose(worth[0], float(most), rel_tol=1e-10)
    assert worth[1] < worth[0] - 0.1 and worth == sorted(worth, reverse=True) and reward == sorted(reward)
    assert tabular.probability(policy)[SCORES.argmax()] > 0.99


def test_the_limit_flattens_the_tilt_of_the_best():
    p = tabular.probability(SAMPLER)
    baseline = (p * SCORES).sum().expand(N)
    weight = advantage_weights(SCORES, baseline, BETA, 2.0)
    bounded = p * ((SCORES - baseline) / BETA).exp().clamp(max=2.0)
    torch.testing.assert_close(tabular.probability(imitated(p * weight)), bounded / bounded.sum(), rtol=1e-10, atol=1e-16)
    assert weight.max() == 2 and (weight == 2).sum() > 5 and weight.min() < 0.2


def test_a_baseline_for_each_prompt_lets_an_easy_prompt_weigh_as_much_as_a_hard_one():
    """Two prompts with the same responses, of which one scores everything three higher."""
    score, group = torch.cat([SCORES[:8], SCORES[:8] + 3]), torch.arange(2).repeat_interleave(8)
    over_batch = reward_weights(score, BETA).view(2, 8).sum(1)
    torch.testing.assert_close(over_batch[1] / over_batch[0], torch.tensor(3 / BETA, dtype=torch.float64).exp(), rtol=1e-12, atol=0)
    above_mean = advantage_weights(score, group_mean(score, group), BETA, 1e9).view(2, 8).sum(1)
    torch.testing.assert_close(above_mean[1], above_mean[0], rtol=1e-12, atol=0)


# --- the formulas, written out ---

GROUP = [7, 2, 7, 7, 2, 5]
SCORE = [0.3, -1.2, 1.1, 1.1, 0.4, -0.6]


def tensor(values: list) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_weights_of_six_responses_to_three_prompts_by_hand():
    score, group = tensor(SCORE), torch.tensor(GROUP)
    assert best_of_n_weights(score, group).tolist() == [0, 0, 0.5, 0.5, 1, 1]  # a tie is shared; one alone is the best
    assert group_best(score, group).tolist() == [max(s for s, g in zip(score, group, strict=True) if g == one) for one in group]
    total = sum(math.exp(r / 0.4) for r in SCORE)
    assert reward_weights(score, 0.4).tolist() == pytest.approx([math.exp(r / 0.4) / total for r in SCORE], rel=1e-13)
    mean = {7: (0.3 + 1.1 + 1.1) / 3, 2: (-1.2 + 0.4) / 2, 5: -0.6}
    assert group_mean(score, group).tolist() == pytest.approx([mean[g] for g in GROUP], rel=1e-13)
    expected = [min(math.exp((r - mean[g]) / 0.4), 2.0) for r, g in zip(SCORE, GROUP, strict=True)]
    assert advantage_weights(score, group_mean(score, group), 0.4, 2.0).tolist() == pytest.approx(expected, rel=1e-13)
    assert expected.count(2.0) == 1


def test_the_groups_own_mean_shrinks_differences_by_one_nth():
    score = SCORES[:6]
    others = torch.stack([torch.cat([score[:i], score[i + 1 :]]).mean() for i in range(6)])
    with_itself = score - group_mean(score, torch.zeros(6, dtype=torch.int64))
    torch.testing.assert_close(with_itself, (1 - 1 / 6) * (score - others), rtol=1e-12, atol=1e-15)


def test_rewards_too_large_for_an_exponential_still_give_weights():
    score = torch.tensor([1000.0, 999.0, -1000.0])
    assert reward_weights(score, 0.5).tolist() == pytest.approx([1 / (1 + math.exp(-2)), 1 / (1 + math.exp(2)), 0.0])
    assert advantage_weights(score, torch.zeros(3), 0.5, 20.0).tolist() == [20, 20, 0]


def test_the_weighted_loss_is_a_double_sum():
    logp, weight = tabular.token_logp(SAMPLER)[:9], tensor([0.0, 0.5, 2.0, 1.0, 0.0, 0.25, 1.5, 3.0, 0.1])
    total = sum(weight[i] * logp[i, t] for i, t in product(range(9), range(tabular.T)) if t < tabular.LENGTHS[i])
    torch.testing.assert_close(weighted_nll(logp, weight, MASK[:9], 13), -total / 13, rtol=1e-13, atol=0)


@pytest.mark.parametrize("n, nats", [(1, 0.0), (2, 0.19314718056), (4, 0.63629436112), (16, 1.83508872224)])
def test_the_bound_in_nats(n, nats):
    assert best_of_n_kl(n) == pytest.approx(nats, rel=1e-10, abs=1e-15)


def test_the_bound_of_many_rounds_is_still_a_number():
    assert best_of_n_kl(4**1000) == pytest.approx(1000 * math.log(4) - 1, rel=1e-12)


def test_the_best_of_n_is_averaged_over_all_ways_of_drawing_n_of_the_samples():
    order_by = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    value = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for n in range(1, 7):
        for row in range(3):
            drawn = [max(some, key=lambda i, r=row: float(order_by[r, i])) for some in itertools.combinations(range(6), n)]
            expected = math.fsum(float(value[row, i]) for i in drawn) / len(drawn)
            assert math.isclose(float(best_of_n_mean(order_by, value, n)[row]), expected, rel_tol=1e-12)
    with pytest.raises(ValueError, match="the best of 7 from 6 samples"):
        best_of_n_mean(order_by, value, 7)
