"""What rankings say of responses, given how sharply each labeller sees: Plackett and Luce's model.

Response i of an item has a hidden utility u_i, and labeller k ranks as one who chooses the best of what is left again and
again, with chances softmax(gamma_k u): Plackett 1975, for two responses Bradley and Terry 1952.  gamma_k near 0 is chance
and below 0 is backwards; how often a labeller orders a pair right, which `pairs` finds, gives it.  Utilities are N(0, 1)
beforehand: that fixes the scale, and keeps finite what few answers leave open.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from handrail.feedback.quality.pairs import sigmoid

STEPS = 20  # of Newton's method
NORMAL = NormalDist(sigma=2**0.5)
APART = np.array([NORMAL.inv_cdf(0.5 + (i + 0.5) / 400) for i in range(200)])  # |u_i - u_j| of ordinary responses
GAMMAS = np.concatenate([[0.0], np.geomspace(1e-3, 30.0, 300)])


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


def utilities(answers: Orders, gamma: np.ndarray, items: int) -> tuple[np.ndarray, np.ndarray]:
    """([N, K], [N, K]) the most likely utilities of each item's responses, and their standard deviations by Laplace."""
    utility, curvature = most_likely(answers, gamma, np.zeros((items, answers.index.shape[1])), STEPS)
    return utility, np.sqrt(np.diagonal(np.linalg.inv(curvature), axis1=1, axis2=2))


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
    return sigmoid(np.asarray(gamma)[..., None] * APART).mean(-1)


def sharpness(right: np.ndarray) -> np.ndarray:
    """[...] the gamma that has this accuracy, 30 at most."""
    ahead = np.asarray(right) - 0.5
    return np.sign(ahead) * np.interp(np.abs(ahead), accuracy(GAMMAS) - 0.5, GAMMAS)


def hazy(even: np.ndarray) -> np.ndarray:
    """[...] the accuracy of one who errs where responses are close, from that of one who errs anywhere and agrees as much.

    Two labellers who err independently on every pair agree by the product of 2 a - 1.  Where errors gather on close pairs
    they agree more than their accuracies say, since both have the easy ones right: for the mean of (2 a - 1)^2 over pairs
    to be the same, the mean of a has to be nearer 1/2.
    """
    ahead = 2 * np.asarray(even) - 1
    each = 2 * sigmoid(GAMMAS[:, None] * APART) - 1
    return 0.5 + 0.5 * np.sign(ahead) * np.interp(ahead**2, (each**2).mean(1), each.mean(1))


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
