"""Estimates of the Kullback-Leibler divergence, in nats.  Schulman 2020, "Approximating KL divergence"."""

import torch
from torch import Tensor


def kl_k1(logp: Tensor, logp_ref: Tensor) -> Tensor:
    """k1 = log pi(y_t) - log pi_ref(y_t).

    Unbiased for KL(pi || pi_ref) under y ~ pi, and negative on single tokens.  As a loss its expected gradient
    is zero, because E[grad log pi] = 0: use it in the reward, never as a loss.

    Args:
        logp: [B, T] nats, under the policy that sampled.
        logp_ref: [B, T] nats, under the reference.

    Returns:
        [B, T] nats.
    """
    return logp - logp_ref


def kl_k2(logp: Tensor, logp_ref: Tensor) -> Tensor:
    """k2 = 1/2 (log pi(y) - log pi_ref(y))^2.

    Not the divergence in the mean, though near it for near laws.  As a loss on the log-probabilities of whole responses
    its expected gradient is exactly that of KL(pi || pi_ref): E[log(pi / pi_ref) grad log pi].

    Args:
        logp: any shape, nats, under the policy that sampled.
        logp_ref: the same, under the reference.

    Returns:
        The same shape, nats squared halved.
    """
    return (logp - logp_ref) ** 2 / 2


def kl_k3(logp: Tensor, logp_ref: Tensor) -> Tensor:
    """k3 = (r - 1) - log r  with  r = pi_ref(y_t) / pi(y_t).

    Unbiased for KL(pi || pi_ref) under y ~ pi, never negative, and of less variance than k1 near pi_ref.  As a loss
    its expected gradient is that of the forward divergence KL(pi_ref || pi) (per token, given the prefix).  In a
    loss both arguments must be finite under the mask too: zero times the gradient at a NaN is NaN.

    Args:
        logp: [B, T] nats, under the policy.
        logp_ref: [B, T] nats, under the reference.

    Returns:
        [B, T] nats.
    """
    log_ratio = logp_ref - logp
    return torch.expm1(log_ratio) - log_ratio


def kl_full(logits: Tensor, logits_ref: Tensor) -> Tensor:
    """KL(pi || pi_ref) = sum_v pi(v) (log pi(v) - log pi_ref(v)), exact for each position.

    Args:
        logits: [B, T, V] of the policy.
        logits_ref: [B, T, V] of the reference.

    Returns:
        [B, T] nats.
    """
    logp, logp_ref = logits.log_softmax(-1), logits_ref.log_softmax(-1)
    return (logp.exp() * (logp - logp_ref)).sum(-1)
