"""From scores to rewards for each token, and from rewards to advantages."""

import torch
from torch import Tensor


def token_rewards(score: Tensor, kl: Tensor, mask: Tensor, beta: float) -> Tensor:
    """r_t = -beta KL_t, and + score on the last real token.  Ziegler et al. 2019, eq. 2; Ouyang et al. 2022, eq. 2.

    Carries no gradient: the divergence acts as a reward, not as a loss.

    Args:
        score: [B] reward of the whole response.
        kl: [B, T] nats, k1 of the policy that sampled.
        mask: [B, T] bool.
        beta: reward per nat.

    Returns:
        [B, T] reward, zero under the mask.

    Raises:
        ValueError: a row has no real token, so that there is no place for its score.
    """
    lengths = mask.sum(1)
    if (lengths == 0).any():
        raise ValueError(f"row {int((lengths == 0).nonzero()[0])} has no token to carry its score")
    rewards = torch.where(mask, -beta * kl.detach(), 0)
    rows = torch.arange(len(score), device=score.device)
    return rewards.index_put((rows, lengths - 1), score.detach().to(rewards.dtype), accumulate=True)


def _last(mask: Tensor) -> Tensor:
    """[B, T] bool: each response's last real token."""
    return torch.arange(mask.shape[1], device=mask.device) == mask.sum(1, keepdim=True) - 1


def reward_to_go(rewards: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """G_t = sum_{k >= 0} gamma^k r_{t+k}.  Williams 1992; Sutton et al. 2000.

    What came before a token was known before it was drawn, so that it is left out of the token's credit.

    Args:
        rewards: [B, T] reward.
        mask: [B, T] bool.
        gamma: discount per token.

    Returns:
        [B, T] reward, zero under the mask.
    """
    rewards = torch.where(mask, rewards, 0)
    returns, carry = torch.zeros_like(rewards), torch.zeros_like(rewards[:, 0])
    for t in reversed(range(mask.shape[1])):
        carry = torch.where(mask[:, t], rewards[:, t] + gamma * carry, 0)
        returns[:, t] = carry
    return returns


def whole_return(rewards: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """R(tau) = sum_t gamma^t r_t, t from 0, on every token of the response: plain REINFORCE.  Williams 1992.

    Args:
        rewards: [B, T] reward.
        mask: [B, T] bool.
        gamma: discount per token.

    Returns:
        [B, T] reward, zero under the mask.
    """
    discount = gamma ** torch.arange(mask.shape[1], device=rewards.device, dtype=rewards.dtype)
    total = (torch.where(mask, rewards, 0) * discount).sum(1, keepdim=True)
    return torch.where(mask, total, 0)


def carry_over(rewards: Tensor, mask: Tensor, gamma: float, following: Tensor) -> Tensor:
    """The last token of a turn also earns gamma G_0 of the turn that follows it: what the rest of the conversation brings.

    With it `reward_to_go` of a turn is that of the whole conversation from there on, what the partner says in between
    taking no time.

    Args:
        rewards: [B, T] reward, a turn a row.
        mask: [B, T] bool, at least one token in each row.
        gamma: discount per token.
        following: [B] int64, the row of the next turn of the same conversation, -1 after the last.

    Returns:
        [B, T] reward, zero under the mask.
    """
    rewards = torch.where(mask, rewards, 0)
    last = _last(mask)
    chained = rewards
    for _ in range(len(rewards)):  # each pass reaches one turn further back
        ahead = reward_to_go(chained, mask, gamma)[:, 0]
        after = torch.where(following >= 0, gamma * ahead[following.clamp(min=0)], 0)
        reached = torch.where(last, rewards + after[:, None], rewards)
        if torch.equal(reached, chained):
            break
        chained = reached
    return chained


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float, bootstrap: Tensor) -> tuple[Tensor, Tensor]:
    """A_t = sum_l (gamma lam)^l delta_{t+l}  with  delta_t = r_t + gamma V_{t+1} - V_t.  Schulman et al. 2016, eq. 16.

    lam = 1 gives the discounted return minus V, lam = 0 the one-step error.

    Args:
        rewards: [B, T] reward.
        values: [B, T] reward; V_t is the critic's at the state before token t.
        mask: [B, T] bool.
        gamma: discount per token.
        lam: decay per token.
        bootstrap: [B] reward; V after the last token, and 0 where the response ended by itself.

    Returns:
        advantage [B, T] and returns = advantage + values [B, T], both zero under the mask.
    """
    rewards, values = torch.where(mask, rewards, 0), torch.where(mask, values, 0)
    last = _last(mask)
    after = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], 1)
    delta = rewards + gamma * torch.where(last, bootstrap[:, None], after) - values
    advantage, carry = torch.zeros_like(values), torch.zeros_like(values[:, 0])
    for t in reversed(range(mask.shape[1])):
        carry = torch.where(mask[:, t], delta[:, t] + gamma * lam * carry, 0)
        advantage[:, t] = carry
    return advantage, advantage + values


def gae_over_turns(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float, bootstrap: Tensor, following: Tensor
) -> tuple[Tensor, Tensor]:
    """`gae` of a whole conversation: for the last token of a turn, V_{t+1} and A_{t+1} are those of the next turn's first.

    What the partner says in between takes no time: V of the next turn is asked after it.  Without turns that follow it is
    `gae`.

    Args:
        rewards: [B, T] reward, a turn a row.
        values: [B, T] reward; V_t is the critic's at the state before token t.
        mask: [B, T] bool, at least one token in each row.
        gamma: discount per token.
        lam: decay per token.
        bootstrap: [B] reward; V after the last token where no turn follows, and 0 where the response ended by itself.
        following: [B] int64, the row of the next turn of the same conversation, -1 after the last.

    Returns:
        advantage [B, T] and returns = advantage + values [B, T], both zero under the mask.
    """
    follows, after, last = following >= 0, following.clamp(min=0), _last(mask)
    bootstrap = torch.where(follows, values[after, 0], bootstrap)
    carry = torch.zeros_like(bootstrap)
    found = gae(rewards, values, mask, gamma, lam, bootstrap)
    for _ in range(len(rewards)):  # each pass reaches one turn further back
        reached = torch.where(follows, gamma * lam * found[0][after, 0], 0)
        if torch.equal(reached, carry):
            break
        carry = reached
        found = gae(torch.where(last, rewards + carry[:, None], rewards), values, mask, gamma, lam, bootstrap)
    return found
