"""How much there is to learn from the people's word on a group of responses, by what an ensemble makes of them.

[..., K, M]: K responses to one prompt, the score of each by M members, in the unit in which a difference of scores is a
log-odds.  A group's value is the mean over its C(K, 2) pairs, for `ranking_loss` gives each of them that weight.
"""

import torch
from torch import Tensor


def disagreement(scores: Tensor) -> Tensor:
    """1/C(K, 2) sum_{i<j} Var_m(s_im - s_jm): how far the members lie apart about who is how much better.

    A prompt that one member scores higher throughout is no disagreement: what is added to all K cancels.  Christiano et
    al. 2017, section 2.2.4, ask where the predictions of an ensemble vary most.

    Args:
        scores: [..., K, M] log-odds, K from 2.

    Returns:
        [...] log-odds squared, not negative; 0 for one member.
    """
    return _differences(scores).var(-1, correction=0).mean(-1)


def information_gain(scores: Tensor) -> Tensor:
    """1/C(K, 2) sum_{i<j} H[1/M sum_m p_m] - 1/M sum_m H[p_m]  with  p_m = sigmoid(s_im - s_jm).

    What an answer to the pair is expected to tell of which member is right: Houlsby et al. 2011, eq. 2 (BALD), with
    the members as draws from the posterior.  Members that are undecided alike have nothing to learn; those that are
    sure of opposite answers, one bit.

    Args:
        scores: [..., K, M] log-odds, K from 2.

    Returns:
        [...] nats a pair, from 0 to log 2; 0 for one member.
    """
    difference = _differences(scores)
    first, second = torch.sigmoid(difference), torch.sigmoid(-difference)
    ensemble = torch.special.entr(first.mean(-1)) + torch.special.entr(second.mean(-1))
    each = (torch.special.entr(first) + torch.special.entr(second)).mean(-1)
    return (ensemble - each).clamp(min=0).mean(-1)  # below 0 by rounding alone: the entropy is concave


def _differences(scores: Tensor) -> Tensor:
    """[..., C(K, 2), M] s_i - s_j of each pair.  Raises ValueError for fewer than two responses."""
    k = scores.shape[-2]
    if k < 2:
        raise ValueError(f"{k} responses: there is no pair to ask about")
    first, second = torch.triu_indices(k, k, 1, device=scores.device)
    return scores[..., first, :] - scores[..., second, :]
