"""Padding is a mask and nothing else; a slice with the global count is a share of the whole.

Every function of tokens is run as it stands, with NaN under the mask, with more columns, in another order of rows and
in slices: values and gradients stay what they were.
"""

import pytest
import torch
from torch import Tensor

from handrail.algo.advantage import gae, reward_to_go, token_rewards, whole_return
from handrail.algo.kl import kl_k3
from handrail.algo.objective import entropy_bonus, gspo_loss, importance_loss, ppo_clip_loss, ppo_penalty_loss, reinforce_loss
from handrail.algo.regression import weighted_nll
from handrail.algo.stats import explained_variance, masked_mean, mean_and_std, rescale, response_sum, whiten
from handrail.algo.value import clipped_value_loss, value_loss

LENGTHS = torch.tensor([5, 1, 3, 4, 2])
B, T = len(LENGTHS), 5
MASK = torch.arange(T) < LENGTHS[:, None]
COUNT = MASK.sum()
NAN = float("nan")

# What is summed over tokens and divided by a count: x is the argument with a gradient, y and z are other [B, T] ones,
# m is the mask and n the count.
LOSSES = {
    "masked_mean": lambda x, y, z, m, n: masked_mean(x, m, n),
    "ppo_clip_loss": lambda x, y, z, m, n: ppo_clip_loss(x, y, z, m, n, 0.2, 0.3)[0],
    "approx_kl": lambda x, y, z, m, n: ppo_clip_loss(x, y, z, m, n, 0.2, 0.3)[1]["approx_kl"] + 0 * masked_mean(x, m),
    "clip_fraction": lambda x, y, z, m, n: ppo_clip_loss(x, y, z, m, n, 0.2, 0.3)[1]["clip_fraction"] + 0 * masked_mean(x, m),
    "gspo_loss": lambda x, y, z, m, n: gspo_loss(x, y, z, m, n, 0.2, 0.3)[0],
    "reinforce_loss": lambda x, y, z, m, n: reinforce_loss(x, y, m, n),
    "importance_loss": lambda x, y, z, m, n: importance_loss(x, y, z, m, n),
    "ppo_penalty_loss": lambda x, y, z, m, n: ppo_penalty_loss(x, y, z, m, n, 0.5),
    "entropy_bonus": lambda x, y, z, m, n: entropy_bonus(x, m, n),
    "weighted_nll": lambda x, y, z, m, n: weighted_nll(x, y[:, 0].abs(), m, n),
    "value_loss": lambda x, y, z, m, n: value_loss(x, y, m, n),
    "clipped_value_loss": lambda x, y, z, m, n: clipped_value_loss(x, y, z, m, n, 0.2),
    "k3 in the loss": lambda x, y, z, m, n: masked_mean(kl_k3(torch.where(m, x, 0), torch.where(m, y, 0)), m, n),
}

# What looks at the whole batch.
WHOLE = {
    "whiten": lambda x, y, z, m: whiten(x, m),
    "rescale": lambda x, y, z, m: rescale(x, m),
    "explained_variance": lambda x, y, z, m: explained_variance(x, y, m),
    "reward_to_go": lambda x, y, z, m: reward_to_go(x, m, 0.9),
    "whole_return": lambda x, y, z, m: whole_return(x, m, 0.9),
    "response_sum": lambda x, y, z, m: torch.where(m, response_sum(x, m)[:, None], 0),
    "mean": lambda x, y, z, m: mean_and_std(x, m)[0],
    "standard deviation": lambda x, y, z, m: mean_and_std(x, m)[1],
    "gae, advantage": lambda x, y, z, m: gae(x, y, m, 0.97, 0.9, BOOTSTRAP[: len(x)])[0],
    "gae, returns": lambda x, y, z, m: gae(y, x, m, 0.97, 0.9, BOOTSTRAP[: len(x)])[1],
}
BOOTSTRAP = torch.tensor([0.0, 1.0, 0.0, -2.0, 0.5], dtype=torch.float64)
WEIGHTS = torch.randn(B, T, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def tensors() -> list[Tensor]:
    return [0.4 * torch.randn(B, T, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]


def with_gradient(function, x: Tensor, *others) -> tuple[Tensor, Tensor]:
    """The function's value, and the gradient of a fixed mixture of its entries."""
    x = x.detach().requires_grad_()
    value = function(x, *others)
    mixture = (value * WEIGHTS[: len(value), : value.shape[1]]).sum() if value.ndim else value
    return value.detach(), torch.autograd.grad(mixture, x)[0]


def widened(x: Tensor, fill: float) -> Tensor:
    return torch.cat([x, torch.full((len(x), 3), fill).to(x.dtype)], 1)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_never_read_padding(name):
    x, y, z = tensors()
    value, gradient = with_gradient(LOSSES[name], x, y, z, MASK, COUNT)
    hollow = [a.masked_fill(~MASK, NAN) for a in (x, y, z)]
    value_hollow, gradient_hollow = with_gradient(LOSSES[name], *hollow, MASK, COUNT)
    assert value.isfinite() and value != 0
    assert torch.equal(value_hollow, value) and torch.equal(gradient_hollow, gradient)
    assert (gradient_hollow[~MASK] == 0).all()
    value_wide, gradient_wide = with_gradient(LOSSES[name], *(widened(a, NAN) for a in (x, y, z)), widened(MASK, False), COUNT)
    torch.testing.assert_close(value_wide, value, rtol=1e-13, atol=0)
    torch.testing.assert_close(gradient_wide[:, :T], gradient, rtol=1e-13, atol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_do_not_care_about_order_and_slices(name):
    x, y, z = tensors()
    value, gradient = with_gradient(LOSSES[name], x, y, z, MASK, COUNT)
    rows = torch.tensor([3, 1, 4, 0, 2])
    parts = [with_gradient(LOSSES[name], x[i], y[i], z[i], MASK[i], COUNT) for i in rows.split(2)]
    torch.testing.assert_close(sum(v for v, _ in parts), value, rtol=1e-13, atol=0)
    torch.testing.assert_close(torch.cat([g for _, g in parts]), gradient[rows], rtol=1e-13, atol=0)
    half, _ = with_gradient(LOSSES[name], x, y, z, MASK, 2 * COUNT)
    torch.testing.assert_close(half, value / 2, rtol=1e-13, atol=0)


@pytest.mark.parametrize("name", WHOLE)
def test_transforms_never_read_padding(name):
    x, y, z = tensors()
    value, gradient = with_gradient(WHOLE[name], x, y, z, MASK)
    value_hollow, gradient_hollow = with_gradient(WHOLE[name], *(a.masked_fill(~MASK, NAN) for a in (x, y, z)), MASK)
    assert torch.equal(value_hollow, value) and torch.equal(gradient_hollow, gradient)
    assert value.isfinite().all() and (value.ndim == 0 or (value[~MASK] == 0).all())
    value_wide = WHOLE[name](*(widened(a, NAN) for a in (x, y, z)), widened(MASK, False))
    torch.testing.assert_close(value_wide[:, :T] if value.ndim else value_wide, value, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("function", [whiten, rescale, lambda x, m: gae(x, 2 * x, m, 0.97, 0.9, torch.zeros(B))[0]])
def test_transforms_follow_the_order_of_rows(function):
    x, rows = tensors()[0], torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(function(x[rows], MASK[rows]), function(x, MASK)[rows], rtol=1e-12, atol=1e-14)


def test_token_rewards_never_read_padding():
    _, divergence, _ = tensors()
    score = torch.arange(B, dtype=torch.float64)
    rewards = token_rewards(score, divergence, MASK, 0.5)
    assert torch.equal(token_rewards(score, divergence.masked_fill(~MASK, NAN), MASK, 0.5), rewards)
    wide = token_rewards(score, widened(divergence, NAN), widened(MASK, False), 0.5)
    assert torch.equal(wide[:, :T], rewards) and (wide[:, T:] == 0).all()
