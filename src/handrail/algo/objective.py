"""What a policy minimises.  Each loss is a sum over real tokens divided by a given count."""

import torch
from torch import Tensor

from handrail.algo.stats import masked_mean


def ppo_clip_loss(
    logp: Tensor,
    logp_old: Tensor,
    advantage: Tensor,
    mask: Tensor,
    count: Tensor | int,
    clip_low: float,
    clip_high: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """-min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A)  with  rho = pi / pi_old.  Schulman et al. 2017, eq. 7.

    The gradient of a token vanishes where A > 0 and rho > 1 + clip_high, or A < 0 and rho < 1 - clip_low.
    With A < 0 it is the lower bound that acts.

    Args:
        logp: [B, T] nats, under the policy that is trained; the only argument with a gradient.
        logp_old: [B, T] nats, under the policy that sampled.
        advantage: [B, T] any scale.
        mask: [B, T] bool.
        count: tokens in the whole global minibatch.
        clip_low, clip_high: how far rho may fall below and rise above 1.

    Returns:
        The loss, and sums divided by `count`: `approx_kl` (nats a token, k3 of the old policy against the new) and
        `clip_fraction` (share of tokens whose gradient is zero because of the clip).
    """
    log_ratio = torch.where(mask, logp - logp_old, 0)
    advantage = torch.where(mask, advantage, 0)
    ratio = log_ratio.exp()
    plain, bounded = ratio * advantage, ratio.clamp(1 - clip_low, 1 + clip_high) * advantage
    loss = masked_mean(-torch.minimum(plain, bounded), mask, count)
    with torch.no_grad():
        return loss, {
            "approx_kl": masked_mean(torch.expm1(log_ratio) - log_ratio, mask, count),
            "clip_fraction": masked_mean((bounded < plain).to(ratio.dtype), mask, count),
        }


def entropy_bonus(entropy: Tensor, mask: Tensor, count: Tensor | int) -> Tensor:
    """Mean entropy H[pi(. | s_t)] over real tokens, in nats: subtract it, times a coefficient, from the loss.

    Args:
        entropy: [B, T] nats, of the full distribution at each position.
        mask: [B, T] bool.
        count: tokens in the whole global minibatch.

    Returns:
        A scalar in nats a token.
    """
    return masked_mean(entropy, mask, count)
