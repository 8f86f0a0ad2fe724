"""Weighted regression on sampled responses: how much each of them is imitated, and the loss that imitates it.

A weight is said of a whole response, [B].  `group` is the number of the prompt that a response answers, [B] int64: any
numbers, in any order.
"""

import math

import torch
from torch import Tensor

from handrail.algo.stats import masked_mean


def best_of_n_weights(score: Tensor, group: Tensor) -> Tensor:
    """w = 1 for the response of highest score in its group, 0 for the others.  Stiennon et al. 2020, appendix G.3.

    Those that tie for the best share the 1: on average that is drawing one of them.

    Args:
        score: [B] reward of the whole response.
        group: [B] number of its prompt.

    Returns:
        [B] without unit; they sum to 1 in each group.
    """
    _, group = group.unique(return_inverse=True)
    won = (score == group_best(score, group)).to(score.dtype)
    return won / torch.zeros_like(score).index_add(0, group, won)[group]


def group_best(score: Tensor, group: Tensor) -> Tensor:
    """m_i = max_j r_j over the responses to one prompt, the response itself among them.

    Args:
        score: [B] reward of the whole response.
        group: [B] number of its prompt.

    Returns:
        [B] reward.
    """
    numbers, group = group.unique(return_inverse=True)
    return score.new_full(numbers.shape, -math.inf).scatter_reduce(0, group, score, "amax")[group]


def reward_weights(score: Tensor, beta: float) -> Tensor:
    """w_i = exp(r_i / beta) / sum_j exp(r_j / beta), j over the whole batch.  Peters and Schaal 2007, the E-step.

    The sum runs over all responses, not over those to one prompt: one response hardly moves it, so the expected loss is
    least at pi_old exp(r / beta) however few responses a prompt has.  But a prompt on which all score high weighs more
    than another.

    Args:
        score: [B] reward of the whole response.
        beta: reward that multiplies a weight by e.

    Returns:
        [B] without unit; they sum to 1.
    """
    return (score / beta).softmax(0)


def advantage_weights(score: Tensor, baseline: Tensor, beta: float, limit: float) -> Tensor:
    """w = min(exp((r - b) / beta), limit).  Peng et al. 2019, algorithm 1, with their cut of large weights.

    The baseline evens out prompts: one whose responses all score high weighs no more than another.

    Args:
        score: [B] reward of the whole response.
        baseline: [B] reward; what the sampler gets on this prompt.
        beta: reward that multiplies a weight by e.
        limit: the largest weight.

    Returns:
        [B] without unit.
    """
    return ((score - baseline) / beta).exp().clamp(max=limit)


def weighted_nll(logp: Tensor, weight: Tensor, mask: Tensor, count: Tensor | int) -> Tensor:
    """-sum_i w_i sum_t log pi(y_it) / count: supervised fine-tuning on weighted responses.

    Args:
        logp: [B, T] nats, under the policy that is trained; the only argument with a gradient.
        weight: [B] not negative, of each response.
        mask: [B, T] bool.
        count: weighted tokens, sum of w_i times its length, in the whole global minibatch.

    Returns:
        A scalar in nats a weighted token.
    """
    return -masked_mean(weight[:, None] * logp, mask, count)


def best_of_n_kl(n: int) -> float:
    """KL(best of n || sampler) <= log n - (n - 1) / n.  Stiennon et al. 2020, appendix G.3; Beirami et al. 2024, theorem 3.1.

    An upper bound, and exact where n responses never tie, that is, none is drawn twice and none scores like another.  The
    best of n among responses that are themselves the best of m is the best of n m.

    Args:
        n: responses to each prompt.

    Returns:
        Nats a response.
    """
    return math.log(n) - (n - 1) / n


def best_of_n_mean(order_by: Tensor, value: Tensor, n: int) -> Tensor:
    """E[value of the best of n] = sum_i value_(i) C(i - 1, n - 1) / C(N, n), sorted by `order_by`.  Stiennon et al. 2020, appendix G.3.

    Exact over all ways of drawing n of the N samples, so that each sample is used for every n.

    Args:
        order_by: [P, N] what the best is chosen by, such as a reward model's score.
        value: [P, N] what is asked of the one that is chosen.
        n: from 1 to N.

    Returns:
        [P] in the unit of `value`.

    Raises:
        ValueError: n is not within 1 and N.
    """
    count = order_by.shape[1]
    if not 1 <= n <= count:
        raise ValueError(f"the best of {n} from {count} samples: n is between 1 and {count}")
    weight = torch.tensor([math.comb(i, n - 1) / math.comb(count, n) for i in range(count)], dtype=value.dtype, device=value.device)
    return (value.gather(1, order_by.argsort(1)) * weight).sum(1)
