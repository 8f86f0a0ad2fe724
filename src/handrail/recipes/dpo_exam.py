"""Held-out rankings: does the policy's implicit reward put their responses in the people's order?"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict
from statistics import fmean

import torch
from torch import Tensor

from handrail.batch import Sequences
from handrail.data import Codec, ranking_batch
from handrail.evaluate import accuracy, labeller_agreement, length_rule_accuracy
from handrail.records import Prompt, Ranking, Rating

Implied = Callable[[Sequences, Tensor], Tensor]  # [M] reward from sequences and [M] nats under the reference


class Exam:
    """Rankings with at least one pair that is not tied; without any, nothing is tested."""

    def __init__(self, codec: Codec, rankings: list[Ranking], context: int, reference: Callable[[Sequences], Tensor] | None):
        self.rankings, self.reference = rankings, reference
        self.batch = ranking_batch(codec, rankings, context)
        self.logp_ref = torch.zeros(len(self.batch.sequences))

    @torch.no_grad()
    def prepare(self) -> None:
        """Ask the reference; then it is let go."""
        if self.rankings and self.reference:
            self.logp_ref = self.reference(self.batch.sequences).sum(1)
        self.reference = None

    @torch.no_grad()
    def scores(self, implied: Implied) -> list[list[float]]:
        """The implicit reward of each response of each ranking."""
        flat = implied(self.batch.sequences, self.logp_ref).cpu()
        return [flat[row[mask]].tolist() for row, mask in zip(self.batch.index, self.batch.mask, strict=True)]

    def grade(self, implied: Implied) -> dict[str, float]:
        """For the log: the share of pairs in the people's order."""
        if not self.rankings:
            return {}
        return {"eval_accuracy": accuracy(self.scores(implied), [r.places for r in self.rankings]).value}

    def result(self, implied: Implied) -> dict:
        """That share with its interval, what length alone reaches, and how often two labellers agree."""
        if not self.rankings:
            return {"accuracy": None, "length_baseline": None, "agreement": None, "test_rankings": 0}
        places, prompts = [r.places for r in self.rankings], [r.prompt.id for r in self.rankings]
        lengths = [[float(len(response)) for response in r.responses] for r in self.rankings]
        agreement = labeller_agreement(self.rankings)
        return {
            "accuracy": asdict(accuracy(self.scores(implied), places, prompts)),
            "length_baseline": asdict(length_rule_accuracy(lengths, places, prompts)),
            "agreement": asdict(agreement) if agreement else None,
            "test_rankings": len(self.rankings),
        }


def by_prompt(ratings: list[Rating]) -> list[Ranking]:
    """Rankings from ratings of different responses to one prompt, by their mean score."""
    scores: dict[str, tuple[Prompt, dict[str, list[float]]]] = {}
    for rating in ratings:
        _, given = scores.setdefault(rating.prompt.text, (rating.prompt, defaultdict(list)))
        given[rating.response].append(rating.score)
    found: list[Ranking] = []
    for prompt, given in scores.values():
        means = {response: fmean(numbers) for response, numbers in given.items()}
        if len(means) > 1:
            order = sorted(set(means.values()), reverse=True)
            found.append(Ranking(prompt=prompt, responses=tuple(means), places=tuple(order.index(mean) + 1 for mean in means.values())))
    return found
