"""Whether the heads of an ensemble disagree where it errs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Disagreement:
    """How an ensemble's members differ over pairs, and whether that tells of mistakes.

    A chance is that of a mistaken pair and a right one, drawn at random, that the mistaken one stands higher (a half
    where both are equal): 1/2 knows nothing, 1 finds every mistake.  None without a mistake, or with nothing else.
    """

    n: int  # pairs
    mistakes: int
    unanimous: float  # share of pairs that all members order alike
    spread_right: float | None  # standard deviation of the members' differences, the mean over pairs that are right
    spread_wrong: float | None
    by_spread: float | None  # chance, with the spread
    by_closeness: float | None  # chance, with how near to 0 the score's own difference is: what is known without members


def disagreement(members: Sequence[Sequence[float]], difference: Sequence[float]) -> Disagreement:
    """What the members' disagreement about pairs is worth beside the score's own indecision.

    Args:
        members: [P][M] score(better) - score(worse) of each member for each pair that is not tied by the labeller.
        difference: [P] the same of the score that is used; below 0 it errs, at 0 it is neither right nor wrong.

    Raises:
        ValueError: lists that differ in length, or no pair.
    """
    each, score = np.asarray(members, dtype=np.float64), np.asarray(difference, dtype=np.float64)
    if each.ndim != 2 or len(each) != len(score) or not len(score):
        raise ValueError(f"differences of shape {each.shape} for {len(score)} pairs")
    spread, wrong, right = each.std(axis=1), score < 0, score > 0
    alike = (each > 0).all(axis=1) | (each < 0).all(axis=1)
    return Disagreement(
        n=len(score),
        mistakes=int(wrong.sum()),
        unanimous=float(alike.mean()),
        spread_right=float(spread[right].mean()) if right.any() else None,
        spread_wrong=float(spread[wrong].mean()) if wrong.any() else None,
        by_spread=chance(spread[wrong], spread[right]),
        by_closeness=chance(-np.abs(score[wrong]), -np.abs(score[right])),
    )


def chance(higher: np.ndarray, lower: np.ndarray) -> float | None:
    """P(a > b) + P(a = b) / 2 for a of `higher` and b of `lower`: the area under the curve, Hanley and McNeil 1982."""
    if not (len(higher) and len(lower)):
        return None
    ordered = np.sort(lower)
    below, upto = (np.searchsorted(ordered, higher, side) for side in ("left", "right"))
    return float((below + upto).mean() / (2 * len(lower)))
