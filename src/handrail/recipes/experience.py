"""What loops over fresh responses share: minibatches, slices as wide as their batch, token traces and what is seen for them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from handrail.algo.kl import kl_k3
from handrail.algo.stats import masked_mean
from handrail.batch import Experience, Rollout
from handrail.data import Codec
from handrail.models import LanguageModel
from handrail.parallel import Parallel
from handrail.recipes.parts import RunSettings, generator
from handrail.records import Prompt


def orders(count: int, epochs: int, pieces: int, seed: int, step: int) -> Iterator[Tensor]:
    """Which of `count` responses each update takes: each once an epoch, reshuffled every epoch."""
    for epoch in range(epochs if count else 0):
        yield from torch.randperm(count, generator=generator(seed, "minibatch", step, epoch)).chunk(pieces)


def minibatches(experience: Experience, epochs: int, pieces: int, seed: int, step: int) -> Iterator[Experience]:
    """The responses of each update."""
    for index in orders(len(experience), epochs, pieces, seed, step):
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


class Witness:
    """Sees, for the traced steps, what a trace cannot know afterwards: what the passes over the step's responses computed,
    as they computed it, and which other tokens policy and reference held likely before the update.

    At other steps it sees nothing.  It keeps detached tensors and asks no model but in `begin`.
    """

    ALTERNATIVES = 5  # tokens of each model at each place

    def __init__(
        self, kept: RunSettings, steps: int, codec: Codec, models: dict[str, LanguageModel], temperature: float, parallel: Parallel
    ):
        self.parallel = parallel
        self.kept, self.rows, self.steps = kept, kept.trace_rows, steps
        self.codec, self.models, self.temperature = codec, models, temperature
        self.on = False
        self.seen: list[tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]] = []
        self.held: dict[str, list] = {}

    def begin(self, step: int, rollout: Rollout) -> None:
        """A step's update is about to begin; `on` says from here whether the step is traced."""
        self.on = self.kept.traced(step, self.steps)
        self.seen, self.held = [], {}
        for name, model in self.models.items() if self.on else ():
            first = rollout[: self.rows].sequences
            logp, ids = (x.cpu() for x in model.likeliest(first, self.ALTERNATIVES, self.temperature))
            lengths = first.response_lengths.tolist()
            texts = {i: self.codec.pieces([i])[0] for i in ids.unique().tolist()}
            self.held[f"{name}_top"] = [[[texts[i] for i in place] for place in ids[b, :n].tolist()] for b, n in enumerate(lengths)]
            self.held[f"{name}_top_ids"] = [ids[b, :n].tolist() for b, n in enumerate(lengths)]
            self.held[f"{name}_top_logp"] = [logp[b, :n].tolist() for b, n in enumerate(lengths)]

    def saw(self, index: Tensor, count: Tensor, weight: Tensor, numbers: dict[str, Tensor]) -> None:
        """A slice of a minibatch: which of its rows, what its loss is divided by, the weight [B, 1] of each row's, and [B, T] by name."""
        if self.on:
            self.seen.append((index.cpu(), count, weight.detach(), {name: x.detach() for name, x in numbers.items()}))

    def columns(self, rows: Tensor, updates: Iterable[Tensor], lengths: list[int]) -> dict[str, list]:
        """For each of the first responses an entry a pass: its numbers, the pass's update, its count and the response's weight.

        `rows` are the responses that were learned from, and `updates` says which of them each minibatch had.
        """
        names = ("update", "count", "weight", "logp", "value", "entropy")
        found: dict[str, list] = {f"pass_{name}": [[] for _ in lengths] for name in names}
        passes = self.parallel.gather(self._passes(rows, updates, lengths))
        for row, numbers in sorted((p for own in passes for p in own), key=lambda p: p[1]["update"]):
            for name, value in numbers.items():
                found[f"pass_{name}"][row].append(value)
        return {name: column for name, column in found.items() if any(column)} | self.held

    def _passes(self, rows: Tensor, updates: Iterable[Tensor], lengths: list[int]) -> list[tuple[int, dict]]:
        """Of each pass over one of the first responses that this process made: which response, and its numbers by name."""
        found: list[tuple[int, dict]] = []
        seen = iter(self.seen)
        for update, order in enumerate(updates):
            left = len(order[self.parallel.turn])
            while left > 0 and (part := next(seen, None)):
                index, count, weight, numbers = part
                left -= len(index)
                for place, row in enumerate(rows[order[index]].tolist()):
                    if row < len(lengths):
                        plain = {"update": update, "count": count.item(), "weight": float(weight[place, 0])}
                        found.append((row, plain | {name: x[place, : lengths[row]].tolist() for name, x in numbers.items()}))
        return found


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

    whole = {"kl_sum": ("kl", torch.Tensor.sum), "advantage_mean": ("advantage", torch.Tensor.mean)}
    return {
        "prompt_id": [prompts[row].id for row in rows],
        "prompt": [prompts[row].text for row in rows],
        "response": [texts[row] for row in rows],
        "ended": rollout.ended[: len(rows)].tolist(),
        "length": [len(responses[row]) for row in rows],
        **{
            name: [float(of(tokens[key][row, : len(responses[row])])) for row in rows] for name, (key, of) in whole.items() if key in tokens
        },
        **{name: values[: len(rows)].tolist() for name, values in scores.items()},
        "ids": [responses[row] for row in rows],
        "tokens": [codec.pieces(responses[row]) for row in rows],
        **{name: cut(values) for name, values in tokens.items()},
    }
