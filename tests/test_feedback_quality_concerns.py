"""Concerns: silent about honest labellers, heard about planted faults."""

from dataclasses import replace

import numpy as np
import pytest

from feedback_labels import compared, label, ranked, rated
from handrail.feedback.kinds import Demonstrated, Label, Ranked
from handrail.feedback.quality import concerns
from handrail.feedback.quality.concern import tail
from handrail.records import Prompt
from handrail.tasks import Labeller, crew

PROSE = Prompt.of(" ".join(["word"] * 120))


def honest(seed: int, items: int = 120, overlap: int = 3, k: int = 4, people: int = 10) -> list[Label]:
    """Simulated labellers as they are built in, but without a liking for a position: with time to read, gold and repeats."""
    rng = np.random.default_rng(seed)
    crowd, found = [replace(each, position_bias=0.0) for each in crew(people, seed)], []
    for item in range(items):
        worth = rng.normal(scale=0.6, size=k)
        chosen = rng.permutation(people)[:overlap]
        for number in chosen:
            first = ranked(crowd[number], item, worth, rng)
            clear = item % 6 == 0 and np.diff(np.sort(worth)).min() > 0.2
            gold = Ranked(places=tuple(int((worth > each).sum()) + 1 for each in worth)) if clear and k > 2 else None
            time = {"prompt": PROSE, "seconds": float(120 / 240 * 60 * rng.lognormal(0, 0.4)), "at": float(item)}
            found.append(first.model_copy(update={"gold": gold, **time}))
            if rng.random() < 0.15:
                again = ranked(crowd[number], item, worth, rng)
                found.append(again.model_copy(update={"purpose": "repeat", "repetition": 1, **time}))
    return found


def heard(labels: list[Label]) -> set[tuple[str, str]]:
    return {(each.name, each.labeller) for each in concerns(labels)}


def with_one(odd: Labeller, backwards: bool = False, k: int = 4, **more: object) -> list[Label]:
    """Honest labellers, and one more who answers every third item in a way of his or her own."""
    rng, labels = np.random.default_rng(99), honest(5, k=k)
    for item in range(0, 120, 3):
        worth = np.random.default_rng([5, item]).normal(scale=0.6, size=k)
        others = [each for each in labels if each.item == str(item) and each.purpose == "work"]
        mean = np.mean([each.answer.places for each in others], axis=0)
        labels.append(ranked(odd, item, -mean if len(others) else worth, rng, backwards).model_copy(update=more))
    return labels


@pytest.mark.parametrize("k", [2, 4])
def test_honest_labellers_raise_no_alarm(k):
    assert [found for seed in range(6) for found in concerns(honest(seed, k=k))] == []


@pytest.mark.slow
def test_false_alarms_are_rare():
    """A hundred projects with ten labellers each, ranking two, four or seven."""
    alarmed = [(seed, found.name) for seed in range(100) for found in concerns(honest(1000 + seed, k=(2, 4, 7)[seed % 3]))]
    assert len({seed for seed, _ in alarmed}) <= 3, alarmed


def test_haste():
    odd = Labeller(id="labeller-1")
    quick = {"prompt": PROSE, "seconds": 3.0}
    assert ("speed", "labeller-1") in heard(with_one(odd, **quick))
    assert ("speed", "labeller-1") not in heard(with_one(odd, prompt=PROSE, seconds=20.0))
    everybody = [each.model_copy(update={"seconds": 8.0}) for each in honest(1)]
    assert not [found for found in concerns(everybody) if found.name == "speed"], "faster than reading, but no faster than the others"
    (found,) = (each for each in concerns(with_one(odd, **quick)) if each.name == "speed")
    assert found.evidence["words_a_minute"] == pytest.approx(124 / 3 * 60) and "124 words" in found.message


def test_one_who_settles_is_not_hasty_and_sets_no_pace():
    odd = Labeller(id="labeller-1")
    hasty = with_one(odd, prompt=PROSE, seconds=3.0)
    settled = [
        each.model_copy(update={"labeller": "admin", "purpose": "adjudication", "seconds": 0.001})
        for each in hasty
        if each.labeller == "labeller-1"
    ]
    said = [[found.message for found in concerns(labels) if found.name == "speed"] for labels in (hasty, hasty + settled)]
    assert said[0] == said[1] and len(said[0]) == 1


def test_typing_faster_than_anybody():
    text = Demonstrated(text=" ".join(["word"] * 100))
    base = label(0, "labeller-1", compared(1)).model_copy(update={"answer": text, "responses": ()})
    pasted = [base.model_copy(update={"item": str(n), "seconds": 5.0}) for n in range(12)]
    assert heard(pasted) == {("speed", "labeller-1"), ("same answer", "labeller-1")}
    typed = [
        base.model_copy(update={"item": str(n), "seconds": 120.0, "answer": Demonstrated(text=f"{n} " + text.text)}) for n in range(12)
    ]
    assert heard(typed) == set()


@pytest.mark.parametrize("k", [2, 4])
def test_a_liking_for_what_is_shown_first(k):
    odd = Labeller(id="labeller-1", position_bias=4.0, temperature=0.4)
    assert ("position", "labeller-1") in heard(with_one(odd, k=k))
    against = Labeller(id="labeller-1", position_bias=-4.0, temperature=0.4)
    assert ("position", "labeller-1") in heard(with_one(against, k=2))


def test_labels_from_a_file_have_no_position():
    """The better one stands first in every record: that is the file's doing, not the labeller's."""
    labels = [label(n, f"labeller-{m}", compared(1)) for n in range(40) for m in range(3)]
    assert heard(labels) == set()


def test_one_answer_to_everything():
    rng = np.random.default_rng(0)
    labels = honest(2)
    for item in range(40):
        order = tuple(rng.permutation(4).tolist())
        places = tuple(order.index(response) + 1 for response in range(4))  # as shown: 1, 2, 3, 4
        labels.append(label(item, "labeller-1", Ranked(places=places), order=order))
    assert {("same answer", "labeller-1"), ("position", "labeller-1")} <= heard(labels)
    ratings = [label(n, f"labeller-{m}", rated(4 if m == 0 else 1 + int(rng.integers(5)))) for n in range(40) for m in range(4)]
    assert heard(ratings) == {("same answer", "labeller-0")}
    agreed = [label(n, f"labeller-{m}", rated(4)) for n in range(40) for m in range(4)]
    assert heard(agreed) == set(), "where all say the same nobody stands out"


def test_ties_always_and_never():
    rng = np.random.default_rng(0)
    labels = [label(n, f"labeller-{m}", compared(int(rng.integers(-1, 2)))) for n in range(60) for m in range(1, 4)]
    labels += [label(n, "labeller-8", compared(0)) for n in range(60)]
    labels += [label(n, "labeller-9", compared(int(rng.choice([-1, 1])))) for n in range(60)]
    found = {(each.labeller, each.severity) for each in concerns(labels) if each.name == "ties"}
    assert found == {("labeller-8", "serious"), ("labeller-9", "note")}


def test_at_odds_with_everyone():
    backwards = with_one(Labeller(id="labeller-1", temperature=0.2), backwards=True)
    (found,) = (each for each in concerns(backwards) if each.name == "disagreement")
    assert (found.labeller, found.severity) == ("labeller-1", "serious") and "wrong way round" in found.message
    (found,) = (each for each in concerns(with_one(Labeller(id="labeller-1", reliability=0.0))) if each.name == "disagreement")
    assert (found.labeller, found.severity) == ("labeller-1", "warning")
    assert found.evidence["share"] < found.evidence["at_most"] < found.evidence["others"]


def test_at_odds_with_oneself():
    rng, labels = np.random.default_rng(3), honest(3)
    for item in range(40):
        labels.append(label(item, "labeller-1", compared(1), task="task-2"))
        labels.append(label(item, "labeller-1", compared(int(rng.choice([-1, 1]))), task="task-2", purpose="repeat", repetition=1))
        labels.append(label(item, "labeller-2", compared(1), task="task-2"))
        labels.append(label(item, "labeller-2", compared(1), task="task-2", purpose="repeat", repetition=1))
    assert [each.labeller for each in concerns(labels) if each.name == "self-consistency"] == ["labeller-1"]


def test_failing_gold():
    labels = [label(n, "labeller-1", compared(-1 if n % 3 else 1), gold=compared(1), purpose="gold") for n in range(30)]
    labels += [label(n, "labeller-2", compared(1 if n % 10 else -1), gold=compared(1), purpose="gold") for n in range(30)]
    assert {each.labeller for each in concerns(labels) if each.name == "gold"} == {"labeller-1"}
    few = [each for each in labels if int(each.item) < 4]
    assert not [each for each in concerns(few) if each.name == "gold"]


def test_everything_that_is_said_can_be_used():
    labels = with_one(Labeller(id="labeller-1", temperature=0.2), backwards=True, seconds=1.0, prompt=PROSE)
    for each in concerns(labels):
        assert each.labeller in each.message and each.evidence and each.advice.endswith(".")
        assert all(np.isfinite(number) for number in each.evidence.values())


def test_the_tail_of_independent_trials():
    from scipy.stats import binom

    assert tail(np.full(20, 0.3), 9) == pytest.approx(binom.sf(8, 20, 0.3))
    assert tail(np.array([0.5, 0.25]), 1) == pytest.approx(1 - 0.5 * 0.75)
    assert tail(np.array([0.5]), 0) == 1
