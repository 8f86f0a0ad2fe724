"""How well a reward model agrees with the labellers, beside what length alone and the labellers reach."""

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from handrail.evaluate.winrate import bootstrap
from handrail.records import Ranking


@dataclass(frozen=True, slots=True)
class Accuracy:
    """A share of pairs with its 95 % interval.  `n` counts pairs."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class LengthRule:
    """The accuracy of preferring by length alone, and which way round (`longer` or `shorter`) did better."""

    value: float
    low: float
    high: float
    n: int
    rule: str


@dataclass(frozen=True, slots=True)
class Bin:
    """Pairs whose predicted probability lies in [low, high): its mean, the share observed, and how many they are."""

    low: float
    high: float
    predicted: float
    observed: float
    n: int


@dataclass(frozen=True, slots=True)
class Count:
    """How many pairs have a difference in [low, high)."""

    low: float
    high: float
    n: int


def pair_differences(scores: Sequence[Sequence[float]], places: Sequence[Sequence[int]]) -> list[list[float]]:
    """score(better) - score(worse) for every pair that is not tied, one list a ranking.

    Args:
        scores: [N][K] a score for each response of each ranking.
        places: [N][K] the labeller's places, 1 is the best, equal places are ties.

    Raises:
        ValueError: shapes that differ, or a score that is not finite.
    """
    if len(scores) != len(places):
        raise ValueError(f"{len(scores)} lists of scores for {len(places)} rankings")
    found = []
    for number, (row, place) in enumerate(zip(scores, places, strict=True)):
        if len(row) != len(place):
            raise ValueError(f"ranking {number} has {len(place)} places and {len(row)} scores")
        if not all(math.isfinite(score) for score in row):
            raise ValueError(f"ranking {number} has a score that is NaN or infinite")
        k = range(len(place))
        found.append([row[i] - row[j] for i in k for j in k if place[i] < place[j]])
    return found


def accuracy(
    scores: Sequence[Sequence[float]],
    places: Sequence[Sequence[int]],
    prompts: Sequence[Hashable] | None = None,
    seed: int = 0,
    resamples: int = 2000,
) -> Accuracy:
    """The share of pairs, not tied by the labeller, that the scores order as the labeller did; equal scores are 1/2.

    The interval is a bootstrap over prompts: the pairs of one prompt share responses and are not independent.

    Args:
        scores: [N][K] a score for each response of each held-out ranking.
        places: [N][K] the labeller's places, 1 is the best, equal places are ties.
        prompts: [N] what tells the rankings' prompts apart, such as `prompt.id`; by default all differ.
        seed, resamples: of the bootstrap.

    Raises:
        ValueError: shapes that differ, a score that is not finite, or no pair that is not tied.
    """
    keys = range(len(places)) if prompts is None else prompts
    right: dict[Hashable, float] = defaultdict(float)
    count: dict[Hashable, int] = defaultdict(int)
    for key, differences in zip(keys, pair_differences(scores, places), strict=True):
        if differences:
            right[key] += sum(0.5 if d == 0 else float(d > 0) for d in differences)
            count[key] += len(differences)
    if not count:
        raise ValueError("no pair to judge by: every pair is tied")
    low, high = bootstrap(list(right.values()), list(count.values()), seed, resamples)
    pairs = sum(count.values())
    return Accuracy(sum(right.values()) / pairs, low, high, pairs)


def length_rule_accuracy(
    lengths: Sequence[Sequence[float]],
    places: Sequence[Sequence[int]],
    prompts: Sequence[Hashable] | None = None,
    seed: int = 0,
    resamples: int = 2000,
) -> LengthRule:
    """What "the longer one wins" or "the shorter one wins" reaches, whichever is better: a reward model must beat it.

    Arguments and errors are those of `accuracy`, with lengths (characters or tokens) in place of scores.
    """
    longer = accuracy(lengths, places, prompts, seed, resamples)
    shorter = accuracy([[-size for size in row] for row in lengths], places, prompts, seed, resamples)
    best, rule = (longer, "longer") if longer.value >= shorter.value else (shorter, "shorter")
    return LengthRule(best.value, best.low, best.high, best.n, rule)


def labeller_agreement(rankings: Sequence[Ranking], seed: int = 0, resamples: int = 2000) -> Accuracy | None:
    """The share in which two labellers, asked about the same two responses, prefer the same one; None without overlap.

    Every two judgements of a pair by different labellers count once; ties are left out, as in `accuracy`, and so are
    two judgements by one named labeller or by two criteria.  The interval is a bootstrap over prompts; `n` counts pairs of judgements.
    """
    votes: dict[tuple[str, str, str, str], list[tuple[str, bool]]] = defaultdict(list)
    for ranking in rankings:
        for better, worse in ranking.pairs():
            won, lost = ranking.responses[better], ranking.responses[worse]
            if won != lost:
                first, second = sorted((won, lost))
                votes[ranking.prompt.id, ranking.criterion, first, second].append((ranking.labeller, won == first))
    same: dict[str, int] = defaultdict(int)
    count: dict[str, int] = defaultdict(int)
    for (prompt, *_), cast in votes.items():
        for (one, left), (other, right) in combinations(cast, 2):
            if one != other or not one:
                same[prompt] += left == right
                count[prompt] += 1
    if not count:
        return None
    low, high = bootstrap([same[p] for p in count], [count[p] for p in count], seed, resamples)
    judged = sum(count.values())
    return Accuracy(sum(same.values()) / judged, low, high, judged)


def margins(difference: Sequence[float], bins: int = 20) -> list[Count]:
    """How the differences of pairs, better minus worse, are spread: equal bins around 0, which is an edge.

    What lies left of 0 is ordered wrongly.  Bins beyond the smallest and the largest difference are left out.

    Raises:
        ValueError: a difference that is not finite.
    """
    d = np.asarray(difference, dtype=np.float64)
    if not np.isfinite(d).all():
        raise ValueError("a difference is NaN or infinite")
    if not d.size:
        return []
    width = float(np.abs(d).max()) / (bins // 2) or 1.0
    which = np.clip(np.floor(d / width).astype(int), -(bins // 2), bins // 2 - 1)
    return [Count(b * width, (b + 1) * width, int((which == b).sum())) for b in range(int(which.min()), int(which.max()) + 1)]


def calibration(difference: Sequence[float], outcome: Sequence[float] | None = None, bins: int = 10) -> list[Bin]:
    """Predicted probability sigmoid(difference) against the share observed, in `bins` equal bins of [1/2, 1].

    Every pair is read from the side that the model prefers, so that the order in which its two responses are given
    changes nothing: d < 0 is turned round with its outcome.

    Args:
        difference: [N] reward(first) - reward(second), in the unit that the loss was trained in (a normalised score
            times the model's standard deviation).
        outcome: [N] 1 where the first was preferred, 0 where the second was, 1/2 for a tie; by default 1 everywhere,
            for differences of better minus worse.
        bins: how many; those that stay empty are left out of the result.

    Raises:
        ValueError: lengths that differ, a difference that is not finite, or an outcome outside [0, 1].
    """
    d = np.asarray(difference, dtype=np.float64)
    won = np.ones_like(d) if outcome is None else np.asarray(outcome, dtype=np.float64)
    if d.shape != won.shape:
        raise ValueError(f"{d.size} differences and {won.size} outcomes")
    if not (np.isfinite(d).all() and ((won >= 0) & (won <= 1)).all()):
        raise ValueError("a difference is NaN or infinite, or an outcome lies outside 0 to 1")
    predicted = 1 / (1 + np.exp(-np.abs(d)))
    observed = np.where(d == 0, 0.5, np.where(d > 0, won, 1 - won))
    edges = np.linspace(0.5, 1, bins + 1)
    which = np.minimum(((predicted - 0.5) * 2 * bins).astype(int), bins - 1)
    found = []
    for b in range(bins):
        inside = which == b
        if inside.any():
            mean, share = float(predicted[inside].mean()), float(observed[inside].mean())
            found.append(Bin(float(edges[b]), float(edges[b + 1]), mean, share, int(inside.sum())))
    return found


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """sum n_b |observed_b - predicted_b| / sum n_b.  Guo et al. 2017, eq. 3.  Raises ValueError without bins."""
    total = sum(b.n for b in bins)
    if not total:
        raise ValueError("no pairs, so no calibration error")
    return sum(b.n * abs(b.observed - b.predicted) for b in bins) / total
