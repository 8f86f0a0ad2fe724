"""The items on which labellers disagree most: what an adjudicator should look at first."""

from collections.abc import Sequence

import numpy as np

from handrail.feedback.kinds import Answer, Label
from handrail.feedback.quality.sheets import Sheet, sheets
from handrail.records import Record


class Said(Record):
    """Who said what, in the order of the item's responses."""

    labeller: str
    answer: Answer
    reason: str = ""


class Disagreement(Record):
    """An item with its answers.  `size` is 0 where all say the same and 1 where every two say the opposite."""

    kind: str
    criterion: str = ""
    task: str
    item: str
    size: float
    said: tuple[Said, ...]


def disagreements(labels: Sequence[Label], limit: int | None = None) -> list[Disagreement]:
    """Items with two answers or more that do not all say the same, most contested first; of equal ones that with more answers.

    Verdicts on a pair of responses are 1 apart if opposite and 1/2 if one of them is a tie; ratings are apart by the share
    of the range that was used.  The size is the mean over every two answers.  Items with an adjudication are left out.
    """
    done = {(label.task, label.item) for label in labels if label.purpose == "adjudication" and not label.flagged}
    found = []
    for sheet in sheets(labels):
        size = sizes(sheet)
        told: dict[int, list[Label]] = {}
        for number, label in zip(sheet.item.tolist(), sheet.labels, strict=True):
            told.setdefault(number, []).append(label)
        for number in np.flatnonzero(size > 0).tolist():
            task, item = sheet.items[number]
            if (task, item) not in done:
                said = tuple(Said(labeller=label.labeller, answer=label.answer, reason=label.reason) for label in told[number])
                found.append(
                    Disagreement(kind=sheet.kind, criterion=sheet.criterion, task=task, item=item, size=float(size[number]), said=said)
                )
    found.sort(key=lambda each: (-each.size, -len(each.said), each.task, each.item, each.criterion))
    return found[:limit]


def sizes(sheet: Sheet) -> np.ndarray:
    """[N] how far an item's answers are apart, 0 to 1; 0 for fewer than two."""
    a, b = sheet.both
    told = sheet.value if sheet.kind == "rate" else sheet.verdict
    scale = max(np.nanmax(told) - np.nanmin(told), 1) if sheet.kind == "rate" else 2
    there = ~np.isnan(told[a])
    apart = np.where(there, np.abs(told[a] - told[b]), 0).sum(1) / scale / np.maximum(there.sum(1), 1)
    items = len(sheet.items)
    return np.bincount(sheet.item[a], apart, items) / np.maximum(np.bincount(sheet.item[a], minlength=items), 1)
