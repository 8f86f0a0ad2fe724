"""Labels as arrays: who gave which item which places or ratings."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from handrail.errors import InputError
from handrail.feedback.kinds import Compared, Label, Ranked, Rated


@dataclass(frozen=True)
class Sheet:
    """The first answers of one kind, on one criterion: one of each labeller to each item that he or she had.

    Attributes:
        kind: compare, rank or rate.
        criterion: of the ratings, "" for the other kinds.
        labellers: [L] names in order.
        items: [N] (task, item) in order.
        labels: [A] the labels, by item, then by labeller.
        item, labeller: [A] of each label.
        value: [A, K] the place or the rating of each response, NaN where an item has fewer than K.
    """

    kind: str
    criterion: str
    labellers: tuple[str, ...]
    items: tuple[tuple[str, str], ...]
    labels: tuple[Label, ...]
    item: np.ndarray
    labeller: np.ndarray
    value: np.ndarray

    @cached_property
    def score(self) -> np.ndarray:
        """[A, K] higher is better."""
        return self.value if self.kind == "rate" else -self.value

    @cached_property
    def verdict(self) -> np.ndarray:
        """[A, P] of every pair of responses (i, j), i < j: 1 if i is better, -1 if j is, 0 a tie, NaN beyond the item's pairs."""
        i, j = np.triu_indices(self.value.shape[1], 1)
        return np.sign(self.score[:, i] - self.score[:, j])

    @cached_property
    def answered(self) -> np.ndarray:
        """[N] how many labellers answered each item."""
        return np.bincount(self.item, minlength=len(self.items))

    @cached_property
    def both(self) -> tuple[np.ndarray, np.ndarray]:
        """([E], [E]) every two labels a, b on the same item, a's labeller before b's; by item."""
        start = np.cumsum(self.answered) - self.answered
        found = []
        for m in np.unique(self.answered[self.answered > 1]):
            first, second = np.triu_indices(m, 1)
            at = start[self.answered == m][:, None]
            found.append(np.stack([(at + first).ravel(), (at + second).ravel()]))
        if not found:
            return np.zeros(0, int), np.zeros(0, int)
        a, b = np.concatenate(found, axis=1)
        order = np.lexsort((b, a))
        return a[order], b[order]


def counts(label: Label) -> bool:
    """Whether a label is somebody's own first answer: not flagged, not practice, not a repeat, not an adjudication."""
    return not label.flagged and label.purpose in ("work", "gold") and label.repetition == 0


def first_answers(labels: Sequence[Label]) -> list[Label]:
    """The labels that count, one of each labeller to each item, by item and labeller; of several the latest."""
    kept: dict[tuple[str, str, str], Label] = {}
    for label in sorted((label for label in labels if counts(label)), key=lambda label: label.at):
        kept[label.task, label.item, label.labeller] = label
    return [kept[key] for key in sorted(kept)]


def values(answer: object, criterion: str = "") -> tuple[float, ...] | None:
    """The places of an answer, or its ratings on a criterion; None where it has neither."""
    if isinstance(answer, Compared | Ranked):
        return tuple(float(place) for place in answer.places)
    if isinstance(answer, Rated) and all(criterion in rating for rating in answer.ratings):
        return tuple(rating[criterion] for rating in answer.ratings)
    return None


def sheet(labels: Sequence[Label], kind: str, criterion: str = "") -> Sheet:
    """The first answers of a kind as arrays.

    Raises:
        InputError: answers to one item that are about different numbers of responses.
    """
    firsts = [label for label in first_answers(labels) if label.answer.kind == kind and values(label.answer, criterion) is not None]
    rows = [values(label.answer, criterion) or () for label in firsts]
    items = tuple(sorted({(label.task, label.item) for label in firsts}))
    labellers = tuple(sorted({label.labeller for label in firsts}))
    number, name = {item: n for n, item in enumerate(items)}, {labeller: n for n, labeller in enumerate(labellers)}
    value = np.full((len(rows), max(map(len, rows), default=0)), np.nan)
    width: dict[tuple[str, str], int] = {}
    for row, (label, told) in enumerate(zip(firsts, rows, strict=True)):
        if width.setdefault((label.task, label.item), len(told)) != len(told):
            raise InputError(
                f"item {label.item!r} of task {label.task!r} has an answer about {len(told)} responses",
                f"all answers to it are about the same {width[label.task, label.item]}",
            )
        value[row, : len(told)] = told
    return Sheet(
        kind=kind,
        criterion=criterion,
        labellers=labellers,
        items=items,
        labels=tuple(firsts),
        item=np.array([number[label.task, label.item] for label in firsts], int),
        labeller=np.array([name[label.labeller] for label in firsts], int),
        value=value,
    )


def sheets(labels: Sequence[Label]) -> list[Sheet]:
    """One sheet for each kind whose answers can be held against each other, and for ratings one for each criterion.

    Demonstrations have no answer in common, and in a chat everybody goes his or her own way.
    """
    found = {("compare", ""), ("rank", "")} & {(label.answer.kind, "") for label in labels}
    for label in labels:
        if isinstance(label.answer, Rated):
            found |= {("rate", criterion) for rating in label.answer.ratings for criterion in rating}
    made = [sheet(labels, kind, criterion) for kind, criterion in sorted(found)]
    return [each for each in made if each.labels]
