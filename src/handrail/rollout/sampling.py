"""Drawing one token a row from the law that `Sampling` describes."""

import numpy
import torch
from torch import Tensor

from handrail.rollout.settings import Sampling


def row_uniforms(seed: int, count: int) -> Tensor:
    """[count] float32 in [0, 1): a row's own stream.  A longer stream of the same seed begins with a shorter one.

    Philox takes all 64 bits of the seed as its key; torch's generator on the CPU looks at the lower 32 alone.
    """
    stream = numpy.random.Generator(numpy.random.Philox(key=seed % 2**64))
    return torch.from_numpy(stream.random(count, dtype=numpy.float32))


def draw(logits: Tensor, uniform: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """One token a row by inverting the cumulative distribution at `uniform`, and its log-probability under that law.

    Args: logits [B, V], at least float32; uniform [B] in [0, 1).
    Returns: tokens [B] int64, logp [B] in nats.  Where logits are NaN so is logp.
    """
    if sampling.temperature == 0:
        best, tokens = logits.max(-1)
        return tokens, best - best  # 0, or NaN where the logits are not finite
    if sampling.temperature != 1:
        logits = logits / sampling.temperature
    if not sampling.top_k and sampling.top_p == 1:
        return _invert(logits, uniform)
    if sampling.top_k:
        logits, tokens = logits.topk(min(sampling.top_k, logits.shape[-1]))
    else:
        logits, tokens = logits.sort(descending=True, stable=True)
    if sampling.top_p < 1:
        mass = logits.softmax(-1)
        before = mass.cumsum(-1) - mass
        logits = logits.masked_fill(before >= sampling.top_p, -torch.inf)
    chosen, logp = _invert(logits, uniform)
    return tokens.gather(-1, chosen[:, None])[:, 0], logp


def _invert(logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """The first token whose cumulative mass exceeds uniform × total.

    Rounding at the edge of a step must not choose a token of no mass: the likeliest takes its place.
    """
    shifted = logits - logits.amax(-1, keepdim=True)
    mass = shifted.exp()
    cumulative = mass.cumsum(-1)
    total = cumulative[:, -1:]
    chosen = torch.searchsorted(cumulative, uniform.to(total.dtype)[:, None] * total, right=True)
    chosen.clamp_(max=logits.shape[-1] - 1)
    chosen = torch.where(mass.gather(-1, chosen) > 0, chosen, shifted.argmax(-1, keepdim=True))
    return chosen[:, 0], (shifted.gather(-1, chosen) - total.log())[:, 0]
