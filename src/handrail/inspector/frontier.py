"""Reward and gold against the distance from the reference, over the steps of a run: how far it pays to go.

Gao, Schulman and Hilton 2023, "Scaling Laws for Reward Model Overoptimization": with d = sqrt(KL), a policy gradient's score
follows R(d) = d (alpha - beta log d).  What the reward promises keeps rising where gold has begun to fall.
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from handrail.config import read_yaml
from handrail.doctor.best import at_start, best, keep_start
from handrail.errors import HandrailError
from handrail.inspector.folders import finite
from handrail.inspector.svg import Frame, Point, dot, drawing, label, line, tag, text, ticks

LEAST_KL = 0.02  # nats: nearer to the reference d tells nothing
FEWEST = 6  # points that a curve is fitted to
FURTHEST = 10.0  # of log d: 3e8 nats
DOTS = 400  # of a score that are drawn; of a longer run every so many steps one
COLOURS = {"reward": "c2", "gold": "c3"}


@dataclass(frozen=True)
class Fit:
    """R(d) = start + d (alpha - beta log d)."""

    start: float
    alpha: float
    beta: float

    def at(self, d: float) -> float:
        """The curve at a distance."""
        return self.start + d * (self.alpha - self.beta * math.log(d)) if d > 0 else self.start

    @property
    def peak(self) -> float | None:
        """The distance at which it is highest; None where it bends the other way, or that is further than any policy goes."""
        if self.beta <= 0 or self.alpha / self.beta > FURTHEST:
            return None
        return math.exp(self.alpha / self.beta - 1)

    def rises(self, d: float) -> bool:
        """Whether it goes up at a distance."""
        return self.alpha - self.beta * (math.log(d) + 1) > 0 if d > 0 else self.alpha > 0


@dataclass(frozen=True)
class Frontier:
    """What a run's steps say of reward and gold against distance."""

    points: dict[str, list[tuple[int, float, float]]]  # by score: step, distance, value
    fits: dict[str, Fit]
    best: tuple[str, int, float] | None  # by which score, which step, how much, averaged with its neighbours
    yardstick: list[dict[str, Any]]  # best-of-n: n, kl, reward, gold
    config: dict[str, Any] = field(default_factory=dict)  # of the run


def read_frontier(folder: Path, root: Path, metrics: list[dict[str, Any]]) -> Frontier:
    """From a run's numbers; best-of-n from the comparison that the run belongs to, if it does."""
    points = {name: found for name in COLOURS if (found := distances(metrics, name))}
    fits = {name: fitted for name, found in points.items() if (fitted := fit([(d, y) for _, d, y in found]))}
    judge = "gold" if "gold" in points else "reward"
    judged = points.get(judge)
    at, value = best([y for _, _, y in judged]) if judged else (0, 0.0)
    return Frontier(points, fits, (judge, judged[at][0], value) if judged else None, yardstick(folder, root), settings(folder))


def settings(folder: Path) -> dict[str, Any]:
    """What the run was told to do; nothing where its file is gone or damaged."""
    try:
        return read_yaml(folder / "config.yaml")
    except HandrailError:
        return {}


def distances(metrics: list[dict[str, Any]], name: str) -> list[tuple[int, float, float]]:
    """(step, sqrt(KL), score) of the steps that have both; a KL estimated below zero counts as none."""
    rows = [(line.get("step"), finite(line.get("kl")), finite(line.get(name))) for line in metrics]
    return [(int(step), math.sqrt(max(0.0, kl)), y) for step, kl, y in rows if step is not None and kl is not None and y is not None]


def fit(points: list[Point]) -> Fit | None:
    """Least squares for the start, alpha and beta; None where too few steps have left the reference."""
    if sum(d * d > LEAST_KL for d, _ in points) < FEWEST:
        return None
    d, y = np.array(points).T
    terms = np.stack([np.ones_like(d), d, -d * np.log(np.maximum(d, 1e-12))], 1)
    (start, alpha, beta), *_ = np.linalg.lstsq(terms, y, rcond=None)
    return Fit(float(start), float(alpha), float(beta))


def yardstick(folder: Path, root: Path) -> list[dict[str, Any]]:
    """The best of n responses of the starting model, which a comparison writes beside its rounds."""
    for above in folder.parents:
        if not above.is_relative_to(root):
            break
        try:
            rows = json.loads((above / "yardstick.json").read_bytes())["rows"]
            return [row for row in rows if finite(row.get("kl")) is not None]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return []


def told(found: Frontier) -> list[str]:
    """What can be read off, in sentences."""
    said, gold, reward = [], found.fits.get("gold"), found.fits.get("reward")
    farthest = max((d for points in found.points.values() for _, d, _ in points), default=0.0)
    if gold and gold.peak is not None and gold.peak < farthest:
        step = next((step for step, d, _ in found.points["gold"] if d >= gold.peak), None)
        rises = reward is not None and reward.rises(gold.peak)
        where = f"√KL {gold.peak:.2f}" + (f", which step {step} is the first to reach," if step is not None else "")
        said.append(
            f"By the fitted curves gold is highest at {where} and falls beyond" + ("; the reward goes on rising." if rises else ".")
        )
    elif gold and gold.at(farthest) > gold.start:
        said.append("By the fitted curve gold still rises where the run has come to: reward and gold have not parted.")
    elif gold:
        said.append("By the fitted curve gold falls from the start: no step of the run is worth more than the model that it began with.")
    elif "gold" not in found.points:
        said.append("The run has no gold score (a monitor that training does not see): where the two part cannot be told from the reward.")
    if found.best:
        judge, step, value = found.best
        taken = f"The checkpoint to take is that of step {step}: {judge} {value:+.3f} in the mean of it and its neighbours."
        said.append(keep_start(found.config) if at_start(step, found.config) else taken)
    return said


def picture(found: Frontier, width: float = 760, height: float = 380) -> Markup | None:
    """Dots for the steps, the later the fuller; fitted curves; best-of-n as a line of diamonds."""
    far = [d for points in found.points.values() for _, d, _ in points]
    heights = [y for points in found.points.values() for _, _, y in points]
    beside = {
        name: [(math.sqrt(max(0.0, r["kl"])), r[name]) for r in found.yardstick if finite(r.get(name)) is not None] for name in COLOURS
    }
    heights += [y for rows in beside.values() for _, y in rows]
    if not far or max(far) <= 0:
        return None
    xs, ys = ticks(0, max([*far, *(x for rows in beside.values() for x, _ in rows)])), ticks(min(heights), max(heights) + 1e-9)
    frame = Frame(52, 22, width - 14, height - 36, (0, xs[-1]), (ys[0], ys[-1]))
    parts = [text(4, 12, "score", "unit"), text(frame.right, height - 4, "√KL to the reference, nats a response", "unit", "end")]
    for y in ys:
        parts.append(line(frame.left, frame.at(0, y)[1], frame.right, frame.at(0, y)[1], "axis" if y == ys[0] else "grid"))
        parts.append(text(frame.left - 6, frame.at(0, y)[1] + 3.5, label(y, ys[1] - ys[0]), "tick", "end"))
    for x in xs:
        parts.append(text(frame.at(x, 0)[0], frame.bottom + 16, label(x, xs[1] - xs[0]), "tick", "middle"))
    for name, points in found.points.items():
        parts += [
            dot(*frame.at(d, y), 3, f"fill dim {COLOURS[name]}", f"step {step}: {name} {y:.3f} at √KL {d:.2f}")
            for step, d, y in points[:: math.ceil(len(points) / DOTS)]
        ]
        if curve := found.fits.get(name):
            drawn = [frame.at(d, min(ys[-1], max(ys[0], curve.at(d)))) for d in np.linspace(0, max(far), 80)]
            parts.append(tag("path", {"d": "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in drawn), "class": f"curve {COLOURS[name]}"}))
        if len(rows := beside[name]) > 1:
            drawn = [frame.at(*row) for row in rows]
            parts.append(tag("path", {"d": "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in drawn), "class": f"curve dashed {COLOURS[name]}"}))
    if (gold := found.fits.get("gold")) and gold.peak is not None and gold.peak < max(far):
        x = frame.at(gold.peak, 0)[0]
        parts += [line(x, frame.top, x, frame.bottom, "parting"), text(x + 5, frame.top + 10, "gold is highest", "tick")]
    return drawing(width, height, "Reward and gold against the square root of KL: " + " ".join(told(found)), *parts)
