"""A run as a doctor reads it: its numbers as curves, its settings by name, its traced responses."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handrail.track import RunView

Numbers = NDArray[np.float64]

OTHERS_TURN = re.compile(r"(^|\n)(Human|User|### Instruction):|<\|(im_start|user|start_header_id)\|>|\[INST\]")
PART = re.compile(r"round-\d+")  # of a round's folder, with a folder for each stage
READERS = ("sft", "reward")
TEXTS = ("prompt_id", "response", "ended", "score", "gold")  # columns of a trace that checks read
BEGINNING = 3  # values at most that a curve's start is the mean of
SMALLEST_WINDOW, WINDOWS = 3, 40  # a trailing mean is over a fortieth of the run, and 3 steps at least


@dataclass(frozen=True)
class Curve:
    """One metric over the steps at which it was logged.  Not empty."""

    steps: NDArray[np.int64]
    values: Numbers
    window: int

    def __len__(self) -> int:
        return len(self.steps)

    @cached_property
    def trailing(self) -> Numbers:
        """At each step the mean of the last `window` values up to it, fewer at the beginning."""
        sums = np.cumsum(np.concatenate([[0.0], self.values]))
        ends = np.arange(1, len(self.values) + 1)
        starts = np.maximum(ends - self.window, 0)
        return (sums[ends] - sums[starts]) / (ends - starts)

    @property
    def start(self) -> float:
        """The mean of the first third of the values, of three at most."""
        return float(self.values[: min(BEGINNING, -(-len(self) // BEGINNING))].mean())

    @property
    def last(self) -> float:
        """The mean of the last `window` values."""
        return float(self.trailing[-1])

    @property
    def noise(self) -> float:
        """The spread of a trailing mean from step to step: by successive differences, so that a trend does not count."""
        if len(self.values) < 3:
            return float("inf")
        spread = float(np.median(np.abs(np.diff(self.values)))) / (0.6745 * np.sqrt(2))  # of a normal law
        return spread / np.sqrt(self.window)

    def where(self, holds: Sequence[bool] | NDArray[np.bool_]) -> list[int]:
        """The steps at which it holds."""
        return [int(step) for step in self.steps[np.asarray(holds, dtype=bool)]]


def lasting(holds: NDArray[np.bool_], times: int) -> NDArray[np.bool_]:
    """Where it holds at least `times` times in a row, from the last of these on."""
    run, out = 0, np.zeros(len(holds), dtype=bool)
    for number, held in enumerate(holds):
        run = run + 1 if held else 0
        out[number] = run >= times
    return out


@dataclass(frozen=True, eq=False)
class Trace:
    """The traced responses of one step.  Equal to itself alone, so that what follows from traces can be kept."""

    step: int
    prompts: list[str]  # ids
    responses: list[str]
    ended: list[bool]
    scores: Numbers  # [R], empty where the stage scores none
    gold: Numbers

    @cached_property
    def both_sides(self) -> float:
        """The share of the responses that go on with the other's turn; a run is looked at many times, and its texts once."""
        return float(np.mean([bool(OTHERS_TURN.search(response)) for response in self.responses])) if self.responses else 0.0


class Case:
    """A run at one moment.  `finite` curves leave out what is no finite number."""

    def __init__(self, view: RunView, kept: dict[int, Trace] | None = None):
        """Args: kept, traces that were read before; what is read is added."""
        self.view, self.stage = view, view.stage
        self._kept = {} if kept is None else kept
        self._curves: dict[str, Curve | None] = {}

    def setting(self, key: str, default: Any = None) -> Any:
        """A setting of the run by its dotted name, `kl.beta`."""
        found: Any = self.view.config
        for part in key.split("."):
            if not isinstance(found, dict) or found.get(part) is None:
                return default
            found = found[part]
        return found

    def assignment(self, change: str) -> str:
        """A setting, `lr=0.001`, as the command takes it that made the run: of a round's stage with the stage's name before it."""
        folder = self.view.folder.resolve()
        in_round = folder.name == self.stage and PART.fullmatch(folder.parent.name)  # it has no file of its own while it goes on
        return f"{self.stage}.{change}" if change and in_round else change

    @property
    def done(self) -> int:
        """Steps that were logged."""
        return len(self.view.metrics)

    @property
    def planned(self) -> int:
        """Steps that the run has in all, as far as can be told."""
        return max(int(self.setting("steps", 0)), self.done)

    @property
    def window(self) -> int:
        return max(SMALLEST_WINDOW, self.planned // WINDOWS)

    @property
    def batch(self) -> int:
        """Responses a step."""
        return int(self.setting("batch_size", 1)) * (int(self.setting("n", 1)) if self.stage == "best_of_n" else 1)

    @property
    def exact(self) -> bool:
        """Whether both the engine and the trainer compute in float32."""
        role = "model" if self.stage in ("sft", "reward") else "policy"
        return self.setting(f"{role}.dtype") == "float32" and not self.setting(f"{role}.autocast")

    def curve(self, name: str, least: int = 1) -> Curve | None:
        """A metric's finite values, None where there are fewer than `least`."""
        if name not in self._curves:
            steps, values = self.view.column(name)
            good = [(s, float(v)) for s, v in zip(steps, values, strict=True) if not isinstance(v, str) and np.isfinite(v)]
            # What is measured now and then has fewer values to a window.
            window = max(1, round(self.window * len(good) / max(1, self.done)))
            self._curves[name] = Curve(np.array([s for s, _ in good]), np.array([v for _, v in good]), window) if good else None
        found = self._curves[name]
        return found if found is not None and len(found) >= least else None

    def together(self, *names: str, least: int = 1) -> list[Curve] | None:
        """Several metrics at the steps that have all of them; None where one is missing or there are too few steps."""
        found = [self.curve(name) for name in names]
        curves = [curve for curve in found if curve is not None]
        if len(curves) < len(names):
            return None
        common = curves[0].steps
        for curve in curves[1:]:
            common = np.intersect1d(common, curve.steps)
        if len(common) < least:
            return None
        window = min(curve.window for curve in curves)
        return [Curve(common, curve.values[np.isin(curve.steps, common)], window) for curve in curves]

    @cached_property
    def traces(self) -> list[Trace]:
        """Every traced step, in order; none where a model reads what people have said instead of answering."""
        return [self._trace(step) for step in self.view.traces if self.stage not in READERS]

    def _trace(self, step: int) -> Trace:
        if step not in self._kept:
            table = self.view.read_trace(step, TEXTS).to_pydict()
            responses = table.get("response", [])
            self._kept[step] = Trace(
                step,
                table.get("prompt_id", []),
                responses,
                table.get("ended", [True] * len(responses)),
                *(np.array(table.get(name, []), dtype=np.float64) for name in ("score", "gold")),
            )
        return self._kept[step]
