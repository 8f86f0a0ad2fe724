"""Agreement, checks and reliability: against libraries, worked examples of the literature, and laws that must hold."""

import json
from itertools import combinations

import krippendorff
import numpy as np
import pytest
from scipy.stats import kendalltau
from statsmodels.stats import inter_rater
from statsmodels.stats.proportion import proportion_confint

from feedback_labels import compared, crew, label, ranked, rated
from handrail.errors import InputError
from handrail.feedback.kinds import Demonstrated, Ranked
from handrail.feedback.quality import (
    Quality,
    agreement,
    disagreements,
    error_rates,
    gold_accuracy,
    reliability,
    self_consistency,
    sheet,
    sheets,
    summary,
)
from handrail.feedback.quality.coefficients import cohen_kappa, coincidences, fleiss_kappa, fleiss_sums, krippendorff_alpha, tau_b
from handrail.feedback.quality.dawid_skene import dawid_skene
from handrail.feedback.quality.figures import resampled, wilson
from handrail.feedback.quality.pairs import derivatives, pairs, rates, sigmoid
from handrail.feedback.quality.rankers import APART, Orders, accuracy, hazy, most_likely, orders, sharpness, utilities, weights
from handrail.feedback.quality.reliability import accuracies

# Fleiss 1971's form, ten units by fourteen labellers: Fleiss' kappa 0.210.
FOURTEEN = np.array(
    [
        [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
    ]
)  # fmt: skip

# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C: four observers, twelve units.
FOUR_OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
]

# Dawid and Skene 1979, table 1: 45 patients; observer 1 three times, then observers 2 to 5.
ANAESTHETISTS = (
    "1111111 3334334 1122122 2223121 2223222 2223322 1222111 3333433 2222223 2322223 4444444 2223343 1111111 2223212 1211111 "
    "1112111 1111111 1111111 2222221 2221322 2222222 2222221 2223222 2212222 1111111 1111111 2322222 1111111 1111111 1121121 "
    "1111111 3333233 1111111 2222222 2223232 4334343 2212232 2323233 3333432 1111111 1111111 1212111 2322222 1211111 2222222"
)


def crowd(kind: str, items: int, labellers: int, seed: int, share: float = 0.7) -> list:
    """Labels by people who see the same truth with noise; each answers a share of the items."""
    rng, found = np.random.default_rng(seed), []
    for item in range(items):
        worth = rng.normal(size=2 if kind == "compare" else 4)
        for number in range(labellers):
            if rng.random() < share:
                seen = np.round(worth + 0.6 * rng.normal(size=len(worth)), 0 if number % 2 else 1)
                places = tuple(int((seen > each).sum()) + 1 for each in seen)
                ranks = sorted(set(places))
                answer = {
                    "compare": lambda seen=seen: compared(int(np.sign(seen[0] - seen[1]))),
                    "rank": lambda places=places, ranks=ranks: Ranked(places=tuple(ranks.index(p) + 1 for p in places)),
                    "rate": lambda seen=seen: rated(*np.clip(np.round(seen + 3), 1, 5)),
                }[kind]()
                found.append(label(f"{item:03d}", f"labeller-{number}", answer))
    return found


def both_said(labels: list, first: str, second: str) -> tuple[list, list]:
    """What two labellers said of the items that both answered, read without the code under test."""
    told = {name: {each.item: each.answer for each in labels if each.labeller == name} for name in (first, second)}
    shared = sorted(told[first].keys() & told[second].keys())
    return [told[first][item] for item in shared], [told[second][item] for item in shared]


def test_cohen_of_the_textbook():
    assert cohen_kappa(np.array([[20, 5], [10, 15]])) == pytest.approx(0.4)
    assert np.isnan(cohen_kappa(np.array([[9, 0], [0, 0]]))), "nobody ever said anything else: chance agrees fully"


def test_kappa_of_two_labellers_is_that_of_statsmodels():
    labels = crowd("compare", 60, 3, seed=1)
    found = {(pair.first, pair.second): pair for pair in agreement(sheet(labels, "compare"), 50).pairs}
    for (first, second), pair in found.items():
        a, b = both_said(labels, first, second)
        table = np.zeros((3, 3))
        for x, y in zip(a, b, strict=True):
            table[{0: 0, 1: 1, None: 2}[x.better], {0: 0, 1: 1, None: 2}[y.better]] += 1
        assert pair.items == len(a) == table.sum()
        assert pair.kappa.value == pytest.approx(inter_rater.cohens_kappa(table).kappa)
        assert pair.percent.value == pytest.approx(np.trace(table) / table.sum())
        assert pair.kappa.low < pair.kappa.value < pair.kappa.high
        assert pair.tau is None
    assert len(found) == 3


def test_quadratic_kappa_of_ratings_is_that_of_statsmodels():
    labels = crowd("rate", 40, 2, seed=2)
    a, b = both_said(labels, "labeller-0", "labeller-1")
    table = np.zeros((5, 5))
    for x, y in zip(a, b, strict=True):
        for r, s in zip(x.ratings, y.ratings, strict=True):
            table[int(r["overall"]) - 1, int(s["overall"]) - 1] += 1
    (pair,) = agreement(sheet(labels, "rate", "overall"), 50).pairs
    assert pair.kappa.value == pytest.approx(inter_rater.cohens_kappa(table, wt="quadratic").kappa)
    assert pair.percent.value == pytest.approx(np.trace(table) / table.sum())


def test_fleiss():
    sums = fleiss_sums(FOURTEEN.astype(float)).sum(0)
    assert fleiss_kappa(sums) == pytest.approx(0.210, abs=5e-4)
    assert fleiss_kappa(sums) == pytest.approx(inter_rater.fleiss_kappa(FOURTEEN))


def test_fleiss_with_differing_numbers_counts_units_alike():
    """A unit with the same shares from twice as many labellers moves chance not at all, and who is alone is left out."""
    one = fleiss_sums(np.array([[2.0, 2.0], [3.0, 1.0]]))
    two = fleiss_sums(np.array([[4.0, 4.0], [3.0, 1.0], [1.0, 0.0], [0.0, 0.0]]))
    assert two[:2, 2:] == pytest.approx(one[:, 2:])
    assert two[2:].tolist() == [[0.0] * 4] * 2
    assert two[0, 1] == pytest.approx(2 * (4 * 3) / (8 * 7))


def test_alpha_of_krippendorffs_own_example():
    """0.743 nominal, 0.815 ordinal, 0.849 interval, as the paper says and as the library finds; by the code of the intervals."""
    data = np.array(FOUR_OBSERVERS, dtype=float)
    domain = np.arange(1.0, 6.0)
    given = (data.T[:, :, None] == domain).sum(1).astype(float)
    matrix = coincidences(given).sum(0)
    for level, value in (("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)):
        found = krippendorff_alpha(matrix, domain, level)
        assert found == pytest.approx(value, abs=6e-4)
        assert found == pytest.approx(krippendorff.alpha(data, level_of_measurement=level))


@pytest.mark.parametrize("kind, level", [("compare", "nominal"), ("rank", "ordinal"), ("rate", "interval")])
def test_alpha_of_labels_and_of_a_resample(kind, level):
    labels = crowd(kind, 30, 4, seed=3)
    names, items = sorted({each.labeller for each in labels}), sorted({each.item for each in labels})
    units = 1 if kind == "compare" else 4
    data = np.full((len(names), len(items), units), np.nan)
    for each in labels:
        answer = each.answer
        told = [x["overall"] for x in answer.ratings] if kind == "rate" else answer.places
        data[names.index(each.labeller), items.index(each.item)] = np.sign(told[1] - told[0]) if kind == "compare" else told
    made = sheet(labels, kind, "overall" if kind == "rate" else "")
    found = agreement(made, 200).alpha
    expected = krippendorff.alpha(data.reshape(len(names), -1), level_of_measurement=level)
    assert found.value == pytest.approx(expected)
    drawn = np.random.default_rng(0).integers(0, len(items), (200, len(items)))  # the same bootstrap by the library alone
    again = [krippendorff.alpha(data[:, row].reshape(len(names), -1), level_of_measurement=level) for row in drawn]
    low, high = np.percentile(again, [2.5, 97.5])
    width = high - low
    assert abs(found.low - low) < 0.2 * width and abs(found.high - high) < 0.2 * width


def test_tau_b_is_that_of_scipy():
    labels = crowd("rank", 30, 2, seed=4)
    a, b = both_said(labels, "labeller-0", "labeller-1")
    each = np.array([kendalltau(x.places, y.places).statistic for x, y in zip(a, b, strict=True)])
    found = agreement(sheet(labels, "rank"), 50)
    assert found.pairs[0].tau.value == pytest.approx(np.nanmean(each))
    assert found.tau.value == pytest.approx(np.nanmean(each))
    assert np.isnan(tau_b(np.array([0.0, 0.0, 0.0]), np.array([1.0, 1.0, 1.0]))), "all ties: no direction"


def test_the_bootstrap_draws_items_and_not_pairs():
    """Copies of a pair within an item say nothing new: three tied to one another in all respects give no narrower interval."""
    rng = np.random.default_rng(5)
    pairs, triples = [], []
    for item in range(60):
        for name in ("labeller-1", "labeller-2"):
            first = bool(rng.random() < 0.7)
            pairs.append(label(item, name, compared(1 if first else -1)))
            triples.append(label(item, name, Ranked(places=(1, 2, 2, 2) if first else (2, 1, 1, 1))))
    narrow, wide = (agreement(sheet(each, kind), 1000).pairs[0].percent for each, kind in ((triples, "rank"), (pairs, "compare")))
    share = wide.value  # of a ranking's six pairs three are always ties
    assert narrow.value == pytest.approx((share + 1) / 2)
    assert (narrow.high - narrow.low) == pytest.approx((wide.high - wide.low) / 2, rel=1e-6)


def test_intervals_hold_what_they_promise():
    """Percent agreement of two who agree with chance 0.8: the interval holds it in 95 % of cases, or nearly."""
    held = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        labels = []
        for item in range(80):
            labels += [label(item, "labeller-1", compared(1)), label(item, "labeller-2", compared(1 if rng.random() < 0.8 else -1))]
        found = agreement(sheet(labels, "compare"), 200).percent
        held += found.low <= 0.8 <= found.high
    assert 88 <= held <= 99


def test_a_resample_draws_as_many_items_as_there_are():
    blocks = list(resampled(50, 7, seed=0))
    assert sum(block.shape[1] for block in blocks) == 7
    assert all((block.sum(0) == 50).all() for block in blocks)


def test_too_few_items_give_a_count_and_no_number():
    found = agreement(sheet(crowd("compare", 9, 2, seed=6, share=1.0), "compare"), 50)
    assert found.items == found.pairs[0].items == found.kappa.n == 9
    assert found.kappa.value is found.alpha.value is found.pairs[0].kappa.value is None
    alone = agreement(sheet([label(1, "labeller-1", compared(1))], "compare"), 50)
    assert (alone.items, alone.pairs, alone.kappa.value) == (0, (), None)


def test_only_first_answers_that_stand_count():
    labels = [
        label(1, "labeller-1", compared(1), at=1.0),
        label(1, "labeller-1", compared(-1), at=2.0),
        label(1, "labeller-1", compared(1), at=3.0, purpose="repeat", repetition=1),
        label(1, "labeller-2", compared(1), flagged=True),
        label(1, "labeller-3", compared(1), purpose="practice"),
        label(1, "labeller-4", compared(1), purpose="adjudication"),
        label(1, "labeller-5", compared(1), purpose="gold"),
    ]
    made = sheet(labels, "compare")
    assert made.labellers == ("labeller-1", "labeller-5")
    assert made.verdict[:, 0].tolist() == [-1, 1], "of two the later one"


def test_answers_about_different_responses_are_refused():
    with pytest.raises(InputError, match="3 responses"):
        sheet([label(1, "labeller-1", Ranked(places=(1, 2))), label(1, "labeller-2", Ranked(places=(1, 2, 3)))], "rank")


def test_wilson_is_that_of_statsmodels():
    for right, n in ((0, 5), (7, 9), (40, 40)):
        found = wilson(right, n)
        assert (found.low, found.high) == pytest.approx(proportion_confint(right, n, method="wilson"), abs=1e-12)
    assert wilson(0, 0).value is None


def test_self_consistency():
    first = [label(n, "labeller-1", Ranked(places=(1, 2, 3))) for n in range(4)]
    again = [(1, 2, 3), (3, 2, 1), (1, 1, 2), (1, 2, 3)]
    repeats = [label(n, "labeller-1", Ranked(places=p), purpose="repeat", repetition=1) for n, p in enumerate(again)]
    orphan = label(9, "labeller-1", Ranked(places=(1, 2, 3)), purpose="repeat", repetition=1)
    (found,) = self_consistency([*first, *repeats, orphan], "rank")
    assert found.share.n == 4
    assert found.share.value == pytest.approx((1 + 0 + (0.5 + 1 + 1) / 3 + 1) / 4)


def test_gold():
    """Places 1, 2, 2: two untied pairs.  One right and one tie is 3/4.  Ratings: a mean distance of one step is right."""
    gold = Ranked(places=(1, 2, 2))
    (found,) = gold_accuracy([label(1, "labeller-1", Ranked(places=(1, 1, 2)), gold=gold, purpose="gold")], "rank")
    assert found.share.value == 0.75 and found.share.n == 1
    close, far = (label(n, "labeller-1", rated(*r), gold=rated(3, 3)) for n, r in enumerate([(4, 2), (5, 2)]))
    (found,) = gold_accuracy([close, far], "rate", "overall")
    assert (found.share.value, found.share.n) == (0.5, 2)
    tie = [label(n, "labeller-1", compared(v), gold=compared(0)) for n, v in enumerate((0, 1))]
    assert gold_accuracy(tie, "compare")[0].share.value == 0.5


def test_dawid_and_skenes_anaesthetists():
    """Table 2 of the paper: 0.40, 0.42, 0.11, 0.07 of the patients in each class; the most likely class of a few of them."""
    item = np.repeat(np.arange(45), 7)
    observer = np.tile([0, 0, 0, 1, 2, 3, 4], 45)
    answer = np.array([int(digit) - 1 for patient in ANAESTHETISTS.split() for digit in patient])
    found = dawid_skene(item, observer, answer, 45, 5, 4, smoothing=0.0)
    assert found.marginal == pytest.approx([0.40, 0.42, 0.11, 0.07], abs=0.006)
    assert (found.posterior[[0, 1, 7, 10]].argmax(1) == [0, 3, 2, 3]).all()
    assert found.confusion.sum(2) == pytest.approx(np.ones((5, 4)))


def test_error_rates_come_back():
    """Three labellers of known error rates on 600 comparisons; gold pins what is known."""
    rng = np.random.default_rng(7)
    rates = {"labeller-1": 0.95, "labeller-2": 0.8, "labeller-3": 0.6, "labeller-4": 0.85}
    labels, truth = [], {}
    for item in range(600):
        truth[str(item)] = true = int(rng.choice([1, -1]))
        for name, rate in rates.items():
            labels.append(label(item, name, compared(true if rng.random() < rate else -true), gold=compared(-true) if item == 0 else None))
    labellers, verdicts = error_rates(sheet(labels, "compare"))
    for each in labellers:
        assert each.accuracy.value == pytest.approx(rates[each.labeller], abs=0.04)
    right = np.mean([(v.first > v.second) == (truth[v.item] == 1) for v in verdicts if v.item != "0"])
    assert right > 0.95
    (pinned,) = (v for v in verdicts if v.item == "0")
    assert (pinned.first if truth["0"] == -1 else pinned.second) == 1.0


def test_a_ranking_is_choices_from_what_is_left():
    """The most likely utilities and the curvature there, by finite differences of Plackett's likelihood written out, with ties."""
    score = np.array([[3.0, 1.0, 2.0, 0.5], [1.0, 2.0, 2.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    gamma = np.array([0.7, 1.5, -1.2])
    made: Orders = orders(np.zeros(3, int), np.arange(3), score)

    def posterior(utility: np.ndarray) -> float:
        value = -float(utility @ utility) / 2
        for row, g in zip(score, gamma, strict=True):
            for i in range(4):
                left = [j for j in range(4) if row[j] <= row[i]]
                m = (row == row.min()).sum()
                value += (g * utility[i] - np.log(np.exp(g * utility[left]).sum())) * ((m - 1) / m if row[i] == row.min() else 1)
        return value

    (utility,), (bend,) = most_likely(made, gamma, np.zeros((1, 4)), 20)
    steps = np.eye(4) * 1e-4
    slope = [(posterior(utility + d) - posterior(utility - d)) / 2e-4 for d in steps]
    assert slope == pytest.approx(np.zeros(4), abs=1e-6)
    curved = [
        [posterior(utility + c + d) - posterior(utility + c - d) - posterior(utility - c + d) + posterior(utility - c - d) for c in steps]
        for d in steps
    ]
    assert bend == pytest.approx(-np.array(curved) / 4e-8, abs=1e-4)
    assert utilities(made, gamma, 1)[1][0] == pytest.approx(np.sqrt(np.diag(np.linalg.inv(bend))))


def test_the_likelihood_of_pairs_has_the_derivatives_that_it_says():
    """By finite differences of the composite likelihood written out: both orders of every pair, each labeller by themselves."""
    rng = np.random.default_rng(12)
    item, labeller = np.repeat(np.arange(6), 3), np.tile(np.arange(3), 6)
    score = rng.integers(0, 4, (18, 4)).astype(float)
    score[6:9, 3] = np.nan
    logit, told = np.array([1.2, -0.4, 2.0]), pairs(item, labeller, score)

    def likelihood(theta: np.ndarray) -> float:
        total = 0.0
        for rows in score.reshape(6, 3, 4):
            k = int((~np.isnan(rows[0])).sum())
            for i, j in combinations(range(k), 2):
                right = {s: np.array([(1 + s * np.sign(row[i] - row[j])) / 2 for row in rows]) for s in (1, -1)}
                each = [(t * np.log(sigmoid(theta)) + (1 - t) * np.log(sigmoid(-theta))).sum() for t in right.values()]
                total += 4 / (k + 2) * np.logaddexp(*each)
        return total

    slope, known, unknown = derivatives(told, 6, logit)
    steps = np.eye(3) * 1e-4
    assert slope.sum(0) == pytest.approx([(likelihood(logit + d) - likelihood(logit - d)) / 2e-4 for d in steps], abs=1e-5)
    up = [derivatives(told, 6, logit + d)[0].sum(0) - derivatives(told, 6, logit - d)[0].sum(0) for d in steps]
    assert np.diag(known) - unknown == pytest.approx(-np.array(up) / 2e-4, abs=1e-5)


@pytest.mark.parametrize("careless", [0.0, 0.4])
def test_accuracies_are_found_and_their_intervals_hold(careless: float):
    """Hazy labellers, who err on close pairs, and careless ones, who do not look at all now and then: both are held."""
    rng, held, found_all, true_all = np.random.default_rng(13), [], [], []
    for _ in range(8):
        gamma, lapse = np.exp(rng.uniform(-0.3, 1.8, 12)), rng.uniform(0, careless, 12)
        utility = rng.normal(size=(90, 6))
        who = np.array([rng.permutation(12)[:3] for _ in range(90)]).ravel()
        item = np.repeat(np.arange(90), 3)

        def say(labeller: np.ndarray, seen: np.ndarray, gamma: np.ndarray = gamma, lapse: np.ndarray = lapse) -> np.ndarray:
            looked = (rng.random(len(labeller)) >= lapse[labeller])[:, None]
            return gamma[labeller, None] * seen * looked + rng.gumbel(size=seen.shape)

        right = accuracies(rates(pairs(item, who, say(who, utility[item])), 90, 12))
        again = np.repeat(np.arange(12), 400)
        fresh = rng.normal(size=(4800, 6))
        i, j = np.triu_indices(6, 1)
        said = say(again, fresh)
        true = ((said[:, i] > said[:, j]) == (fresh[:, i] > fresh[:, j])).mean(1).reshape(12, 400).mean(1)
        held += list((right[1] <= true) & (true <= right[2]))
        found_all, true_all = [*found_all, *right[0]], [*true_all, *true]
    assert 0.90 <= np.mean(held) <= 0.99
    assert abs(np.mean(np.subtract(found_all, true_all))) < 0.02 and np.corrcoef(found_all, true_all)[0, 1] > 0.75


def test_sharpness_and_accuracy_are_two_names_of_one_thing():
    gamma = np.array([-20.0, -1.0, 0.0, 0.3, 5.0, 20.0])
    assert sharpness(accuracy(gamma)) == pytest.approx(gamma, abs=1e-2, rel=1e-2)
    assert np.abs(sharpness(np.array([0.0, 1.0]))).tolist() == [30.0, 30.0]
    even = np.array([0.1, 0.5, 0.6, 0.8, 1.0])
    assert (np.abs(hazy(even) - 0.5) <= np.abs(even - 0.5)).all() and hazy(even)[1] == 0.5
    each = 2 * sigmoid(2.0 * APART) - 1
    assert hazy(0.5 + 0.5 * np.sqrt((each**2).mean())) == pytest.approx(accuracy(2.0), abs=1e-3)


def test_few_labels_and_extreme_ones_stay_finite():
    """Labellers with one label each, who agree in all; somebody alone; everything tied."""
    same = [label(n, f"labeller-{n}-{m}", Ranked(places=(1, 2, 3))) for n in range(10) for m in range(2)]
    alone = [label(n, "labeller-1", Ranked(places=(1, 2, 3))) for n in range(500)]
    tied = [label(n, f"labeller-{m}", Ranked(places=(1, 1, 1))) for n in range(5) for m in range(3)]
    for labels in (same, alone, tied):
        found = reliability(sheet(labels, "rank")).labellers
        assert all(-30 <= each.sharpness.low <= each.sharpness.value <= each.sharpness.high <= 30 for each in found)
        assert all(each.accuracy.high - each.accuracy.low > 0.05 for each in found), "nothing is known well from so little"
        assert np.average([each.weight for each in found], weights=[each.answers for each in found]) == pytest.approx(1)


def test_weights_are_never_negative_and_one_on_the_mean():
    found = weights(np.array([2.0, -1.0, 0.5]), np.array([10, 30, 5]))
    assert found[1] == 0 and found[0] == pytest.approx(4 * found[2])
    assert (found * [10, 30, 5]).sum() == pytest.approx(45)
    assert accuracy(np.array([0.0, 50.0, -50.0])) == pytest.approx([0.5, 1, 0], abs=0.02)


def test_gold_turns_a_crowd_that_is_mostly_backwards():
    """Without truth the majority is believed; a few gold items put it right."""
    rng = np.random.default_rng(9)
    people, labels, plain = crew(rng, 4), [], []
    for item in range(60):
        worth = rng.normal(size=5)
        gold = Ranked(places=tuple(int((worth > each).sum()) + 1 for each in worth)) if item < 30 else None
        for number, person in enumerate(people):
            said = ranked(person, item, worth, rng, backwards=number > 0)
            plain.append(said)
            labels.append(said.model_copy(update={"gold": gold}))
    blind, told = ({each.labeller: each.sharpness.value for each in reliability(sheet(each, "rank")).labellers} for each in (plain, labels))
    assert blind["labeller-0"] < 0 < max(blind["labeller-1"], blind["labeller-2"], blind["labeller-3"])
    assert told["labeller-0"] > 0 and all(told[f"labeller-{n}"] < 0 for n in (1, 2, 3))


def test_responses_are_not_told_apart_by_their_number():
    """The items' responses in another order: the same accuracies, and the utilities in that order."""
    rng = np.random.default_rng(10)
    item, labeller, score = np.repeat(np.arange(40), 3), np.tile(np.arange(3), 40), rng.integers(0, 4, (120, 4)).astype(float)
    turn = [2, 0, 3, 1]
    one, two = (rates(pairs(item, labeller, each), 40, 3) for each in (score, score[:, turn]))
    assert one.logit == pytest.approx(two.logit) and one.error == pytest.approx(two.error)
    first, second = (utilities(orders(item, labeller, each), np.ones(3), 40)[0] for each in (score, score[:, turn]))
    assert first[:, turn] == pytest.approx(second)


def test_the_most_contested_items_come_first():
    labels = [
        *(label("split", f"labeller-{n}", compared(1 if n % 2 else -1), reason="because") for n in range(2)),
        *(label("half", f"labeller-{n}", compared(n)) for n in range(2)),
        *(label("one", f"labeller-{n}", compared(1)) for n in range(2)),
        *(label("settled", f"labeller-{n}", compared(1 if n else -1)) for n in range(2)),
        label("settled", "labeller-9", compared(1), purpose="adjudication"),
    ]
    found = disagreements(labels)
    assert [(each.item, each.size) for each in found] == [("split", 1.0), ("half", 0.5)]
    assert [(said.labeller, said.answer.better, said.reason) for said in found[0].said] == [
        ("labeller-0", 1, "because"),
        ("labeller-1", 0, "because"),
    ]
    assert len(disagreements(labels, 1)) == 1


def test_the_summary_goes_to_json_and_back():
    talk = label("talk", "labeller-1", compared(1)).model_copy(update={"answer": Demonstrated(text="so"), "responses": ()})
    labels = [*crowd("compare", 20, 3, 11), *crowd("rank", 20, 3, 12), *crowd("rate", 20, 3, 13), talk]
    found = summary(labels, contested=5, resamples=100)
    assert [(part.kind, part.criterion) for part in found.parts] == [("compare", ""), ("rank", ""), ("rate", "overall")]
    assert [bool(part.error_rates) for part in found.parts] == [True, False, False]
    assert found.labels == len(labels) and len(found.disagreements) == 5
    text = found.model_dump_json()
    assert "NaN" not in text and Quality.model_validate(json.loads(text)) == found
    assert summary(labels, contested=5, resamples=100) == found


def test_nothing_at_all():
    found = summary([])
    assert (found.labels, found.parts, found.concerns, found.disagreements) == (0, (), (), ())
    assert sheets([label(1, "labeller-1", compared(1), flagged=True)]) == []


def test_single_ratings_have_agreement_and_no_order():
    labels = [label(n, f"labeller-{m}", rated(1 + (n + (m == 2)) % 5)) for n in range(20) for m in range(3)]
    (part,) = summary(labels, resamples=50).parts
    assert part.reliability == () and part.agreement.kappa.value is not None and part.agreement.alpha.value is not None
