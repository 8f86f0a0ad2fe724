"""Simulated labellers: they prefer what the gold score prefers, with the noise that people have."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from handrail.errors import InputError
from handrail.records import Prompt, Ranking

Gold = Callable[[Prompt, str], float]


@dataclass(frozen=True)
class Labeller:
    """One who ranks responses by a noisy look at their gold score.

    P(i before j) = sigmoid((gold_i - gold_j) / temperature).  Bradley and Terry 1952; for K responses Plackett 1975,
    drawn by adding Gumbel noise to each utility.

    Attributes:
        temperature: how fuzzy the look is, in reward; above 0.
        reliability: the share of rankings that are looked at; the others are answered at random.
        position_bias: what the response shown first gains, in reward.
        tie_width: responses whose noisy utilities are this close, in reward, are called equal.
        id: the name in a ranking's `labeller`.
    """

    temperature: float = 0.4
    reliability: float = 0.95
    position_bias: float = 0.1
    tie_width: float = 0.05
    id: str = "simulated"

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise InputError(f"a labeller with temperature {self.temperature}", "a temperature above 0")
        if not 0 <= self.reliability <= 1:
            raise InputError(f"a labeller with reliability {self.reliability}", "a reliability from 0 to 1")
        if not self.tie_width >= 0:
            raise InputError(f"a labeller with tie_width {self.tie_width}", "a tie_width that is not negative")

    def rank(self, prompt: Prompt, responses: Sequence[str], gold: Gold, rng: np.random.Generator, first: str | None = None) -> Ranking:
        """Order the responses.  They stand in the ranking as they were given.

        Two responses with the same text are always tied.  `first` is the one that was shown first, None: drawn at random.
        """
        texts = list(dict.fromkeys(responses))
        looked = rng.random() < self.reliability
        drawn = int(rng.permutation(len(texts))[0])
        utility = np.array([gold(prompt, text) for text in texts]) if looked else np.zeros(len(texts))
        utility[drawn if first is None else texts.index(first)] += self.position_bias
        utility += self.temperature * rng.gumbel(size=len(texts))
        place = dict(zip(texts, self._places(utility), strict=True))
        places = tuple(place[response] for response in responses)
        return Ranking(prompt=prompt, responses=tuple(responses), places=places, labeller=self.id)

    def _places(self, utility: np.ndarray) -> list[int]:
        """Place 1 for the highest; one within `tie_width` of the first of a place shares it."""
        places, place, top = [0] * len(utility), 0, np.inf
        for i in np.argsort(-utility, kind="stable"):
            if top - utility[i] > self.tie_width:
                place, top = place + 1, utility[i]
            places[i] = place
        return places


def crew(n: int, seed: int) -> list[Labeller]:
    """`n` labellers, simulated-01 and on, who differ in how well they look, how reliable and how biased they are."""
    rng = np.random.default_rng([seed, 0xC4E3])
    return [
        Labeller(
            temperature=float(rng.uniform(0.15, 0.3)),
            reliability=float(rng.uniform(0.94, 0.99)),
            position_bias=float(rng.uniform(0.0, 0.2)),
            tie_width=float(rng.uniform(0.0, 0.1)),
            id=f"simulated-{i:02d}",
        )
        for i in range(1, n + 1)
    ]


def label(
    prompts: Sequence[Prompt], responses: Sequence[Sequence[str]], gold: Gold, labellers: Sequence[Labeller], seed: int
) -> list[Ranking]:
    """One ranking for each prompt and its responses, each by one of the labellers, drawn at random."""
    rankings = []
    for i, (prompt, texts) in enumerate(zip(prompts, responses, strict=True)):
        rng = np.random.default_rng([seed, i])
        rankings.append(labellers[int(rng.integers(len(labellers)))].rank(prompt, texts, gold, rng))
    return rankings


def ceiling(rankings: Sequence[Ranking], gold: Gold) -> float:
    """The accuracy that the true gold reaches on these rankings: the most that a reward model can hope for.

    Over all pairs that are not tied in a ranking; equal gold counts one half.  NaN when every pair is tied.
    """
    right = []
    for ranking in rankings:
        score = [gold(ranking.prompt, response) for response in ranking.responses]
        right += [0.5 + 0.5 * np.sign(score[i] - score[j]) for i, j in ranking.pairs()]
    return float(np.mean(right)) if right else float("nan")
