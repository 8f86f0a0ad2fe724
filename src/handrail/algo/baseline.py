"""Baselines that need no critic: what the other responses of a batch earned.

B responses; those that answer the same prompt carry the same number in `group`.
"""

import torch
from torch import Tensor


def _sums(x: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """[B] the sum of x over each response's group, and [B] how many stand in it."""
    _, member = group.unique(return_inverse=True)
    sums = torch.zeros_like(x).index_add(0, member, x)[member]
    return sums, torch.zeros_like(x).index_add(0, member, torch.ones_like(x))[member]


def leave_one_out(score: Tensor, group: Tensor) -> Tensor:
    """b_i = 1/(K-1) sum_{j != i} R_j over the responses to one prompt.  RLOO: Kool et al. 2019; Ahmadian et al. 2024.

    It does not depend on the response itself, so that subtracting it leaves the expected gradient as it is.

    Args:
        score: [B] reward of each response.
        group: [B] int, the number of its prompt.

    Returns:
        [B] reward.

    Raises:
        ValueError: a response is the only one to its prompt.
    """
    sums, size = _sums(score, group)
    if (size < 2).any():
        raise ValueError(f"response {int((size < 2).nonzero()[0])} is the only one to its prompt: there are no others to average")
    return (sums - score) / (size - 1)


def group_mean(score: Tensor, group: Tensor) -> Tensor:
    """m_i = 1/K sum_j R_j over the responses to one prompt, the response itself among them.  Dr. GRPO: Liu et al. 2025.

    R_i - m_i is (K-1)/K of what `leave_one_out` leaves: the same direction, a little shorter.

    Args:
        score: [B] reward of each response.
        group: [B] int, the number of its prompt.

    Returns:
        [B] reward.
    """
    sums, size = _sums(score, group)
    return sums / size


def group_std(score: Tensor, group: Tensor) -> Tensor:
    """s_i: the standard deviation of R over the responses to one prompt.  GRPO divides by it: Shao et al. 2024, section 4.1.2.

    The population's, with 1/K.  Dividing by it weighs prompts by how much their responses agree, so that what is
    maximised is no longer E[R]: see docs/theory.md.

    Args:
        score: [B] reward of each response.
        group: [B] int, the number of its prompt.

    Returns:
        [B] reward; 0 where all responses to a prompt earned the same.
    """
    centred = score - group_mean(score, group)
    sums, size = _sums(centred**2, group)
    return (sums / size).sqrt()
