"""Everything that is known of the quality of labels, as one record that goes to JSON."""

from collections.abc import Sequence

from handrail.feedback.kinds import Label
from handrail.feedback.quality.agreement import RESAMPLES, Agreement, agreement
from handrail.feedback.quality.checks import Share, gold_accuracy, self_consistency
from handrail.feedback.quality.concern import Concern
from handrail.feedback.quality.concerns import concerns
from handrail.feedback.quality.disagreements import Disagreement, disagreements
from handrail.feedback.quality.reliability import ErrorRate, Reliability, error_rates, reliability
from handrail.feedback.quality.sheets import counts, sheets
from handrail.records import Record


class Part(Record):
    """One kind of task, for ratings one criterion; `tasks` are those that it is made of.

    `labels`, `labellers` and `items` count first answers; `shared` the items that two or more answered.
    """

    kind: str
    criterion: str = ""
    tasks: tuple[str, ...] = ()
    labels: int
    labellers: int
    items: int
    shared: int
    agreement: Agreement
    consistency: tuple[Share, ...]
    gold: tuple[Share, ...]
    reliability: tuple[Reliability, ...]
    error_rates: tuple[ErrorRate, ...]


class Quality(Record):
    """What is known of the quality of labels.

    `labels` counts all that were handed in, `flagged` and `left_out` (practice, repeats, adjudications) those that take no
    part in agreement and reliability.
    """

    labels: int
    labellers: int
    items: int
    flagged: int
    left_out: int
    parts: tuple[Part, ...]
    concerns: tuple[Concern, ...]
    disagreements: tuple[Disagreement, ...]


def summary(labels: Sequence[Label], contested: int = 50, resamples: int = RESAMPLES, seed: int = 0) -> Quality:
    """All figures for labels of any kinds.  To look at one task or project, hand in its labels alone.

    Args:
        contested: how many of the most contested items to give.
        resamples, seed: of the bootstrap; the same labels and seed give the same record.
    """
    parts = []
    for sheet in sheets(labels):
        about = (labels, sheet.kind, sheet.criterion)
        parts.append(
            Part(
                kind=sheet.kind,
                criterion=sheet.criterion,
                tasks=tuple(sorted({task for task, _ in sheet.items})),
                labels=len(sheet.labels),
                labellers=len(sheet.labellers),
                items=len(sheet.items),
                shared=int((sheet.answered > 1).sum()),
                agreement=agreement(sheet, resamples, seed),
                consistency=tuple(self_consistency(*about)),
                gold=tuple(gold_accuracy(*about)),
                reliability=reliability(sheet).labellers,
                error_rates=error_rates(sheet)[0],
            )
        )
    flagged = sum(label.flagged for label in labels)
    return Quality(
        labels=len(labels),
        labellers=len({label.labeller for label in labels}),
        items=len({(label.task, label.item) for label in labels}),
        flagged=flagged,
        left_out=len(labels) - flagged - sum(counts(label) for label in labels),
        parts=tuple(parts),
        concerns=tuple(concerns(labels)),
        disagreements=tuple(disagreements(labels, contested)),
    )
