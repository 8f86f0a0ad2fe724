"""What loops over fresh responses share: minibatches, slices as wide as their batch, token traces."""

from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from handrail.algo.kl import kl_k3
from handrail.algo.stats import masked_mean
from handrail.batch import Experience, Rollout
from handrail.data import Codec
from handrail.models import LanguageModel
from handrail.parallel import Parallel
from handrail.recipes.parts import generator
from handrail.records import Prompt


def minibatches(experience: Experience, epochs: int, pieces: int, seed: int, step: int) -> Iterator[Experience]:
    """Each response once an epoch, reshuffled every epoch."""
    for epoch in range(epochs if len(experience) else 0):
        order = torch.randperm(len(experience), generator=generator(seed, "minibatch", step, epoch))
        for index in order.chunk(pieces):
            yield experience[index.to(experience.advantage.device)]


def widen(x: Tensor, mask: Tensor) -> Tensor:
    """x with zero columns at its right, as wide as the mask: a slice's longest response may be shorter than the batch's."""
    return torch.nn.functional.pad(x, (0, mask.shape[1] - x.shape[1]))


@torch.no_grad()
def moved(policy: LanguageModel, experience: Experience, temperature: float, parallel: Parallel) -> float:
    """How far a step has moved the policy, KL(pi_old || pi) in nats a token."""
    logp = parallel.each(lambda rows: policy.logp(rows, temperature), experience.rollout.sequences)
    logp = widen(logp, experience.mask)
    return float(masked_mean(kl_k3(experience.logp_old, logp), experience.mask))


def variety(texts: Sequence[str]) -> dict[str, float]:
    """How a step's responses differ: the share of different ones, of the commonest, of empty ones, and of word triples said before."""
    counts = Counter(texts)
    words = [text.split() for text in texts]
    triples = [list(zip(w, w[1:], w[2:], strict=False)) for w in words]
    said = [1 - len(set(t)) / len(t) for t in triples if t]
    return {
        "distinct": len(counts) / len(texts),
        "commonest": counts.most_common(1)[0][1] / len(texts),
        "empty": sum(not w for w in words) / len(texts),
        "repetition": sum(said) / len(said) if said else 0.0,
    }


def paid_for(reward: Tensor, lengths: Tensor, components: dict[str, Tensor]) -> dict[str, float]:
    """What goes with the reward among a step's responses: its correlation, from -1 to 1, with length and with the monitor.

    All are [B].  0 where one of them does not vary.
    """
    beside = {"reward_by_length": lengths} | ({"reward_by_gold": components["gold"]} if "gold" in components else {})
    return {name: correlation(reward, x) for name, x in beside.items() if len(x) == len(reward)}


def correlation(x: Tensor, y: Tensor) -> float:
    """Pearson's, of two [B] that may be constant."""
    x, y = (z.double() - z.double().mean() for z in (x, y))
    scale = x.norm() * y.norm()
    return float((x * y).sum() / scale) if scale > 0 else 0.0


def token_trace(
    count: int,
    codec: Codec,
    prompts: list[Prompt],
    texts: list[str],
    rollout: Rollout,
    scores: dict[str, Tensor],
    tokens: dict[str, Tensor],
) -> dict[str, list]:
    """The first `count` responses, token by token, as columns; `scores` are [B] by name, `tokens` [B, T]."""
    rows = range(min(count, len(prompts)))
    responses = rollout.responses()

    def cut(x: Tensor) -> list[list[float]]:
        return [x[row, : len(responses[row])].tolist() for row in rows]

    return {
        "prompt_id": [prompts[row].id for row in rows],
        "prompt": [prompts[row].text for row in rows],
        "response": [texts[row] for row in rows],
        "ended": rollout.ended[: len(rows)].tolist(),
        **{name: values[: len(rows)].tolist() for name, values in scores.items()},
        "tokens": [codec.pieces(responses[row]) for row in rows],
        **{name: cut(values) for name, values in tokens.items()},
    }
