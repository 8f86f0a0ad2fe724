"""Answers that can be checked: against the labeller's own first answer, and against gold."""

from collections.abc import Callable, Sequence

import numpy as np

from handrail.feedback.kinds import Label
from handrail.feedback.quality.figures import Figure, wilson
from handrail.feedback.quality.sheets import first_answers, values
from handrail.records import Record

STEP = 1.0  # ratings that are no further apart than this, on the mean over the responses, are the same


class Share(Record):
    """How much of a labeller's checked answers is right; `n` of the figure counts answers."""

    labeller: str
    share: Figure


def self_consistency(labels: Sequence[Label], kind: str, criterion: str = "") -> list[Share]:
    """How far each labeller's repeats say what he or she said first.

    A comparison or ranking counts by the share of its pairs of responses with the same verdict, one half where only one
    of the two is a tie; ratings count as the same within one step on the mean.  Wilson's interval over repeats.
    """
    first = {(label.task, label.item, label.labeller): label for label in first_answers(labels)}
    found = []
    for label in labels:
        again = label.purpose == "repeat" and label.repetition > 0 and not label.flagged
        key = (label.task, label.item, label.labeller)
        if again and label.answer.kind == kind and key in first:
            found.append((label.labeller, values(label.answer, criterion), values(first[key].answer, criterion)))
    return shares(found, same_ratings if kind == "rate" else same_verdicts)


def gold_accuracy(labels: Sequence[Label], kind: str, criterion: str = "") -> list[Share]:
    """How far each labeller's first answers to gold items are right, with Wilson's interval over items.

    A comparison or ranking counts by the share of gold's untied pairs that it orders the same way, a tie counting one
    half; gold that is all ties counts by the share of its pairs that are tied.  Ratings are right within one step on the
    mean over the responses.
    """
    found = []
    for label in first_answers(labels):
        if label.gold is not None and label.answer.kind == kind == label.gold.kind:
            found.append((label.labeller, values(label.answer, criterion), values(label.gold, criterion)))
    return shares(found, same_ratings if kind == "rate" else right_order)


Told = tuple[float, ...] | None


def shares(found: Sequence[tuple[str, Told, Told]], rule: Callable[[np.ndarray, np.ndarray], float]) -> list[Share]:
    """The mean of rule(answer, truth) of each labeller, by name; what has no answer or another number of responses is left out."""
    right: dict[str, list[float]] = {}
    for labeller, told, truth in found:
        if told and truth and len(told) == len(truth):
            right.setdefault(labeller, []).append(rule(np.array(told), np.array(truth)))
    return [Share(labeller=name, share=wilson(sum(right[name]), len(right[name]))) for name in sorted(right)]


def verdicts(places: np.ndarray) -> np.ndarray:
    """[P] of every pair of responses i < j: 1 if i is better, -1 if j is, 0 a tie."""
    i, j = np.triu_indices(len(places), 1)
    return np.sign(places[j] - places[i])


def same_verdicts(told: np.ndarray, truth: np.ndarray) -> float:
    """1 less half the mean distance of verdicts: opposite ones are 2 apart."""
    return float(1 - np.abs(verdicts(told) - verdicts(truth)).mean() / 2)


def right_order(told: np.ndarray, truth: np.ndarray) -> float:
    right = verdicts(truth)
    if not right.any():
        return float((verdicts(told) == 0).mean())
    return float((1 + verdicts(told) * right)[right != 0].mean() / 2)


def same_ratings(told: np.ndarray, truth: np.ndarray) -> float:
    return float(np.abs(told - truth).mean() <= STEP)
