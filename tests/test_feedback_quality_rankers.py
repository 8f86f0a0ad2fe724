"""The bar for reliability without gold: simulated labellers of differing sharpness rank the real answers of eight models."""

from dataclasses import dataclass

import numpy as np
import pytest

from feedback_labels import candidates, crew, ranked
from handrail.feedback.kinds import Label
from handrail.feedback.quality import reliability, sheet
from handrail.tasks import Labeller

BACKWARDS, OVERLAP, SEEDS = 3, 3, 10
TRAIN = 15  # items; from many more, five weights are known well whatever the labels are worth


@dataclass(frozen=True)
class World:
    """What is true and what was said: features and utilities of each item's answers, [K, 5] and [K], and labels."""

    features: list[np.ndarray]
    utility: list[np.ndarray]
    people: list[Labeller]
    labels: list[Label]


def world(seed: int) -> World:
    """A utility that is linear in features but for fixed noise; twenty labellers, one careless throughout, one backwards."""
    rng = np.random.default_rng([seed, 0xFEED])
    told = candidates()
    direction = rng.normal(size=5)
    direction /= np.linalg.norm(direction)
    utility = [each @ direction + 0.5 * rng.normal(size=len(each)) for each in told]
    people, labels = crew(rng), []
    for item, worth in enumerate(utility):
        for number in rng.permutation(len(people))[:OVERLAP]:
            labels.append(ranked(people[number], f"{item:03d}", worth, rng, backwards=number == BACKWARDS))
    return World(told, utility, people, labels)


def true_accuracy(found: World, seed: int) -> dict[str, float]:
    """The chance that a labeller orders a pair as the truth does, over every item three times."""
    rng, right = np.random.default_rng([seed, 1]), {}
    for number, person in enumerate(found.people):
        shares = []
        for worth in found.utility * 3:
            i, j = np.triu_indices(len(worth), 1)
            places = np.array(ranked(person, 0, worth, rng, backwards=number == BACKWARDS).answer.places)
            shares.append(np.mean((1 + np.sign(places[j] - places[i]) * np.sign(worth[i] - worth[j])) / 2))
        right[person.id] = float(np.mean(shares))
    return right


def order_right(score: list[np.ndarray], truth: list[np.ndarray]) -> float:
    """The share of pairs of an item's answers that a score orders as the truth does, a tie counting one half; over items."""
    shares = []
    for told, true in zip(score, truth, strict=True):
        i, j = np.triu_indices(len(true), 1)
        shares.append(np.mean((1 + np.sign(told[i] - told[j]) * np.sign(true[i] - true[j])) / 2))
    return float(np.mean(shares))


def linear_reward(found: World, items: set[int], weight: dict[str, float]) -> np.ndarray:
    """[5] a Bradley-Terry model that is linear in the features, fitted to weighted rankings by Newton's method."""
    x, w = [], []
    for each in found.labels:
        if int(each.item) in items:
            places, told = np.array(each.answer.places), found.features[int(each.item)]
            i, j = np.nonzero(places[:, None] < places[None, :])
            x.append(told[i] - told[j])
            w.append(np.full(len(i), weight[each.labeller] / max(1, len(i))))
    x, w, theta = np.concatenate(x), np.concatenate(w), np.zeros(5)
    for _ in range(30):
        p = 1 / (1 + np.exp(x @ theta))
        theta += np.linalg.solve((x * (w * p * (1 - p))[:, None]).T @ x + 1e-3 * np.eye(5), x.T @ (w * p) - 1e-3 * theta)
    return theta


def reward_gain(found: World, weight: dict[str, float], rng: np.random.Generator) -> float:
    """How much better weighted rankings of a few items make the linear reward on all other items."""
    train = set(rng.permutation(len(found.utility))[:TRAIN].tolist())
    rest = [item for item in range(len(found.utility)) if item not in train]
    reached = []
    for each in (weight, dict.fromkeys(weight, 1.0)):
        theta = linear_reward(found, train, each)
        reached.append(order_right([found.features[item] @ theta for item in rest], [found.utility[item] for item in rest]))
    return reached[0] - reached[1]


def interval(gains: list[float]) -> tuple[float, float]:
    """Mean and half-width of Student's 95 % interval over ten seeds."""
    return float(np.mean(gains)), 2.262 * float(np.std(gains, ddof=1)) / len(gains) ** 0.5


@pytest.mark.slow
def test_reliability_without_gold_on_real_answers():
    correlations, covered, better_consensus, better_reward = [], [], [], []
    for seed in range(SEEDS):
        found = world(seed)
        judged = reliability(sheet(found.labels, "rank"))
        truth = true_accuracy(found, seed)
        correlations.append(
            np.corrcoef([each.accuracy.value for each in judged.labellers], [truth[p.labeller] for p in judged.labellers])[0, 1]
        )
        covered += [each.accuracy.low <= truth[each.labeller] <= each.accuracy.high for each in judged.labellers]
        by_name = {each.labeller: each for each in judged.labellers}
        back = by_name[f"labeller-{BACKWARDS}"]
        assert back.sharpness.high < 0 and back.weight == 0, "who answers backwards is known, and has no weight"

        weighted = [np.array(each.utility) for each in judged.items]
        places: dict[int, list[tuple[int, ...]]] = {}
        for each in found.labels:
            places.setdefault(int(each.item), []).append(each.answer.places)
        borda = [-np.mean(places[item], axis=0) for item in range(len(found.utility))]
        better_consensus.append(order_right(weighted, found.utility) - order_right(borda, found.utility))

        weight = {name: each.weight for name, each in by_name.items()}
        better_reward.append(np.mean([reward_gain(found, weight, np.random.default_rng([seed, 2, draw])) for draw in range(6)]))
    print(f"correlations {np.round(correlations, 3)}, covered {np.mean(covered):.2f}")
    print(f"consensus {np.round(better_consensus, 3)}, reward {np.round(better_reward, 4)}")
    assert min(correlations) > 0.92
    assert 0.90 <= np.mean(covered) <= 0.98, "200 intervals of 95 %"
    mean, half = interval(better_consensus)
    assert mean - half > 0, f"weighted consensus better by {mean:.3f} +- {half:.3f}"
    mean, half = interval(better_reward)
    assert mean - half > 0, f"weighted reward model better by {mean:.4f} +- {half:.4f}"


def test_sharp_dull_and_backwards_are_told_apart():
    """Three of each on forty items; quick, and without any data."""
    rng = np.random.default_rng(0)
    people = [
        Labeller(temperature=t, reliability=1.0, position_bias=0.0, id=f"labeller-{n}")
        for n, t in enumerate([0.2, 0.2, 0.4, 0.4, 1.0, 0.3])
    ]
    labels = []
    for item in range(60):
        worth = rng.normal(size=5)
        labels += [ranked(people[n], item, worth, rng, backwards=n == 5) for n in rng.permutation(6)[:4]]
    found = [each.sharpness.value for each in reliability(sheet(labels, "rank")).labellers]
    assert min(found[:2]) > max(found[2:4]) > min(found[2:4]) > found[4] > 0 > found[5]
