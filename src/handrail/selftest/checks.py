"""What `handrail selftest` looks at, one check after another, each with its figure and its bound."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from handrail.models import device
from handrail.recipes import ppo
from handrail.rollout import Sampling
from handrail.selftest import resume, tiny
from handrail.selftest.enumerated import World
from handrail.selftest.loops import LOOPS, expected_gradient, run_loop

SEED = 0
ENDS = ("ppo", "rloo")  # the loops that are run to their end, which takes seconds each; the tests run all


@dataclass(frozen=True)
class Check:
    """A figure beside its bound."""

    name: str
    figure: str  # what `found` is; a distance is a total variation, a share is one of the possible gain
    found: float
    limit: Literal["below", "above", "equal"]
    bound: float
    passed: bool
    remark: str = ""


def below(name: str, figure: str, found: float, bound: float, remark: str = "") -> Check:
    """Passed where the figure is less than the bound (NaN is not)."""
    return Check(name, figure, found, "below", bound, found < bound, remark)


def above(name: str, figure: str, found: float, bound: float, remark: str = "") -> Check:
    """Passed where the figure is more than the bound (NaN is not)."""
    return Check(name, figure, found, "above", bound, found > bound, remark)


def all_checks(folder: Path) -> Iterator[tuple[str, Callable[[], list[Check]]]]:
    """(what comes next, the work that gives its checks), in order; `folder` is empty."""
    for name in LOOPS:
        yield f"{name}: the gradient", partial(gradients, name, folder / f"gradient-{name}")
    for name in ENDS:
        yield f"{name}: the loop", partial(optimum, name, folder / f"loop-{name}")
    yield "engine and trainer", partial(engine, folder)
    yield "kill and resume", partial(resumed, folder)


def gradients(name: str, folder: Path) -> list[Check]:
    """The expected update against the gradient of J; and that an estimator which is biased shows."""
    world = World.random(SEED)
    generator = torch.Generator().manual_seed(SEED + 1)
    policy = world.reference + torch.randn(world.reference.shape, dtype=torch.float64, generator=generator)
    wrong = torch.randn(policy.shape[:2], dtype=torch.float64, generator=generator)
    truth = world.gradient(policy)

    def error(**over: object) -> float:
        found = expected_gradient(name, world, policy, wrong, folder, **LOOPS[name].unbiased | over)
        return float((found - truth).norm() / truth.norm())

    checks = [below(f"{name}: the mean update is the gradient of J", "relative error", error(), 1e-10)]
    if LOOPS[name].biased:
        biased = error(**LOOPS[name].biased)
        checks.append(above(f"{name}: an estimator that is biased shows", "relative error", biased, 0.01))
    return checks


def optimum(name: str, folder: Path) -> list[Check]:
    """A whole loop against the best policy that there is."""
    world = World.random(SEED)
    logits = run_loop(name, world, folder, SEED)
    return [
        below(f"{name}: the loop ends at the best policy", "distance", world.distance(logits), 0.02),
        above(f"{name}: the loop earns what can be earned", "share", world.gain(logits), 0.97),
    ]


def engine(folder: Path) -> list[Check]:
    """The tiny transformer on this device: what the engine says of its samples, and what the trainer says."""
    tiny.make(folder)
    parts, _ = ppo.build(tiny.settings(folder, folder / "engine"))
    parts.eval()
    parts.answers.engine.sync(parts.policy)
    rollout = parts.answers.engine.generate(parts.answers.ids * 32, list(range(64)), Sampling(max_new_tokens=8)).to(parts.policy.device)
    with torch.no_grad():
        gap = (rollout.logp - parts.policy.logp(rollout.sequences)).abs().max()
    return [below("engine and trainer know the same probabilities", "difference", float(gap), 1e-4)]


def resumed(folder: Path) -> list[Check]:
    """A run that was killed, against one that was not."""
    name = "a run killed and resumed ends with the same bits"
    if wrong := resume.both(folder):
        return [Check(name, "difference", float("nan"), "equal", 0.0, False, wrong)]
    worst, count = resume.difference(folder)
    remark = f"{count:,} weights and logged numbers"
    promised = device().type == "cpu"
    if worst != 0 and not promised:
        remark += f"; {device().type} promises no equal bits, but the run went on and ended"
    return [Check(name, "difference", worst, "equal", 0.0, worst == 0 or not promised, remark)]
