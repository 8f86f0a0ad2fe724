"""Which step of a run is the best, when every step is measured on a few responses only."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

AROUND = 2  # steps to both sides that a step is averaged with
FEW, MANY = 4, 80  # fewer in a short run, a step in so many at most; more in a long one, where luck has more to choose from
ALLOWED = 2.0  # standard deviations by which the last step may seem worse and still be taken


def best(values: Sequence[float] | NDArray[np.float64], around: int | None = None) -> tuple[int, float]:
    """The place of the best step, and the mean of the values around it; the last one, where that is as good as noise can tell.

    Each is averaged with its neighbours to both sides, so that luck of one batch does not choose, nor the choice come late.
    The noise is that of second differences: a trend does not count as noise.

    Args:
        values: of the steps in their order, finite, at least one; the higher the better.
        around: how many neighbours to both sides; 0 for what is measured on the same prompts every time, where luck has no part.
    """
    y = np.asarray(values, dtype=np.float64)
    around = max(min(AROUND, (len(y) - 1) // FEW), len(y) // MANY) if around is None else around
    windows = [y[max(0, i - around) : i + around + 1] for i in range(len(y))]
    means, counts = np.array([w.mean() for w in windows]), np.array([len(w) for w in windows])
    at, last = int(np.argmax(means)), len(y) - 1
    spread = float(np.median(np.abs(np.diff(y, 2)))) / (0.6745 * np.sqrt(6)) if len(y) > 2 else 0.0  # of a normal law
    unsure = ALLOWED * spread * np.sqrt(1 / counts[at] + 1 / counts[last])
    if means[last] >= means[at] - unsure:
        at = last
    return at, float(means[at])


def at_start(step: int, config: Mapping[str, Any]) -> bool:
    """Whether what a policy's run has sampled at `step` is the starting model's own: a step samples first and learns then."""
    return step <= int(config.get("critic_warmup") or 0)


def keep_start(config: Mapping[str, Any]) -> str:
    """What to say where no step of a policy's run was better than its start."""
    return f"No step was better than the model that it started from: keep that model{start(config)}."


def start(config: Mapping[str, Any]) -> str:
    """The path of the model that a run starts from, in brackets and with a space before; "" of a model that is made anew."""
    role = config.get("policy") or config.get("model")
    path = role.get("path") if isinstance(role, Mapping) else ""
    return f" ({path})" if path else ""
