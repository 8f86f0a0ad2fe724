"""How often each labeller orders two responses right, without gold, from who agrees with whom.

Every pair of an item's responses has an order that nobody knows, and labeller k says it with chance eta_k; a tie is half of
each.  This is the model of Dawid and Skene 1979 with one rate a labeller.  Said of every pair by itself it is a composite
likelihood (Lindsay 1988; Varin, Reid and Firth 2011): it need not know how a ranking is made, by one who looks hazily or by
one who now and then does not look.  That the pairs of an item hang together is left to the standard errors, which come from
the scores of whole items (Godambe 1960), and take in that the orders are known from the same answers alone.
"""

from dataclasses import dataclass

import numpy as np

GOLD = float(np.log(14))  # log-odds of gold: it errs on one pair of ordinary responses in 15
STEPS, TOLERANCE, LONGEST = 100, 1e-3, 0.5  # of Newton's way, in log-odds
FLAT = 0.03  # least curvature along any direction, beside that of known orders: a step is no longer than 33 of EM's
CELLS = 1 << 22  # numbers held at a time: 32 MiB


@dataclass(frozen=True)
class Pairs:
    """What was said of pairs of responses, by pair.

    Attributes:
        unit: [E] which pair of which item, counting from 0.
        item, labeller: [E].
        said: [E] 1 where the first of the two is better, -1 where the second is, 0 a tie.
        weight: [E] 4 / (K + 2) for one of K responses: the K (K - 1) / 2 pairs of a ranking tell less than as many comparisons.
    """

    unit: np.ndarray
    item: np.ndarray
    labeller: np.ndarray
    said: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True)
class Rates:
    """Log-odds of ordering a pair right, [L], and their standard errors, [L]."""

    logit: np.ndarray
    error: np.ndarray


def pairs(item: np.ndarray, labeller: np.ndarray, score: np.ndarray) -> Pairs:
    """Answers as what they say of pairs.

    Args:
        item, labeller: [A] counting from 0.
        score: [A, K] higher is better, equal ones are ties, NaN where an item has fewer responses.
    """
    first, second = np.triu_indices(score.shape[1], 1)
    verdict = np.sign(score[:, first] - score[:, second])
    row, which = np.nonzero(~np.isnan(verdict))
    size = (~np.isnan(score)).sum(1)[row]
    order = np.argsort(item[row] * len(first) + which, kind="stable")
    row, which, size = row[order], which[order], size[order]
    _, unit = np.unique(item[row] * len(first) + which, return_inverse=True)
    return Pairs(unit, item[row], labeller[row], verdict[row, which], 4 / (size + 2))


def rates(told: Pairs, items: int, labellers: int, gold: bool = False) -> Rates:
    """The most likely log-odds by Newton's method, drawn to their common mean by as much as they are found alike.

    Args:
        labellers: how many, gold not counted.
        gold: whether gold speaks too, under the number `labellers`; its log-odds are fixed.
    """
    logit = np.ones(labellers + gold)
    logit[labellers:] = GOLD
    centre, width = 1.0, 1.0
    for _ in range(STEPS):
        score, known, unknown = derivatives(told, items, logit)
        score, known, unknown = score[:, :labellers], known[:labellers], unknown[:labellers, :labellers]
        slope = score.sum(0) - (logit[:labellers] - centre) / width
        scale = 1 / np.sqrt(known + 1 / width)
        bends, axes = np.linalg.eigh(scale[:, None] * (np.diag(known + 1 / width) - unknown) * scale)
        axes = scale[:, None] * axes
        move = np.clip((axes / np.maximum(bends, FLAT)) @ (axes.T @ slope), -LONGEST, LONGEST)
        logit[:labellers] += move
        inverse = (axes / np.maximum(bends, (scale**2).min(initial=1.0) / width)) @ axes.T  # no flatter than beforehand
        variance = np.diag(inverse @ (score.T @ score + np.eye(labellers) / width) @ inverse)
        centre, width = common(logit[:labellers], variance)
        if np.abs(move).max(initial=0) < TOLERANCE:
            break
    return Rates(logit[:labellers], np.sqrt(variance))


def derivatives(told: Pairs, items: int, logit: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the log-likelihood by the log-odds: the slope of each item [N, L]; the curvature that there would be were the
    orders known, [L], its diagonal; and what goes off it since they are not, [L, L] (Louis 1982).
    """
    labellers, right = len(logit), sigmoid(logit)
    first = sigmoid(np.bincount(told.unit, logit[told.labeller] * told.said))  # the chance that the first is better
    each = told.weight * (0.5 + told.said * (first[told.unit] - 0.5) - right[told.labeller])
    score = np.bincount(told.item * labellers + told.labeller, each, items * labellers).reshape(items, labellers)
    known = np.bincount(told.labeller, told.weight, labellers) * right * (1 - right)
    spread = told.said * np.sqrt(told.weight * (first * (1 - first))[told.unit])
    unknown, block = np.zeros((labellers, labellers)), max(1, CELLS // labellers)
    for start in range(0, len(first), block):
        low, high = np.searchsorted(told.unit, (start, start + block))
        held = np.zeros((min(block, len(first) - start), labellers))
        held[told.unit[low:high] - start, told.labeller[low:high]] = spread[low:high]
        unknown += held.T @ held
    return score, known, unknown


def common(logit: np.ndarray, variance: np.ndarray) -> tuple[float, float]:
    """Mean and variance of the log-odds: the mean N(1, 1) beforehand, the variance as if one more had been 0.7 away from it."""
    width = float((((logit - logit.mean()) ** 2 + variance).sum() + 0.5) / (len(logit) + 1))
    return float((logit.sum() / width + 1) / (len(logit) / width + 1)), width


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), [...]."""
    return 0.5 + 0.5 * np.tanh(np.asarray(x) / 2)
