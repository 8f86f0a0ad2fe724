"""What a critic minimises."""

import torch
from torch import Tensor

from handrail.algo.stats import masked_mean


def value_loss(values: Tensor, returns: Tensor, mask: Tensor, count: Tensor | int) -> Tensor:
    """1/2 (V - R)^2, the mean over real tokens.

    Args:
        values: [B, T] reward, with gradient.
        returns: [B, T] reward.
        mask: [B, T] bool.
        count: tokens in the whole global minibatch.

    Returns:
        A scalar, reward squared.
    """
    error = torch.where(mask, values - returns, 0)
    return 0.5 * masked_mean(error**2, mask, count)


def clipped_value_loss(values: Tensor, values_old: Tensor, returns: Tensor, mask: Tensor, count: Tensor | int, clip: float) -> Tensor:
    """1/2 max((V - R)^2, (V_old + clip(V - V_old, -clip, clip) - R)^2).  Huang et al. 2022, detail 9.

    Args:
        values: [B, T] reward, with gradient.
        values_old: [B, T] reward, the critic's when the responses were sampled.
        returns: [B, T] reward.
        mask: [B, T] bool.
        count: tokens in the whole global minibatch.
        clip: how far V may move for its gradient to count, in reward.

    Returns:
        A scalar, reward squared.
    """
    values, values_old, returns = (torch.where(mask, x, 0) for x in (values, values_old, returns))
    near = values_old + (values - values_old).clamp(-clip, clip)
    return 0.5 * masked_mean(torch.maximum((values - returns) ** 2, (near - returns) ** 2), mask, count)
