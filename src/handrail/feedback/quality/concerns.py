"""What looks wrong, in words for those who run a project."""

from collections.abc import Sequence

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
    found = [*speed(labels), *same_text(labels)]
    for sheet in sheets(labels):
        found += [*position(sheet, level), *same_answer(sheet, level), *ties(sheet, level), *at_odds(sheet, level)]
        found += inconsistent(self_consistency(labels, sheet.kind, sheet.criterion), level)
        found += failing(gold_accuracy(labels, sheet.kind, sheet.criterion), level)
    grave = ("serious", "warning", "note")
    return sorted(found, key=lambda each: (grave.index(each.severity), each.labeller, each.name))
