"""What a reward model minimises."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def bradley_terry_loss(chosen: Tensor, rejected: Tensor, margin: Tensor, weight: Tensor) -> Tensor:
    """-log sigmoid(r_chosen - r_rejected - margin), the weighted sum over pairs divided by the sum of weights.

    Bradley and Terry 1952; the margin as in Touvron et al. 2023 (Llama 2), eq. 2.

    Args:
        chosen, rejected: [N] reward, with gradient.
        margin: [N] reward, not negative; how clearly the chosen one is better.
        weight: [N] not negative.

    Returns:
        A scalar in nats a pair.
    """
    return -(weight * logsigmoid(chosen - rejected - margin)).sum() / weight.sum()


def ranking_loss(scores: Tensor, places: Tensor, mask: Tensor, margin: Tensor, weight: Tensor, count: Tensor | float) -> Tensor:
    """Every pair of a ranking by Bradley-Terry, in one pass, each weighted 1 / C(K, 2).  Ouyang et al. 2022, eq. 1.

    A tie is half a win for each side: -1/2 log sigmoid(d) - 1/2 log sigmoid(-d), least at d = 0.  For K = 2 without
    a tie this is `bradley_terry_loss`.

    Args:
        scores: [N, K] reward, with gradient.
        places: [N, K] int, 1 is the best; equal places are ties.
        mask: [N, K] bool, True where there is a response.
        margin: [N] reward, for the pairs that are not tied.
        weight: [N] not negative.
        count: sum of weights in the whole global minibatch.

    Returns:
        A scalar in nats a pair.
    """
    k = scores.shape[1]
    first, second = torch.triu_indices(k, k, 1, device=scores.device)
    both = mask[:, first] & mask[:, second]
    better = torch.sign(places[:, second] - places[:, first])  # 1: first is better, -1: second, 0: a tie
    difference = torch.where(both, scores[:, first] - scores[:, second], 0)
    decided = -logsigmoid(better * difference - margin[:, None])
    tied = -0.5 * (logsigmoid(difference) + logsigmoid(-difference))
    pair = torch.where(both, torch.where(better == 0, tied, decided), 0)
    return (weight * pair.sum(1) / both.sum(1).clamp(min=1)).sum() / count


def centring_loss(scores: Tensor, mask: Tensor, count: Tensor | float) -> Tensor:
    """(mean_k r_k)^2 of each ranking: pins the constant that comparisons leave free.  Eisenstein et al. 2023, eq. 2.

    Args:
        scores: [N, K] reward, with gradient.
        mask: [N, K] bool.
        count: rankings in the whole global minibatch.

    Returns:
        A scalar, reward squared.
    """
    mean = torch.where(mask, scores, 0).sum(1) / mask.sum(1).clamp(min=1)
    return (mean**2).sum() / count
