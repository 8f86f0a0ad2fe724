"""How labellers stand beside the others, their own first answers, and gold, where that is a reason to look."""

from collections.abc import Iterator, Sequence
from statistics import NormalDist, median

import numpy as np

from handrail.feedback.quality.checks import Share
from handrail.feedback.quality.concern import Concern, Severity
from handrail.feedback.quality.figures import FEWEST, wilson
from handrail.feedback.quality.sheets import Sheet

CHECKED = 5  # repeats or gold items; from fewer nothing is said
PASS = 0.7  # of gold
COMMON_GROUND = 0.6  # agreement of the others, below which nobody can be said to stand apart


def agreeing(sheet: Sheet) -> tuple[np.ndarray, np.ndarray]:
    """([L, N], [L, N]) pairs of responses that a labeller and the others on an item both order: alike, and all."""
    a, b = sheet.both
    product = np.nan_to_num(sheet.verdict[a] * sheet.verdict[b])
    alike, all_of = np.zeros((2, len(sheet.labellers), len(sheet.items)))
    for rows in (a, b):
        np.add.at(alike, (sheet.labeller[rows], sheet.item[rows]), (product > 0).sum(1))
        np.add.at(all_of, (sheet.labeller[rows], sheet.item[rows]), (product != 0).sum(1))
    return alike, all_of


def at_odds(sheet: Sheet, level: float) -> Iterator[Concern]:
    """Who agrees with the others hardly more than chance does, while they agree among themselves.

    The upper bound of the labeller's agreement on order (one-sided, over items) is below a third of the way from 1/2 to the
    median of the others.  For single responses, where there is no order, nothing is said.
    """
    if sheet.value.shape[1] < 2:
        return
    alike, all_of = agreeing(sheet)
    items, pairs = (all_of > 0).sum(1), all_of.sum(1)
    share = alike.sum(1) / np.maximum(pairs, 1)
    spread = np.sqrt(((alike - share[:, None] * all_of) ** 2).sum(1)) / np.maximum(pairs, 1)
    upper = share + NormalDist().inv_cdf(1 - level) * np.maximum(spread, 0.5 / np.sqrt(np.maximum(pairs, 1)))
    enough = items >= FEWEST
    for number in np.flatnonzero(enough):
        others = share[enough & (np.arange(len(share)) != number)]
        if not len(others) or (usual := float(np.median(others))) < COMMON_GROUND or upper[number] >= 0.5 + (usual - 0.5) / 3:
            continue
        name, backwards = sheet.labellers[number], bool(upper[number] < 0.5)
        severity: Severity = "serious" if backwards else "warning"
        yield Concern(
            name="disagreement",
            labeller=name,
            severity=severity,
            evidence={"items": int(items[number]), "share": float(share[number]), "at_most": float(upper[number]), "others": usual},
            message=f"{name} orders two responses like the others in {share[number]:.0%} of cases on {items[number]} shared items; "
            f"among the others it is {usual:.0%}, and 50% is chance."
            + (" So far below chance, the scale may have been read the wrong way round." if backwards else ""),
            advice="Look at a few of the contested items together. The labeller may have misread the instructions, or have "
            "seen what the others missed; only the second look tells.",
        )


def inconsistent(shares: Sequence[Share], level: float) -> Iterator[Concern]:
    """Whose repeats differ from the first answers more than those of the others, beyond doubt."""
    known = [each for each in shares if each.share.n >= CHECKED]
    for each in known:
        others = [other.share.value or 0.0 for other in known if other is not each]
        least = 0.5 + (max(0.5, median(others)) - 0.5) / 2 if others else 0.6
        found = wilson((each.share.value or 0.0) * each.share.n, each.share.n, 1 - 2 * level)
        if found.value is None or found.high is None or found.high >= least:
            continue
        yield Concern(
            name="self-consistency",
            labeller=each.labeller,
            severity="warning",
            evidence={"repeats": found.n, "share": found.value, "at_most": found.high} | ({"others": median(others)} if others else {}),
            message=f"{each.labeller} says the same again in {found.value:.0%} of {found.n} repeated items"
            + (f"; the others in {median(others):.0%}." if others else "; 50% would be chance."),
            advice="Ask whether the items are hard to tell apart or the sessions long; shorter ones and clearer criteria help.",
        )


def failing(shares: Sequence[Share], level: float) -> Iterator[Concern]:
    """Who misses gold, beyond doubt."""
    for each in shares:
        if each.share.n < CHECKED or each.share.value is None:
            continue
        found = wilson(each.share.value * each.share.n, each.share.n, 1 - 2 * level)
        if found.high is not None and found.high < PASS:
            yield Concern(
                name="gold",
                labeller=each.labeller,
                severity="serious",
                evidence={"items": found.n, "accuracy": each.share.value, "at_most": found.high, "pass": PASS},
                message=f"{each.labeller} gets {each.share.value:.0%} of {found.n} gold items right; {PASS:.0%} is expected.",
                advice="Show these items with their explanations and offer the practice round. If several labellers miss the "
                "same item, mend the item.",
            )
