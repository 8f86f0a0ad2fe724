"""A figure with its interval: what every measure of quality is given as."""

import math
from collections.abc import Iterator
from statistics import NormalDist

import numpy as np

from handrail.records import Record

FEWEST = 10  # items; from fewer no agreement is given
CELLS = 1 << 22  # weights held at a time: 32 MiB


class Figure(Record):
    """A number with its 95 % interval and how many items or answers it rests on.

    `value` is None where they are too few or where the measure is not defined, as a kappa where nobody ever chose twice
    differently.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int


def wilson(right: float, n: int, confidence: float = 0.95) -> Figure:
    """The share right / n with the interval of Wilson 1927, "Probable inference".

    Args:
        right: how many of the n; may be a fraction where an answer can be partly right, which makes the interval too wide
            rather than too narrow.
        n: trials; with 0 there is no share.
        confidence: of the interval.
    """
    if n == 0:
        return Figure(n=0)
    z, share = NormalDist().inv_cdf((1 + confidence) / 2), right / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Figure(value=share, low=max(0.0, middle - half), high=min(1.0, middle + half), n=n)


def resampled(items: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each item is drawn in each resample of the bootstrap over items, in blocks of resamples.

    Efron and Tibshirani 1993, chapter 13.  What belongs to one item is drawn together: answers about the same responses
    are not independent of each other.

    Yields:
        [items, block]: a column is a resample; the columns of all blocks are `resamples` together.
    """
    rng = np.random.default_rng(seed)
    block = max(1, CELLS // max(1, items))
    for start in range(0, resamples, block):
        width = min(block, resamples - start)
        drawn = rng.integers(0, items, (width, items)) + items * np.arange(width)[:, None]
        yield np.bincount(drawn.ravel(), minlength=width * items).reshape(width, items).T.astype(np.float64, order="C")


def figure(value: float, draws: np.ndarray, n: int, fewest: int = FEWEST) -> Figure:
    """A value with the 2.5 % and 97.5 % points of its resamples.

    Args:
        value: NaN where the measure is not defined.
        draws: [resamples] the measure on each; NaN ones are left out.
        n: items that it rests on; below `fewest` no value is given.
    """
    known = draws[np.isfinite(draws)]
    if n < fewest or not math.isfinite(value) or not len(known):
        return Figure(n=n)
    low, high = np.percentile(known, [2.5, 97.5])
    return Figure(value=float(value), low=float(low), high=float(high), n=n)
