"""How often one model's response is preferred to another's, and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Z = 1.96  # standard deviations to either side that hold 95 % of a normal law
CELLS = 1 << 22  # drawn indices held at a time: 32 MiB


@dataclass(frozen=True, slots=True)
class WinRate:
    """A share with its 95 % interval.  `n` counts prompts."""

    value: float
    low: float
    high: float
    n: int


def bootstrap(
    gains: Sequence[float] | np.ndarray, counts: Sequence[float] | np.ndarray, seed: int = 0, resamples: int = 2000
) -> tuple[float, float]:
    """The percentile interval of sum(gains) / sum(counts) when whole prompts are drawn with replacement.

    Efron and Tibshirani 1993, chapter 13.  What belongs to one prompt is drawn together, because it is not independent.
    Where all is won or all is lost, five of five, every draw says so too, and the interval is Wilson's (1927): from n / (n + z^2) to 1.

    Args:
        gains: [N] per prompt, what it adds to the numerator.
        counts: [N] per prompt, what it adds to the denominator; above 0.
        seed: of the resamples; the same seed gives the same interval.
        resamples: how many.

    Returns:
        (low, high): the 2.5 % and 97.5 % points, in the unit of gains / counts.

    Raises:
        ValueError: no prompts, lengths that differ, or a number that is not finite.
    """
    top, bottom = np.asarray(gains, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    if top.size == 0 or top.shape != bottom.shape or top.ndim != 1:
        raise ValueError(f"{top.shape} gains and {bottom.shape} counts: one of each for at least one prompt is needed")
    if not (np.isfinite(top).all() and np.isfinite(bottom).all()):
        raise ValueError("a gain or a count is NaN or infinite")
    if not top.any() or (top == bottom).all():
        edge = Z**2 / (top.size + Z**2)
        return (1 - edge, 1.0) if top.any() else (0.0, edge)
    rng = np.random.default_rng(seed)
    block = max(1, CELLS // top.size)
    shares = []
    for start in range(0, resamples, block):
        drawn = rng.integers(0, top.size, (min(block, resamples - start), top.size))
        shares.append(top[drawn].sum(1) / bottom[drawn].sum(1))
    low, high = np.percentile(np.concatenate(shares), [2.5, 97.5])
    return float(low), float(high)


def win_rate(a: Sequence[float], b: Sequence[float], seed: int = 0, resamples: int = 2000) -> WinRate:
    """The share of prompts on which `a` scores above `b`, a tie counting one half, with a 95 % bootstrap interval.

    Args:
        a, b: [N] a judge's score of either model's response to the same prompt.
        seed, resamples: of the bootstrap over prompts.

    Raises:
        ValueError: no prompts, lengths that differ, or a score that is not finite.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"{len(first)} scores against {len(second)}: both answer the same prompts")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("a score is NaN or infinite: it can neither win nor lose")
    wins = np.where(first == second, 0.5, first > second)
    return share(wins, np.ones_like(wins), seed, resamples)


def share(gains: Sequence[float] | np.ndarray, counts: Sequence[float] | np.ndarray, seed: int = 0, resamples: int = 2000) -> WinRate:
    """sum(gains) / sum(counts) over prompts, with the interval of `bootstrap`.  Raises ValueError as it does."""
    low, high = bootstrap(gains, counts, seed, resamples)
    return WinRate(float(np.sum(gains) / np.sum(counts)), low, high, len(gains))


def judged_rate(gains: Sequence[float | None], same: Sequence[bool], seed: int = 0, resamples: int = 2000) -> WinRate | None:
    """The win rate by a judge who was asked about some of the pairs whose responses differ; None where it judged none.

    Two equal responses are a tie that nobody need be asked about.  They count as they stand among all pairs: each with
    the share of the differing pairs that were judged, so that who judges half of them does not find twice the ties.

    Args:
        gains: [N] 1 where the response of the model after is preferred, 0 where that of the model before is, 1/2 for a
            tie and anything between for several answers; None where there is no judgement.
        same: [N] whether the two responses are equal; the gain is then not read.
        seed, resamples: of the bootstrap over prompts.
    """
    judged = [gain for gain, equal in zip(gains, same, strict=True) if gain is not None and not equal]
    ties, differing = sum(same), len(same) - sum(same)
    if not judged and differing:
        return None
    covered = len(judged) / differing if differing else 1.0
    counts = [1.0] * len(judged) + [covered] * ties
    return share([*judged, *[covered / 2] * ties], counts, seed, resamples)
