"""What a reward model minimises."""

from functools import lru_cache
from itertools import combinations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def bradley_terry_loss(difference: Tensor, smoothing: Tensor | float = 0.0) -> Tensor:
    """-(1 - eps) log sigmoid(x) - eps log sigmoid(-x)  with  x = r_better - r_worse - margin, elementwise.

    Bradley and Terry 1952; the margin as in Touvron et al. 2023 (Llama 2), eq. 2; eps, the probability that the
    labeller erred, as in Mitchell 2023.  With eps > 0 it is least at the finite x = log((1 - eps) / eps).

    Args:
        difference: any shape, reward; x above, with gradient.
        smoothing: of a shape that broadcasts, from 0 to 1/2; 1/2 is a tie, half a win for each side, least at x = 0.

    Returns:
        The shape of `difference`, in nats.
    """
    return -(1 - smoothing) * logsigmoid(difference) - smoothing * logsigmoid(-difference)


def ranking_loss(
    scores: Tensor, places: Tensor, mask: Tensor, margin: Tensor, weight: Tensor, count: Tensor | float, smoothing: float = 0.0
) -> Tensor:
    """Every pair of a ranking by Bradley-Terry, in one pass, each weighted 1 / C(K, 2).  Ouyang et al. 2022, eq. 1.

    A tie is half a win for each side: `bradley_terry_loss` with eps = 1/2 and no margin.

    Args:
        scores: [N, K] reward, with gradient.
        places: [N, K] int, 1 is the best; equal places are ties.
        mask: [N, K] bool, True where there is a response.
        margin: [N] reward, for the pairs that are not tied.
        weight: [N] not negative.
        count: sum of weights in the whole global minibatch.
        smoothing: probability that the labeller erred in a pair that is not tied.

    Returns:
        A scalar in nats a pair.
    """
    k = scores.shape[1]
    first, second = torch.triu_indices(k, k, 1, device=scores.device)
    both = mask[:, first] & mask[:, second]
    better = torch.sign(places[:, second] - places[:, first])  # 1: first is better, -1: second, 0: a tie
    difference = torch.where(both, scores[:, first] - scores[:, second], 0)
    decided = bradley_terry_loss(better * difference - margin[:, None], smoothing)
    tied = bradley_terry_loss(difference, 0.5)
    pair = torch.where(both, torch.where(better == 0, tied, decided), 0)
    return (weight * pair.sum(1) / both.sum(1).clamp(min=1)).sum() / count


def plackett_luce_loss(scores: Tensor, places: Tensor, mask: Tensor, margin: Tensor, weight: Tensor, count: Tensor | float) -> Tensor:
    """-log prod_t exp(r_t) / (exp(r_t) + sum_{j worse} exp(r_j + margin)): the best is chosen, then the best of the rest.

    Plackett 1975; as a loss Xia et al. 2008 (ListMLE).  A tie is each of the orders that break it, in equal
    shares: their mean loss (-log of the geometric mean of their probabilities), so that tied responses are drawn
    together.  Allison and Christakis 1994 take the same orders but the mean of their probabilities, by which a tie
    of all K would say nothing.  For K = 2 this is `ranking_loss`, ties included.  A tie of n takes 2^n sums.

    Args:
        scores: [N, K] reward, with gradient.
        places: [N, K] int, 1 is the best; equal places are ties.
        mask: [N, K] bool, True where there is a response.
        margin: [N] reward, by which the chosen should lead those in worse places.
        weight: [N] not negative.
        count: sum of weights in the whole global minibatch.

    Returns:
        A scalar in nats a ranking.
    """
    present = torch.where(mask, places, 0).tolist()
    found = [(row, *stage) for row, order in enumerate(present) for stage in _stages(tuple(order))]
    rows = torch.tensor([row for row, *_ in found], dtype=torch.int64, device=scores.device)
    share = torch.tensor([share for _, share, *_ in found], dtype=scores.dtype, device=scores.device)
    left, worse = (torch.tensor([stage[i] for stage in found], device=scores.device).view(-1, scores.shape[1]) for i in (2, 3))
    asked = torch.where(left | worse, scores[rows] + margin[rows, None] * worse, -torch.inf)
    choices = (weight[rows] * share * asked.logsumexp(1)).sum()
    return (choices - (weight * torch.where(mask, scores, 0).sum(1)).sum()) / count


@lru_cache(4096)
def _stages(places: tuple[int, ...]) -> list[tuple[float, list[bool], list[bool]]]:
    """What there is to choose from on the way down a ranking: the tied that are left, and those in worse places.

    Each with the share of the orders that break the ties in which it comes about.  Place 0 is no response.
    """
    stages: list[tuple[float, list[bool], list[bool]]] = []
    for place in sorted(set(places) - {0}):
        tied = [k for k, p in enumerate(places) if p == place]
        worse = [p > place for p in places]
        for size in range(1, len(tied) + 1):
            left = [[k in some for k in range(len(places))] for some in combinations(tied, size)]
            stages += [(1 / len(left), some, worse) for some in left]
    return stages


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
