"""Masked statistics.  The count is always explicit, because the denominator of a loss is a decision."""

import torch
from torch import Tensor


def masked_sum(x: Tensor, mask: Tensor) -> Tensor:
    """Sum of x over real tokens, a scalar."""
    return torch.where(mask, x, 0).sum()


def response_sum(x: Tensor, mask: Tensor) -> Tensor:
    """Sum of x over each response's tokens.

    Args:
        x: [B, T], any unit.
        mask: [B, T] bool.

    Returns:
        [B] in the unit of x.
    """
    return torch.where(mask, x, 0).sum(1)


def masked_mean(x: Tensor, mask: Tensor, count: Tensor | int | None = None) -> Tensor:
    """Sum of x over real tokens, divided by `count` (default: how many they are; 0 where there are none).

    Args:
        x: [B, T], any unit.
        mask: [B, T] bool.
        count: tokens in the whole global minibatch, of which this may be a slice.

    Returns:
        A scalar in the unit of x.
    """
    return masked_sum(x, mask) / (mask.sum().clamp(min=1) if count is None else count)


def _moments(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, distance from it (zero under the mask) and variance."""
    mean = masked_mean(x, mask)
    mean = mean + masked_mean(x - mean, mask)  # what rounding took: without it equal tokens of 1000.7 whiten to 0.5
    centred = torch.where(mask, x - mean, 0)
    return mean, centred, masked_mean(centred**2, mask)


def mean_and_std(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """m and s over real tokens, with the population's standard deviation; 0 and 0 where there are none.

    Args:
        x: [B, T], any unit.
        mask: [B, T] bool.

    Returns:
        Two scalars in the unit of x.
    """
    mean, _, variance = _moments(x, mask)
    return mean, variance.sqrt()


def whiten(x: Tensor, mask: Tensor, floor: float = 1e-8) -> Tensor:
    """(x - m) / s over real tokens, with the population's standard deviation; zero under the mask.

    A single token, or tokens that are all equal, become 0.

    Args:
        x: [B, T], any unit.
        mask: [B, T] bool.
        floor: added to the variance, in the squared unit of x.

    Returns:
        [B, T] without unit, of mean 0 and variance 1.
    """
    _, centred, variance = _moments(x, mask)
    return centred * torch.rsqrt(variance + floor)


def rescale(x: Tensor, mask: Tensor, floor: float = 1e-8) -> Tensor:
    """(x - m) / s + m over real tokens: unit variance and the mean kept, as for rewards; zero under the mask.

    Huang, Liu and von Werra 2023, "The N Implementation Details of RLHF with PPO": whitening with optional mean
    shifting.  A single token, or tokens that are all equal, stay as they are.

    Args:
        x: [B, T], any unit.
        mask: [B, T] bool.
        floor: added to the variance, in the squared unit of x.

    Returns:
        [B, T].
    """
    mean, centred, variance = _moments(x, mask)
    return torch.where(mask, centred * torch.rsqrt(variance + floor) + mean, 0)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - Var[R - V] / Var[R]: 1 is perfect, 0 is no better than a constant, below 0 is worse than one.

    Args:
        values: [B, T] reward.
        returns: [B, T] reward.
        mask: [B, T] bool.

    Returns:
        A scalar; 0 where the returns do not vary.
    """
    residual = _moments(returns - values, mask)[-1]
    total = _moments(returns, mask)[-1]
    return torch.where(total > 0, 1 - residual / total.clamp(min=torch.finfo(total.dtype).tiny), torch.zeros_like(total))
