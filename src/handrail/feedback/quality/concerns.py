"""What looks wrong, in words for those who run a project."""

from collections.abc import Iterable, Sequence

from handrail.feedback.kinds import Label
from handrail.feedback.quality.checks import gold_accuracy, self_consistency
from handrail.feedback.quality.concern import LEVEL, Concern
from handrail.feedback.quality.habits import position, same_answer, same_text, speed, ties
from handrail.feedback.quality.sheets import sheets
from handrail.feedback.quality.standing import at_odds, failing, inconsistent


def concerns(labels: Sequence[Label]) -> list[Concern]:
    """All that looks wrong, the most serious first, then by labeller.

    Every check that is a test shares its level among the labellers (Bonferroni) and asks besides for a difference that
    matters.
    """
    level = LEVEL / max(1, len({label.labeller for label in labels}))
    found = []
    for kind in sorted({label.answer.kind for label in labels}):
        alike = [label for label in labels if label.answer.kind == kind]
        found += within(alike, [*speed(alike), *same_text(alike)])
    for sheet in sheets(labels):
        shown = [*position(sheet, level), *same_answer(sheet, level), *ties(sheet, level), *at_odds(sheet, level)]
        shown += inconsistent(self_consistency(labels, sheet.kind, sheet.criterion), level)
        shown += failing(gold_accuracy(labels, sheet.kind, sheet.criterion), level)
        found += within(sheet.labels, shown)
    grave = ("serious", "warning", "note")
    return sorted(found, key=lambda each: (grave.index(each.severity), each.labeller, each.name))


def within(labels: Sequence[Label], found: Iterable[Concern]) -> list[Concern]:
    """The same, each with the tasks of its labeller's labels."""
    return [
        one.model_copy(update={"tasks": tuple(sorted({label.task for label in labels if label.labeller == one.labeller}))}) for one in found
    ]
