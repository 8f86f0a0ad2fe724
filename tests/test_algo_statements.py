"""Statements about the formulas that have a number or a table for an answer."""

import math

import pytest
import torch
from torch import Tensor

from handrail.algo.advantage import gae, token_rewards
from handrail.algo.control import adaptive_beta
from handrail.algo.kl import kl_k1, kl_k3
from handrail.algo.objective import entropy_bonus, ppo_clip_loss
from handrail.algo.stats import explained_variance, masked_mean, masked_sum, rescale, whiten
from handrail.algo.value import clipped_value_loss, value_loss

LENGTHS = torch.tensor([6, 1, 4, 3])
MASK = torch.arange(6) < LENGTHS[:, None]
B, T = MASK.shape
ALL = torch.ones(1, 1, dtype=torch.bool)


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*(shape or (B, T)), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def cell(x: float) -> Tensor:
    return torch.tensor([[x]], dtype=torch.float64)


# Rewards of tokens.


def test_the_score_stands_on_the_last_real_token_and_the_divergence_on_each():
    mask = torch.tensor([[True, True, True, False], [True, False, False, False], [True, True, True, True]])
    kl = torch.tensor([[1.0, 2.0, -3.0, 9.0], [4.0, 9.0, 9.0, 9.0], [0.0, 0.0, 0.0, 1.0]])
    rewards = token_rewards(torch.tensor([10.0, 20.0, 30.0]), kl, mask, 0.5)
    expected = [[-0.5, -1.0, 11.5, 0.0], [18.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 29.5]]
    assert torch.equal(rewards, torch.tensor(expected))


def test_the_sum_of_token_rewards_is_the_score_less_the_divergence():
    score, kl = randn(1, B), randn(2)
    total = token_rewards(score, kl, MASK, 0.3).sum(1)
    torch.testing.assert_close(total, score - 0.3 * torch.where(MASK, kl, 0).sum(1), rtol=1e-13, atol=0)


def test_a_row_without_a_token_is_refused_by_number():
    mask = torch.tensor([[True, True], [True, False], [False, False]])
    with pytest.raises(ValueError, match="row 2 has no token"):
        token_rewards(torch.zeros(3), torch.zeros(3, 2), mask, 0.1)


def test_divergence_in_the_reward_carries_no_gradient():
    score, kl = randn(1, B).requires_grad_(), randn(2).requires_grad_()
    assert not token_rewards(score, kl, MASK, 0.3).requires_grad


def test_token_rewards_changes_none_of_its_arguments():
    score, kl = randn(1, B), randn(2)
    before = kl.clone()
    token_rewards(score, kl, MASK, 0.3)
    assert torch.equal(kl, before)


def test_k1_is_not_clamped_and_k3_is_never_negative():
    logp, reference = torch.tensor([[-1.0, -30.0]]), torch.tensor([[-25.0, -0.5]])
    assert torch.equal(kl_k1(logp, reference), torch.tensor([[24.0, -29.5]]))
    x, y = 3 * randn(1), 3 * randn(2)
    assert (kl_k3(x, y) >= 0).all() and (kl_k3(x, x) == 0).all()
    torch.testing.assert_close(kl_k3(cell(-2.0), cell(-1.0)), cell(math.e - 2), rtol=1e-14, atol=0)


# Generalised advantage estimation.


def double_sum(rewards: Tensor, values: Tensor, gamma: float, lam: float, bootstrap: Tensor) -> Tensor:
    """Equation 16 of Schulman et al. 2016 as it is written, one response and one token at a time."""
    advantage = torch.zeros(B, T, dtype=torch.float64)
    for row, length in enumerate(LENGTHS.tolist()):
        ahead = [*values[row, :length].tolist(), float(bootstrap[row])]
        delta = [float(rewards[row, t]) + gamma * ahead[t + 1] - ahead[t] for t in range(length)]
        for t in range(length):
            advantage[row, t] = math.fsum((gamma * lam) ** k * delta[t + k] for k in range(length - t))
    return advantage


@pytest.mark.parametrize("gamma", [1.0, 0.9, 0.0])
@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95, 1.0])
def test_gae_is_the_double_sum(gamma, lam):
    rewards, values, bootstrap = randn(1), randn(2), torch.tensor([0.0, 1.5, -0.7, 0.0], dtype=torch.float64)
    advantage, returns = gae(rewards, values, MASK, gamma, lam, bootstrap)
    torch.testing.assert_close(advantage, double_sum(rewards, values, gamma, lam, bootstrap), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(returns[MASK], (advantage + values)[MASK], rtol=1e-13, atol=0)
    assert (returns[~MASK] == 0).all() and (advantage[~MASK] == 0).all()


def test_lambda_one_is_the_return_less_the_value():
    rewards, values, bootstrap = randn(1), randn(2), randn(3, B)
    _, returns = gae(rewards, values, MASK, 0.9, 1.0, bootstrap)
    for row, length in enumerate(LENGTHS.tolist()):
        for t in range(length):
            ahead = math.fsum(0.9 ** (k - t) * float(rewards[row, k]) for k in range(t, length))
            ahead += 0.9 ** (length - t) * float(bootstrap[row])
            assert math.isclose(float(returns[row, t]), ahead, rel_tol=1e-12)


def test_lambda_zero_is_the_one_step_error():
    advantage, _ = gae(
        torch.tensor([[1.0, 2.0]]),
        torch.tensor([[0.5, 0.25]]),
        torch.ones(1, 2, dtype=torch.bool),
        0.5,
        0.0,
        torch.tensor([8.0]),
    )
    assert torch.equal(advantage, torch.tensor([[1 + 0.5 * 0.25 - 0.5, 2 + 0.5 * 8 - 0.25]]))


# Whitening.


@pytest.mark.parametrize("offset", [0.0, 5.0])
def test_whitened_tokens_have_mean_zero_and_variance_one(offset):
    x = 3 * randn(1) + offset
    real = whiten(x, MASK)[MASK]
    assert abs(real.mean()) < 1e-12 and abs(real.var(correction=0) - 1) < 1e-8
    assert ((real - (x[MASK] - x[MASK].mean()) / x[MASK].std(correction=0)).abs() < 1e-8).all()


def test_rescaled_tokens_have_variance_one_and_keep_their_mean():
    x = 3 * randn(1) + 5
    real = rescale(x, MASK)[MASK]
    assert abs(real.mean() - x[MASK].mean()) < 1e-12 and abs(real.var(correction=0) - 1) < 1e-8


def test_whitening_is_over_the_batch_and_not_over_each_row():
    row_means = whiten(randn(1) + torch.arange(B)[:, None], MASK).sum(1) / LENGTHS
    assert (row_means.abs() > 0.05).all()


@pytest.mark.parametrize("function", [whiten, rescale])
def test_no_token_and_one_token_are_defined(function):
    none = torch.zeros(2, 3, dtype=torch.bool)
    assert torch.equal(function(torch.full((2, 3), float("nan")), none), torch.zeros(2, 3))
    assert function(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.bool)).shape == (0, 3)
    one = torch.tensor([[False, True]])
    kept = 0.0 if function is whiten else 7.0
    assert torch.equal(function(torch.tensor([[float("nan"), 7.0]]), one), torch.tensor([[0.0, kept]]))


@pytest.mark.parametrize("value", [0.1, 100.3, 1000.7])
def test_equal_tokens_are_not_blown_up_by_rounding(value):
    """In float32 the mean of equal numbers is off by a rounding, which a standard deviation of 0 would magnify."""
    x, mask = torch.full((10, 100), value), torch.ones(10, 100, dtype=torch.bool)
    assert (whiten(x, mask) == 0).all()
    assert torch.equal(rescale(x, mask), x)
    assert explained_variance(torch.zeros_like(x), x, mask) == 0


def test_masked_sums_and_means():
    x = torch.tensor([[1.0, 2.0, float("nan")], [4.0, float("inf"), float("nan")]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert masked_sum(x, mask) == 7
    assert masked_mean(x, mask) == 7 / 3
    assert masked_mean(x, mask, 14) == 0.5
    assert masked_mean(x, torch.zeros_like(mask)) == 0


# The clipped objective.

LOW, HIGH = 0.2, 0.3  # unequal, so that exchanging them shows
TABLE = [  # advantage, ratio, objective min(rho A, clip(rho) A), its derivative by log pi, whether the clip acts
    (+2.0, 0.5, 1.0, 1.0, False),  # A > 0, below: the policy may come back
    (+2.0, 1.1, 2.2, 2.2, False),
    (+2.0, 1.5, 2.6, 0.0, True),  # A > 0, above: far enough
    (-2.0, 0.5, -1.6, 0.0, True),  # A < 0, below: far enough, and the lower bound is what says so
    (-2.0, 0.9, -1.8, -1.8, False),
    (-2.0, 1.5, -3.0, -3.0, False),  # A < 0, above: the policy may come back
]


@pytest.mark.parametrize("advantage, ratio, objective, slope, acts", TABLE)
def test_the_clip_acts_in_two_of_six_cells(advantage, ratio, objective, slope, acts):
    logp = (cell(-1.0) + math.log(ratio)).requires_grad_()
    loss, stats = ppo_clip_loss(logp, cell(-1.0), cell(advantage), ALL, 1, LOW, HIGH)
    assert math.isclose(-float(loss.detach()), objective, rel_tol=1e-12)
    assert math.isclose(-float(torch.autograd.grad(loss, logp)[0]), slope, rel_tol=1e-12)
    assert bool(stats["clip_fraction"]) is acts
    assert math.isclose(float(stats["approx_kl"]), ratio - 1 - math.log(ratio), rel_tol=1e-12)


@pytest.mark.parametrize("ratio, acts", [(0.79, True), (0.81, False), (1.29, False), (1.31, True)])
def test_each_bound_stands_where_it_is_said_to(ratio, acts):
    advantage = cell(1.0 if ratio > 1 else -1.0)
    _, stats = ppo_clip_loss(cell(math.log(ratio)), cell(0.0), advantage, ALL, 1, LOW, HIGH)
    assert bool(stats["clip_fraction"]) is acts


def test_the_first_inner_step_is_reinforce():
    logp, advantage = randn(1).requires_grad_(), randn(2)
    loss, stats = ppo_clip_loss(logp, logp.detach().clone(), advantage, MASK, 100, LOW, HIGH)
    assert stats["approx_kl"] == 0 and stats["clip_fraction"] == 0
    torch.testing.assert_close(torch.autograd.grad(loss, logp)[0], torch.where(MASK, -advantage / 100, 0), rtol=1e-14, atol=0)
    assert not any(s.requires_grad for s in stats.values())


def test_the_denominator_is_the_count_and_tokens_weigh_the_same():
    logp, advantage = randn(1), randn(2)
    loss, stats = ppo_clip_loss(logp, randn(3), advantage, MASK, 50, 10.0, 1e9)
    ratio = (logp - randn(3)).exp()
    torch.testing.assert_close(loss, -(ratio * advantage)[MASK].sum() / 50, rtol=1e-13, atol=0)
    torch.testing.assert_close(stats["approx_kl"], (ratio - 1 - ratio.log())[MASK].sum() / 50, rtol=1e-12, atol=0)
    torch.testing.assert_close(entropy_bonus(logp, MASK, 50), logp[MASK].sum() / 50, rtol=1e-13, atol=0)


def test_clip_fraction_is_a_share_of_tokens():
    mask = torch.tensor([[True, True, True, True, False]])
    logp = torch.tensor([[1.5, 0.5, 0.5, 1.0, 1.5]]).log()
    advantage = torch.tensor([[1.0, 1.0, -1.0, 1.0, 1.0]])
    _, stats = ppo_clip_loss(logp, torch.zeros(1, 5), advantage, mask, 4, LOW, HIGH)
    assert stats["clip_fraction"] == 0.5


# The critic.

VALUES = [  # V, V_old, R, the loss of the clipped form with clip 0.2, its derivative by V
    (0.1, 0.0, 1.0, 0.405, -0.9),  # inside the clip: the plain loss
    (0.5, 0.0, 1.0, 0.320, 0.0),  # moved far towards R: the clipped error is the larger and has no gradient
    (-0.5, 0.0, 1.0, 1.125, -1.5),  # moved far from R: the plain error is the larger and pulls it back
    (-0.5, 0.0, -1.0, 0.320, 0.0),
    (0.5, 0.0, -1.0, 1.125, 1.5),
    (2.5, 0.0, 1.0, 1.125, 1.5),  # past R, and further from it than the clipped one
]


@pytest.mark.parametrize("value, old, target, loss, slope", VALUES)
def test_the_clipped_value_loss_is_the_larger_of_two(value, old, target, loss, slope):
    values = cell(value).requires_grad_()
    found = clipped_value_loss(values, cell(old), cell(target), ALL, 1, 0.2)
    assert math.isclose(float(found.detach()), loss, rel_tol=1e-12)
    assert math.isclose(float(torch.autograd.grad(found, values)[0]), slope, rel_tol=1e-12, abs_tol=0)


def test_the_value_loss_is_half_the_squared_error_and_the_clipped_one_is_never_less():
    values, old, returns = randn(1).requires_grad_(), randn(2), randn(3)
    plain = value_loss(values, returns, MASK, 50)
    torch.testing.assert_close(plain, 0.5 * ((values - returns)[MASK] ** 2).sum() / 50, rtol=1e-13, atol=0)
    torch.testing.assert_close(torch.autograd.grad(plain, values)[0], torch.where(MASK, (values - returns) / 50, 0), rtol=1e-13, atol=0)
    assert clipped_value_loss(values, old, returns, MASK, 50, 0.2) >= value_loss(values, returns, MASK, 50)
    torch.testing.assert_close(clipped_value_loss(values, old, returns, MASK, 50, 1e9), value_loss(values, returns, MASK, 50))


def test_explained_variance_has_its_three_landmarks():
    returns = randn(1)
    assert explained_variance(returns, returns, MASK) == 1
    torch.testing.assert_close(explained_variance(returns + 4, returns, MASK).item(), 1.0)  # a constant error is not variance
    torch.testing.assert_close(explained_variance(torch.full_like(returns, 3.0), returns, MASK).item(), 0.0, atol=1e-12, rtol=0)
    torch.testing.assert_close(explained_variance(-returns, returns, MASK).item(), -3.0)
    torch.testing.assert_close(explained_variance(returns / 2, returns, MASK).item(), 0.75)
    assert explained_variance(returns, torch.zeros_like(returns), MASK) == 0
    assert explained_variance(returns, returns, torch.zeros_like(MASK)) == 0


# The coefficient of the divergence.


def test_adaptive_beta_follows_its_golden_sequence():
    """Target 6 nats, a horizon of 1,000 responses, 100 responses a step; worked out by hand."""
    golden = [(12.0, 0.102), (6.0, 0.102), (0.0, 0.09996), (6.6, 0.1009596), (5.7, 0.100454802), (-3.0, 0.09844570596)]
    beta = 0.1
    for kl, expected in golden:
        beta = adaptive_beta(beta, kl, 6.0, 1000, 100)
        assert math.isclose(beta, expected, rel_tol=1e-12)


def test_adaptive_beta_moves_by_at_most_a_fifth_over_its_horizon_and_stays_a_plain_number():
    assert math.isclose(adaptive_beta(1.0, 1e9, 6.0, 1000, 1000), 1.2)
    assert math.isclose(adaptive_beta(1.0, -1e9, 6.0, 1000, 1000), 0.8)
    assert type(adaptive_beta(1.0, 7.0, 6.0, 1000, 100)) is float
