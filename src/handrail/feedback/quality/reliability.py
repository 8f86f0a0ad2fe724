"""How reliable each labeller is, what weight the rankings get, and what is most likely true of each item."""

from dataclasses import dataclass

import numpy as np

from handrail.feedback.quality.dawid_skene import dawid_skene
from handrail.feedback.quality.figures import Figure, wilson
from handrail.feedback.quality.pairs import GOLD, Rates, pairs, rates, sigmoid
from handrail.feedback.quality.rankers import hazy, orders, sharpness, utilities, weights
from handrail.feedback.quality.sheets import Sheet, values
from handrail.records import Record, places_of

CLASSES = (1, -1, 0)  # verdicts: the first response is better, the second is, a tie


class Reliability(Record):
    """A labeller as an instrument, estimated from all answers together.

    `accuracy` is the chance of ordering two ordinary responses right.  `sharpness` says the same as the inverse
    temperature gamma per standard deviation of utility: 0 is chance, below 0 backwards.  `weight` is for the labeller's
    rankings in the loss of the reward model.
    """

    labeller: str
    answers: int
    sharpness: Figure
    accuracy: Figure
    weight: float


class Consensus(Record):
    """What is most likely true of an item: places, and the utilities that they come from with their standard deviations."""

    task: str
    item: str
    places: tuple[int, ...]
    utility: tuple[float, ...]
    spread: tuple[float, ...]


class ErrorRate(Record):
    """A labeller's error rates on comparisons by Dawid and Skene.

    `confusion` has rows for the truth and columns for the answer, each: first better, second better, tie.  The interval of
    `accuracy` is Wilson's, which takes the estimated truth as known: a little too narrow.
    """

    labeller: str
    accuracy: Figure
    confusion: tuple[tuple[float, float, float], ...]


class Verdict(Record):
    """The chance of each true verdict on a compared item."""

    task: str
    item: str
    first: float
    second: float
    tie: float


@dataclass(frozen=True)
class Judged:
    """Labellers and items of a sheet; empty where no item has two responses."""

    labellers: tuple[Reliability, ...]
    items: tuple[Consensus, ...]


def gold_values(sheet: Sheet) -> dict[int, tuple[float, ...]]:
    """Gold of each item that has some."""
    found = {}
    for number, label in zip(sheet.item.tolist(), sheet.labels, strict=True):
        told = values(label.gold, sheet.criterion) if label.gold is not None and label.gold.kind == sheet.kind else None
        if told and len(told) == len(values(label.answer, sheet.criterion) or ()):
            found[number] = told
    return found


def reliability(sheet: Sheet) -> Judged:
    """Sharpness of labellers and consensus of items from comparisons, rankings, or ratings of several responses.

    Ratings count by the order that they give.  Gold, where there is some, speaks as one more labeller whose accuracy is
    known.
    """
    if not sheet.labels or sheet.value.shape[1] < 2:
        return Judged((), ())
    names, items, k = len(sheet.labellers), len(sheet.items), sheet.value.shape[1]
    gold = gold_values(sheet)
    extra = np.full((len(gold), k), np.nan)
    for row, told in enumerate(gold.values()):
        extra[row, : len(told)] = told if sheet.kind == "rate" else [-place for place in told]
    item, labeller = np.concatenate([sheet.item, np.array([*gold], int)]), np.concatenate([sheet.labeller, np.full(len(gold), names)])
    score = np.concatenate([sheet.score, extra])
    right = accuracies(rates(pairs(item, labeller, score), items, names, bool(gold)))
    sharp, given = sharpness(right), np.bincount(sheet.labeller, minlength=names)
    weight = weights(sharp[0], given)
    labellers = tuple(
        Reliability(
            labeller=name,
            answers=int(given[n]),
            sharpness=within(sharp[:, n], int(given[n])),
            accuracy=within(right[:, n], int(given[n])),
            weight=float(weight[n]),
        )
        for n, name in enumerate(sheet.labellers)
    )
    gamma = np.append(sharp[0], sharpness(sigmoid(np.array(GOLD))))
    return Judged(labellers, consensus(sheet, *utilities(orders(item, labeller, score), gamma, items)))


def accuracies(found: Rates) -> np.ndarray:
    """[3, L] value, lower and upper end of the 95 % interval.

    Agreement does not tell whether somebody errs on close pairs alone or anywhere, and the same agreement means another
    accuracy: the interval is that of both, one after the other, and the value stands between the two.
    """
    value, low, high = (sigmoid(found.logit + z * found.error) for z in (0.0, -1.96, 1.96))
    return np.stack([(value + hazy(value)) / 2, np.minimum(low, hazy(low)), np.maximum(high, hazy(high))])


def within(ends: np.ndarray, n: int) -> Figure:
    """A figure from its value and the ends of its interval, [3]."""
    value, low, high = ends.tolist()
    return Figure(value=value, low=low, high=high, n=n)


def consensus(sheet: Sheet, utility: np.ndarray, spread: np.ndarray) -> tuple[Consensus, ...]:
    """The places that utilities [N, K] give, for the responses that an item has."""
    size = np.zeros(len(sheet.items), int)
    size[sheet.item] = (~np.isnan(sheet.value)).sum(1)
    return tuple(
        Consensus(
            task=task,
            item=item,
            places=places_of(np.round(utility[n, : size[n]], 9).tolist()),
            utility=tuple(utility[n, : size[n]].tolist()),
            spread=tuple(spread[n, : size[n]].tolist()),
        )
        for n, (task, item) in enumerate(sheet.items)
    )


def error_rates(sheet: Sheet) -> tuple[tuple[ErrorRate, ...], tuple[Verdict, ...]]:
    """Dawid and Skene's error rates and verdicts for comparisons; gold, where there is some, is the truth."""
    if sheet.kind != "compare":
        return (), ()
    truth = np.full(len(sheet.items), -1)
    for number, told in gold_values(sheet).items():
        truth[number] = CLASSES.index(int(np.sign(told[1] - told[0])))
    answer = np.array([CLASSES.index(int(verdict)) for verdict in sheet.verdict[:, 0]], int)
    found = dawid_skene(sheet.item, sheet.labeller, answer, len(sheet.items), len(sheet.labellers), len(CLASSES), truth)
    given = np.bincount(sheet.labeller, minlength=len(sheet.labellers)).tolist()
    labellers = tuple(
        ErrorRate(
            labeller=name,
            accuracy=wilson(float(found.accuracy[n]) * given[n], given[n]),
            confusion=tuple(map(tuple, found.confusion[n].tolist())),
        )
        for n, name in enumerate(sheet.labellers)
    )
    verdicts = tuple(
        Verdict(task=task, item=item, first=p[0], second=p[1], tie=p[2])
        for (task, item), p in zip(sheet.items, found.posterior.tolist(), strict=True)
    )
    return labellers, verdicts
