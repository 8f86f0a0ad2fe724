"""How sharply each labeller sees, without gold: Plackett and Luce's model with an inverse temperature of each labeller.

Response i of an item has a hidden utility u_i, and labeller k ranks as one who chooses the best of what is left again and
again, with chances softmax(gamma_k u): Plackett 1975, for two responses Bradley and Terry 1952.  gamma_k near 0 is chance
and below 0 is backwards.  It generalises Chen et al. 2013, "Pairwise ranking aggregation in a crowdsourced setting", who
mix right and turned answers instead.

Utilities are N(0, 1) beforehand: that fixes the scale, and keeps finite what few answers leave open.  They are integrated
out, as to fit them beside gamma would let each labeller agree with his or her own answers.  The gammas are themselves
drawn towards their common mean, by as much as they are found to be alike.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

DRAWS = 8  # of the utilities, in opposite pairs
STEPS, TOLERANCE = 100, 2e-3
GOLD = 5.0  # gamma of gold: it errs on one pair of ordinary responses in 15, and hardly ever on a clear one
LONGEST = 0.5  # of one step of a gamma


@dataclass(frozen=True)
class Orders:
    """Answers with their responses sorted, best first.

    Attributes:
        item, labeller: [A] of each answer, items in order.
        index: [A, K] which response stands at each position; what an item does not have stands last.
        there: [A, K] whether a response stands there.
        start, end: [A, K] the first and last position of the ties that a position belongs to.
        weight: [A, K] how much the choice at a position counts: 1; of m that tie for the last place (m - 1) / m, so that
            the only one that is left is no choice, and two tied responses have won half a comparison each; 0 if not there.
    """

    item: np.ndarray
    labeller: np.ndarray
    index: np.ndarray
    there: np.ndarray
    start: np.ndarray
    end: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True)
class Sharpness:
    """What the EM algorithm found.

    Attributes:
        gamma: [L] of each labeller, per standard deviation of utility.
        error: [L] its standard error.
        utility, spread: [N, K] mean and standard deviation of the utilities given all answers.
    """

    gamma: np.ndarray
    error: np.ndarray
    utility: np.ndarray
    spread: np.ndarray


def orders(item: np.ndarray, labeller: np.ndarray, score: np.ndarray) -> Orders:
    """Answers as orders.

    Args:
        item, labeller: [A] counting from 0.
        score: [A, K] higher is better, equal ones are ties, NaN where an item has fewer responses.
    """
    by_item = np.argsort(item, kind="stable")
    item, labeller, score = item[by_item], labeller[by_item], score[by_item]
    index = np.argsort(-score, axis=1, kind="stable")  # NaN goes last
    sorted_score = np.take_along_axis(score, index, 1)
    there = ~np.isnan(sorted_score)
    same = (sorted_score[:, :, None] == sorted_score[:, None, :]) & there[:, :, None]
    start = same.argmax(2)
    size = np.maximum(same.sum(2), 1)
    end = start + size - 1
    last = end == there.sum(1, keepdims=True) - 1
    weight = np.where(last, (size - 1) / size, 1.0) * there
    return Orders(item, labeller, index, there, start, end, weight)


def sharpness(answers: Orders, items: int, labellers: int, gold: int | None = None, seed: int = 0) -> Sharpness:
    """Gammas and utilities by expectation and maximisation.

    The expectation is over a Gaussian around each item's most likely utilities (Laplace), by `DRAWS` draws that stay the
    same from step to step.  Standard errors come from the outer products of the items' scores, which are those of the
    marginal likelihood by Fisher's identity (Louis 1982).

    Args:
        labellers: how many, gold not counted.
        gold: the number under which gold's orders stand among the labellers, `labellers`; its gamma is fixed.
    """
    k = answers.index.shape[1]
    gamma = np.ones(labellers + (gold is not None))
    gamma[labellers:] = GOLD
    centre, width = 1.0, 1.0
    utility = np.zeros((items, k))
    draws = np.random.default_rng(seed).standard_normal((DRAWS // 2, items, k))
    draws = np.concatenate([draws, -draws])
    for step in range(STEPS):
        utility, curvature = most_likely(answers, gamma, utility, 3 if step else 10)
        covariance = np.linalg.inv(curvature)
        drawn = utility + np.einsum("nij,snj->sni", np.linalg.cholesky(covariance), draws)
        score, information = slopes(answers, gamma, drawn)
        slope = np.bincount(answers.labeller, score, len(gamma))[:labellers] - (gamma[:labellers] - centre) / width
        bend = np.bincount(answers.labeller, information, len(gamma))[:labellers] + 1 / width
        move = np.clip(slope / bend, -LONGEST, LONGEST)
        squares = np.zeros((len(gamma), items))
        np.add.at(squares, (answers.labeller, answers.item), score)
        precision = (squares**2).sum(1)[:labellers] + 1 / width
        gamma[:labellers] += move
        centre, width = common(gamma[:labellers], precision)
        if step and np.abs(move).max(initial=0) < TOLERANCE:
            break
    spread = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    return Sharpness(gamma[:labellers], 1 / np.sqrt(precision), utility, spread)


def common(gamma: np.ndarray, precision: np.ndarray) -> tuple[float, float]:
    """Mean and variance of the gammas: the mean N(1, 1) beforehand, the variance as if one more had been 0.7 away from it."""
    width = float((np.sum((gamma - gamma.mean()) ** 2 + 1 / precision) + 0.5) / (len(gamma) + 1))
    return float((gamma.sum() / width + 1) / (len(gamma) / width + 1)), width


def chances(answers: Orders, gamma: np.ndarray, utility: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(x, e, rest), each [..., A, K] by position: utilities, exp(gamma x) up to a factor, and its sum over what is left."""
    x = np.take_along_axis(utility[..., answers.item, :], np.broadcast_to(answers.index, (*utility.shape[:-2], *answers.index.shape)), -1)
    eta = np.where(answers.there, gamma[answers.labeller, None] * x, -np.inf)
    e = np.exp(eta - eta.max(-1, keepdims=True))
    return x, e, onward(e, answers)


def onward(values: np.ndarray, answers: Orders) -> np.ndarray:
    """[..., A, K] at each position the sum over it, its ties and all that stand behind."""
    sums = np.cumsum(values[..., ::-1], axis=-1)[..., ::-1]
    return np.take_along_axis(sums, np.broadcast_to(answers.start, sums.shape), -1)


def upto(values: np.ndarray, answers: Orders) -> np.ndarray:
    """[A, K] at each position the sum over all that stand before, its ties and it."""
    return np.take_along_axis(np.cumsum(values, axis=-1), answers.end, -1)


def slopes(answers: Orders, gamma: np.ndarray, utility: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """([A], [A]) first and negative second derivative of each answer's log-likelihood by gamma, the mean over [S, N, K] draws."""
    x, e, rest = chances(answers, gamma, utility)
    rest = np.where(answers.there, rest, 1.0)
    mean, square = onward(e * x, answers) / rest, onward(e * x * x, answers) / rest
    return (answers.weight * (x - mean)).sum(-1).mean(0), (answers.weight * (square - mean**2)).sum(-1).mean(0)


def most_likely(answers: Orders, gamma: np.ndarray, utility: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Newton's way to each item's most likely utilities [N, K], and the curvature there, [N, K, K]."""
    k, first = utility.shape[1], np.flatnonzero(np.diff(answers.item, prepend=-1))
    back = np.argsort(answers.index, axis=1)
    g = gamma[answers.labeller]
    for _ in range(steps + 1):
        _, e, rest = chances(answers, gamma, utility)
        share = answers.weight / np.where(answers.there, rest, 1.0)
        once, twice = upto(share, answers), upto(share / np.where(answers.there, rest, 1.0), answers)
        slope = np.take_along_axis(answers.weight - e * once, back, 1) * g[:, None]
        e, once, twice = (np.take_along_axis(each, back, 1) for each in (e, once, twice))
        bend = -e[:, :, None] * e[:, None, :] * np.minimum(twice[:, :, None], twice[:, None, :])
        bend[:, np.arange(k), np.arange(k)] += e * once
        curvature = np.eye(k) + np.add.reduceat(bend * (g**2)[:, None, None], first)
        move = np.linalg.solve(curvature, (np.add.reduceat(slope, first) - utility)[..., None])[..., 0]
        utility = utility + move * np.minimum(1, 2 / np.maximum(np.abs(move).max(1, keepdims=True), 1e-9))
    return utility, curvature


def accuracy(gamma: np.ndarray) -> np.ndarray:
    """[...] the chance of ordering two ordinary responses right: the mean of sigmoid(gamma |u_i - u_j|), u ~ N(0, 1)."""
    normal = NormalDist(sigma=2**0.5)
    apart = np.array([normal.inv_cdf(0.5 + (i + 0.5) / 400) for i in range(200)])
    return (1 / (1 + np.exp(-np.asarray(gamma)[..., None] * apart))).mean(-1)


def weights(gamma: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """[L] the weight of each labeller's rankings in a Bradley-Terry loss: gamma where above 0, with mean 1 over answers.

    With reward differences r the model's loss is -log sigmoid(gamma r), and its slope at small r is -gamma / 2, that of
    gamma times the plain loss: up to second order in r the weight does what the labeller's temperature would.  It is
    also the weight of least variance there, since an answer's expectation moves with gamma and its variance does not.
    One who ranks backwards gets 0: a negative weight would make the loss unbounded below.

    Args:
        gamma: [L]; answers: [L] how many each gave.
    """
    positive = np.maximum(gamma, 0.0)
    total = (positive * answers).sum()
    return positive * answers.sum() / total if total > 0 else np.ones_like(positive)
