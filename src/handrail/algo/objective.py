"""What a policy minimises.  Each loss is a sum over real tokens divided by a given count."""

import torch
from torch import Tensor

from handrail.algo.kl import kl_k3
from handrail.algo.stats import masked_mean


def reinforce_loss(logp: Tensor, advantage: Tensor, mask: Tensor, count: Tensor | int) -> Tensor:
    """-A_t log pi(y_t).  Williams 1992.

    Its gradient is the policy gradient; its value means nothing.

    Args:
        logp: [B, T] nats, under the policy that sampled and is trained.
        advantage: [B, T] any scale.
        mask: [B, T] bool.
        count: tokens in the whole global minibatch.

    Returns:
        A scalar.
    """
    return -masked_mean(torch.where(mask, advantage, 0) * torch.where(mask, logp, 0), mask, count)


def importance_loss(logp: Tensor, logp_old: Tensor, advantage: Tensor, mask: Tensor, count: Tensor | int) -> Tensor:
    """-w A_t log pi(y_t)  with  w = pi(y) / pi_old(y) of the whole response, a number.  Precup et al. 2000.

    Off-policy and exact: in the mean over pi_old its gradient is `reinforce_loss`'s in the mean over pi, wherever pi_old
    gives a response of pi some mass.  The price is variance: w is a product over all tokens.

    Args:
        logp: [B, T] nats, under the policy that is trained; the only argument with a gradient.
        logp_old: [B, T] nats, under the policy that sampled.
        advantage: [B, T] any scale.
        mask: [B, T] bool.
        count: tokens in the whole global minibatch.

    Returns:
        A scalar.
    """
    ratio = torch.where(mask, logp.detach() - logp_old, 0).sum(1, keepdim=True).exp()
    return reinforce_loss(logp, ratio * torch.where(mask, advantage, 0), mask, count)


def ppo_penalty_loss(logp: Tensor, logp_old: Tensor, advantage: Tensor, mask: Tensor, count: Tensor | int, beta: float) -> Tensor:
    """-rho A_t + beta KL(pi_old || pi)  with  rho = pi / pi_old.  Schulman et al. 2017, eq. 8.

    The divergence is estimated by `kl_k3` of the old policy against the new: as the tokens are the old policy's, its mean
    and its mean gradient are the divergence's.

    Args:
        logp: [B, T] nats, under the policy that is trained; the only argument with a gradient.
        logp_old: [B, T] nats, under the policy that sampled.
        advantage: [B, T] any scale.
        mask: [B, T] bool.
        count: tokens in the whole global minibatch.
        beta: advantage per nat.

    Returns:
        A scalar.
    """
    log_ratio = _log_ratio(logp, logp_old, mask)
    penalty = kl_k3(torch.zeros_like(log_ratio), log_ratio)
    return masked_mean(beta * penalty - log_ratio.exp() * torch.where(mask, advantage, 0), mask, count)


def ppo_clip_loss(
    logp: Tensor, logp_old: Tensor, advantage: Tensor, mask: Tensor, count: Tensor | int, clip_low: float, clip_high: float
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
    log_ratio = _log_ratio(logp, logp_old, mask)
    return _clipped(log_ratio, log_ratio.exp(), advantage, mask, count, clip_low, clip_high)


def gspo_loss(
    logp: Tensor, logp_old: Tensor, advantage: Tensor, mask: Tensor, count: Tensor | int, clip_low: float, clip_high: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """-min(s A_t, clip(s, 1 - clip_low, 1 + clip_high) A_t)  with  s = (pi(y) / pi_old(y))^(1/|y|).  GSPO: Zheng et al. 2025, eqs. 5 to 7.

    One ratio for the whole response, the geometric mean of its tokens'.  The paper gives every response the same weight:
    divide each by its length.  As a number s is the same on all tokens; its gradient on token t is s grad log pi(y_t)
    (GSPO-token, section 4.3).  Where all tokens have one advantage that is the gradient of s itself; where they differ,
    the gradient of s would give every token the mean advantage of its response.

    Args:
        logp: [B, T] nats, under the policy that is trained; the only argument with a gradient.
        logp_old: [B, T] nats, under the policy that sampled.
        advantage: [B, T] any scale; of one response all the same, or each token's own.
        mask: [B, T] bool.
        count: tokens in the whole global minibatch.
        clip_low, clip_high: how far s may fall below and rise above 1; a hundredth of what suits a token's ratio.

    Returns:
        The loss, and `approx_kl` and `clip_fraction` as `ppo_clip_loss` has them.
    """
    log_ratio = _log_ratio(logp, logp_old, mask)
    mean = log_ratio.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
    ratio = (mean.detach() + (log_ratio - log_ratio.detach())).exp()  # s, with the gradient of each token's own ratio
    return _clipped(log_ratio, ratio, advantage, mask, count, clip_low, clip_high)


def _log_ratio(logp: Tensor, logp_old: Tensor, mask: Tensor) -> Tensor:
    """[B, T] log rho, zero under the mask."""
    return torch.where(mask, logp - logp_old, 0)


def _clipped(
    log_ratio: Tensor, ratio: Tensor, advantage: Tensor, mask: Tensor, count: Tensor | int, clip_low: float, clip_high: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """-min(rho A, clip(rho) A) for the `ratio` given, and the statistics."""
    advantage = torch.where(mask, advantage, 0)
    plain, bounded = ratio * advantage, ratio.clamp(1 - clip_low, 1 + clip_high) * advantage
    loss = masked_mean(-torch.minimum(plain, bounded), mask, count)
    with torch.no_grad():
        return loss, {
            "approx_kl": masked_mean(kl_k3(torch.zeros_like(log_ratio), log_ratio), mask, count),
            "clip_fraction": masked_mean((bounded < plain).to(ratio.dtype), mask, count),
        }


def response_weight(lengths: Tensor) -> Tensor:
    """n / B for every response, n all tokens: a sum over tokens divided by n becomes one divided by the number of responses.

    So weighted, the gradient of `reinforce_loss` estimates that of E[R] itself, and not that over the mean length.

    Args:
        lengths: [B] int, tokens of each response of the whole global minibatch.

    Returns:
        [B], without unit.
    """
    return (lengths.sum() / len(lengths)).expand(len(lengths))


def length_weight(lengths: Tensor) -> Tensor:
    """n / (B |y_i|): the mean over responses of each one's mean over its tokens.  GRPO: Shao et al. 2024, eq. 3.

    A token of a long response weighs less than one of a short response, so that long failures are cheap.  Liu et al.
    2025, section 3.1, leave the division by |y_i| out: `response_weight`.

    Args:
        lengths: [B] int, tokens of each response of the whole global minibatch, at least 1.

    Returns:
        [B], without unit.
    """
    return lengths.sum() / (len(lengths) * lengths)


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
