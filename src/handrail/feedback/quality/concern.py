"""Something to look at, and what the checks have in common."""

from typing import Literal

import numpy as np

from handrail.records import Record

LEVEL = 0.01  # the chance of a false alarm of one check, among all labellers together
Severity = Literal["note", "warning", "serious"]


class Concern(Record):
    """A reason to talk with somebody, not a verdict.

    `tasks` are those in which it shows; `evidence` holds the figures that `message` is made from; `advice` says what to do.
    """

    name: Literal["speed", "position", "same answer", "ties", "disagreement", "self-consistency", "gold"]
    labeller: str
    severity: Severity
    tasks: tuple[str, ...] = ()
    evidence: dict[str, float]
    message: str
    advice: str


def tail(chances: np.ndarray, count: int) -> float:
    """P(X >= count) for a sum X of independent trials: binomial where all chances are equal, Poisson-binomial otherwise.

    Args:
        chances: [n] of each trial.
    """
    mass = np.zeros(len(chances) + 1)
    mass[0] = 1.0
    for n, p in enumerate(chances):
        mass[1 : n + 2] = mass[1 : n + 2] * (1 - p) + mass[: n + 1] * p
        mass[0] *= 1 - p
    return float(min(1.0, mass[count:].sum()))
