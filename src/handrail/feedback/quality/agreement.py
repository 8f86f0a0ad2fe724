"""How much labellers agree, two by two and all together, with intervals from a bootstrap over items."""

from collections.abc import Callable, Iterator
from typing import Literal

import krippendorff
import numpy as np

from handrail.feedback.quality.coefficients import (
    cohen_kappa,
    coincidences,
    fleiss_kappa,
    fleiss_sums,
    krippendorff_alpha,
    quadratic_kappa,
    ratio,
    tau_b,
)
from handrail.feedback.quality.figures import FEWEST, Figure, figure, resampled
from handrail.feedback.quality.sheets import Sheet
from handrail.records import Record

Level = Literal["nominal", "ordinal", "interval"]
LEVEL: dict[str, Level] = {"compare": "nominal", "rank": "ordinal", "rate": "interval"}
RESAMPLES = 1000


class PairAgreement(Record):
    """Two labellers on the items that both answered.

    `kappa` is Cohen's: over verdicts better, worse and tie on pairs of responses, for ratings with quadratic weights.
    `tau` is Kendall's tau-b, the mean over items; for rankings only.
    """

    first: str
    second: str
    items: int
    percent: Figure
    kappa: Figure
    tau: Figure | None = None


class Agreement(Record):
    """All labellers on the items that two or more answered: `kappa` is Fleiss's, `alpha` Krippendorff's."""

    items: int
    percent: Figure
    kappa: Figure
    alpha: Figure
    tau: Figure | None = None
    pairs: tuple[PairAgreement, ...] = ()


def agreement(sheet: Sheet, resamples: int = RESAMPLES, seed: int = 0) -> Agreement:
    """Every coefficient for a sheet.  The same seed gives the same intervals.

    Two labellers without an item in common are left out of `pairs`; with fewer than `figures.FEWEST` the coefficients
    are None and `items` says how many there are.
    """
    items = int((sheet.answered > 1).sum())
    percent, kappa = fleiss(sheet, resamples, seed)
    return Agreement(
        items=items,
        percent=percent,
        kappa=kappa,
        alpha=alpha(sheet, resamples, seed),
        tau=mean_tau(sheet, resamples, seed) if sheet.kind == "rank" else None,
        pairs=tuple(two_by_two(sheet, resamples, seed)),
    )


def fleiss(sheet: Sheet, resamples: int = RESAMPLES, seed: int = 0) -> tuple[Figure, Figure]:
    """The share of agreeing pairs of answers, and Fleiss' kappa.

    The units are the pairs of an item's responses, for ratings its responses; the bootstrap draws items.
    """
    sums = fleiss_sums(given(sheet, sheet.value if sheet.kind == "rate" else sheet.verdict)).sum(1)
    percent = bootstrapped(sheet, sums, lambda s: ratio(s[..., 1], s[..., 0]), resamples, seed)
    return percent, bootstrapped(sheet, sums, fleiss_kappa, resamples, seed)


def alpha(sheet: Sheet, resamples: int = RESAMPLES, seed: int = 0) -> Figure:
    """Krippendorff's alpha: nominal over the verdicts of comparisons, ordinal over places, interval over ratings."""
    told = sheet.verdict if sheet.kind == "compare" else sheet.value
    each, domain, level = given(sheet, told), categories(told), LEVEL[sheet.kind]
    if len(domain) < 2 or each.sum(-1).max() < 2:
        return Figure(n=int((sheet.answered > 1).sum()))
    matrices, shape = coincidences(each).sum(1), (len(domain), len(domain))
    found = bootstrapped(
        sheet,
        matrices.reshape(len(matrices), -1),
        lambda sums: krippendorff_alpha(sums.reshape(*sums.shape[:-1], *shape), domain, level),
        resamples,
        seed,
    )
    if found.value is None:
        return found
    value = krippendorff.alpha(value_counts=each.reshape(-1, len(domain)), value_domain=domain, level_of_measurement=level)
    return found.model_copy(update={"value": float(value)})


def mean_tau(sheet: Sheet, resamples: int = RESAMPLES, seed: int = 0) -> Figure:
    """Kendall's tau-b: the mean over every two rankings of an item, then over items."""
    a, b = sheet.both
    tau, items = tau_b(sheet.verdict[a], sheet.verdict[b]), len(sheet.items)
    known, where = np.isfinite(tau), sheet.item[a]
    number = np.bincount(where, known, items)
    mean = np.bincount(where, np.nan_to_num(tau), items) / np.maximum(number, 1)
    sums = np.stack([number > 0, mean], axis=1).astype(float)
    return bootstrapped(sheet, sums, lambda s: ratio(s[..., 1], s[..., 0]), resamples, seed)


def bootstrapped(sheet: Sheet, sums: np.ndarray, rule: Callable[[np.ndarray], np.ndarray], resamples: int, seed: int) -> Figure:
    """A coefficient of sums over the items that two or more labellers answered.

    Args:
        sums: [N, S] what each item adds.
        rule: from sums [..., S] to the coefficient [...].
    """
    shared = sums[sheet.answered > 1]
    if not len(shared):
        return Figure(n=0)
    draws = [rule(weights.T @ shared) for weights in resampled(len(shared), resamples, seed)]
    return figure(float(rule(shared.sum(0))), np.concatenate(draws), len(shared))


def categories(told: np.ndarray) -> np.ndarray:
    """[C] what was said, in order."""
    return np.unique(told[~np.isnan(told)])


def given(sheet: Sheet, told: np.ndarray) -> np.ndarray:
    """[N, U, C] how many labellers put each unit of each item into each category.

    Args:
        told: [A, U] the category that each label puts each unit in, NaN beyond the item's units.
    """
    domain = categories(told)
    found = np.zeros((len(sheet.items), told.shape[1], len(domain)))
    row, unit = np.nonzero(~np.isnan(told))
    np.add.at(found, (sheet.item[row], unit, np.searchsorted(domain, told[row, unit])), 1)
    return found


def two_by_two(sheet: Sheet, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[PairAgreement]:
    """Every two labellers with an item in common, by name."""
    a, b = sheet.both
    sums, where = pair_sums(sheet, a, b), sheet.item[a]
    pair = sheet.labeller[a] * len(sheet.labellers) + sheet.labeller[b]
    order = np.argsort(pair, kind="stable")
    codes, starts = np.unique(pair[order], return_index=True)
    groups = np.split(order, starts[1:]) if len(codes) else []
    drawn: list[list[np.ndarray]] = [[] for _ in groups]
    for weights in resampled(len(sheet.items), resamples, seed):
        for group, draws in zip(groups, drawn, strict=True):
            if len(group) >= FEWEST:
                draws.append((sums[group].T @ weights[where[group]]).T)
    for code, group, draws in zip(codes, groups, drawn, strict=True):
        first, second = divmod(int(code), len(sheet.labellers))
        total, n = sums[group].sum(0), len(group)
        drawn_sums = np.concatenate(draws) if draws else np.zeros((0, sums.shape[1]))
        percent, kappa, tau = (figure(float(rule(total)), rule(drawn_sums), n) for rule in RULES[sheet.kind == "rate"])
        yield PairAgreement(
            first=sheet.labellers[first],
            second=sheet.labellers[second],
            items=n,
            percent=percent,
            kappa=kappa,
            tau=tau if sheet.kind == "rank" else None,
        )


def pair_sums(sheet: Sheet, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[E, S] what each two labels on an item add to the sums that `RULES` read."""
    if sheet.kind == "rate":
        x, y = sheet.value[a], sheet.value[b]
        known = ~np.isnan(x)
        return np.stack([np.where(known, each, 0).sum(1) for each in (x == y, np.ones_like(x), x, y, x * x, y * y, x * y)], axis=1)
    x, y = sheet.verdict[a], sheet.verdict[b]
    tau = tau_b(x, y)
    cells = [((x == i) & (y == j)).sum(1) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    return np.stack([*cells, np.isfinite(tau), np.nan_to_num(tau)], axis=1).astype(float)


def verdicts_alike(sums: np.ndarray) -> np.ndarray:
    return ratio(sums[..., [0, 4, 8]].sum(-1), sums[..., :9].sum(-1))


def kappa_of_verdicts(sums: np.ndarray) -> np.ndarray:
    return cohen_kappa(sums[..., :9].reshape(*sums.shape[:-1], 3, 3))


def tau_of_items(sums: np.ndarray) -> np.ndarray:
    return ratio(sums[..., 10], sums[..., 9])


def ratings_alike(sums: np.ndarray) -> np.ndarray:
    return ratio(sums[..., 0], sums[..., 1])


def kappa_of_ratings(sums: np.ndarray) -> np.ndarray:
    return quadratic_kappa(sums[..., 1:])


def no_tau(sums: np.ndarray) -> np.ndarray:
    return np.full(sums.shape[:-1], np.nan)


RULES = {True: (ratings_alike, kappa_of_ratings, no_tau), False: (verdicts_alike, kappa_of_verdicts, tau_of_items)}
