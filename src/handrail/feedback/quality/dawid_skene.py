"""How often each labeller is right, without gold: Dawid and Skene 1979."""

from dataclasses import dataclass

import numpy as np

SMOOTHING = 0.5  # answers of each labeller that are thought seen beforehand in each true class, spread evenly
STEPS, TOLERANCE = 500, 1e-6


@dataclass(frozen=True)
class ErrorRates:
    """What the EM algorithm found.

    Attributes:
        marginal: [C] the share of items in each class.
        confusion: [L, C, C] the chance that a labeller says l of an item whose class is j, at [labeller, j, l].
        posterior: [N, C] of each item's class.
        accuracy: [L] the chance that a labeller names the class of an item drawn at random.
    """

    marginal: np.ndarray
    confusion: np.ndarray
    posterior: np.ndarray
    accuracy: np.ndarray


def dawid_skene(
    item: np.ndarray,
    labeller: np.ndarray,
    answer: np.ndarray,
    items: int,
    labellers: int,
    classes: int,
    truth: np.ndarray | None = None,
    smoothing: float = SMOOTHING,
) -> ErrorRates:
    """Error rates of labellers and classes of items, by expectation and maximisation.

    Starts from the share of answers in each class, Dawid and Skene equation 3.1; then in turn their equations 2.3 and 2.4,
    with `smoothing`, and 2.5.  A labeller may answer an item several times.

    Args:
        item, labeller, answer: [A] of each answer, counting from 0.
        truth: [N] the class of items where it is known, below 0 where it is not.
        smoothing: keeps an error rate that rests on few answers away from 0; with 0 it is maximum likelihood.
    """
    known = np.full(items, -1) if truth is None else truth
    posterior = np.zeros((items, classes))
    np.add.at(posterior, (item, answer), 1)
    posterior /= np.maximum(posterior.sum(1, keepdims=True), 1)
    posterior[known >= 0] = np.eye(classes)[known[known >= 0]]
    answered = posterior.sum(1) > 0
    for _ in range(STEPS):
        table = np.full((labellers, classes, classes), smoothing / classes)
        np.add.at(table.transpose(0, 2, 1), (labeller, answer), posterior[item])
        confusion = table / np.maximum(table.sum(2, keepdims=True), 1e-300)
        marginal = (posterior[answered].sum(0) + smoothing / classes) / (answered.sum() + smoothing)
        with np.errstate(divide="ignore"):
            log = np.tile(np.log(marginal), (items, 1))
            np.add.at(log, item, np.log(confusion)[labeller, :, answer])
        new = np.exp(log - log.max(1, keepdims=True))
        new /= new.sum(1, keepdims=True)
        new[known >= 0] = posterior[known >= 0]
        moved = np.abs(new - posterior)[answered].max(initial=0)
        posterior = new
        if moved < TOLERANCE:
            break
    accuracy = np.einsum("j,ljj->l", marginal, confusion)
    return ErrorRates(marginal, confusion, posterior, accuracy)
