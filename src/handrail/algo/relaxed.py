"""A choice of token that can be differentiated: one-hot in value, or a mixture, with the gradient of the whole law.

Everything is [..., V]: any number of positions over a vocabulary.
"""

import torch
from torch import Tensor


def expected_choice(logits: Tensor) -> Tensor:
    """x_v = pi(v): the mixture of all tokens, each with its probability.

    What is computed from it is f(E[x]) and not E[f(x)]: equal where f is linear in x, and only there.

    Args:
        logits: [..., V], with gradient.

    Returns:
        [..., V] not negative, each position summing to 1.
    """
    return logits.softmax(-1)


def gumbel_given(logits: Tensor, token: Tensor, uniform: Tensor, uniform_top: Tensor) -> Tensor:
    """Gumbel noise plus log pi, given that its argmax is `token`.  Maddison et al. 2014, section 3, "top-down".

    The largest of log pi(v) + g_v is a standard Gumbel number Z whichever token it belongs to; the others are Gumbel
    numbers about their log pi(v), cut off at Z.  So noise can be found for a token that was sampled otherwise.

    Args:
        logits: [..., V]; no gradient is taken through it.
        token: [...] int64, what was sampled.
        uniform: [..., V] in (0, 1), one number for each token of the vocabulary.
        uniform_top: [...] in (0, 1), for the largest.

    Returns:
        [..., V] log pi(v) + g_v, with its maximum at `token`.
    """
    logp = logits.detach().log_softmax(-1)
    top = -torch.log(-torch.log(uniform_top))[..., None]
    below = -torch.log(torch.exp(-top) - torch.log(uniform) * torch.exp(-logp))
    return below.scatter(-1, token[..., None], top)


def straight_through_choice(logits: Tensor, token: Tensor, perturbed: Tensor, temperature: float) -> Tensor:
    """x = onehot(y) + p - stop(p)  with  p = softmax((log pi + g) / temperature).  Jang et al. 2017, section 2.2.

    In value the sampled token; in gradient the relaxed one.  Biased: the gradient is taken at p and not at y.

    Args:
        logits: [..., V], with gradient.
        token: [...] int64, what was sampled.
        perturbed: [..., V], from `gumbel_given`.
        temperature: above 0; a low one is nearer to the one-hot choice and scatters more.

    Returns:
        [..., V].
    """
    logp = logits.log_softmax(-1)
    soft = ((perturbed - logp.detach() + logp) / temperature).softmax(-1)
    hard = torch.zeros_like(soft).scatter(-1, token[..., None], 1.0)
    return hard + soft - soft.detach()
