"""The kinds of feedback: what fits a task, and answers in the order shown and in the order of the item."""

import itertools

import pytest

from handrail.errors import InputError
from handrail.feedback.kinds import (
    Chatted,
    Compared,
    Criterion,
    Demonstrated,
    Item,
    Ranked,
    Rated,
    TaskSettings,
    Turn,
    as_shown,
    check,
    fits,
    restored,
)
from handrail.records import Prompt


@pytest.mark.parametrize("order", itertools.permutations(range(3)))
def test_an_answer_goes_from_the_screen_to_the_item_and_back(order):
    texts = ("a", "b", "c")
    on_screen = [texts[i] for i in order]
    ranked = Ranked(places=tuple(on_screen.index(t) + 1 for t in on_screen))  # the first on the screen is the best
    assert restored(ranked, order).places[order[0]] == 1 and restored(ranked, order).places[order[2]] == 3
    assert as_shown(restored(ranked, order), order) == ranked
    rated = Rated(ratings=tuple({"overall": float(ord(t))} for t in on_screen))
    assert [r["overall"] for r in restored(rated, order).ratings] == [97.0, 98.0, 99.0]


def test_the_better_of_two_is_the_one_that_stood_there():
    assert restored(Compared(better=0), (1, 0)).better == 1
    assert restored(Compared(better=0), (0, 1)).better == 0
    assert restored(Compared(better=None), (1, 0)).better is None


REFUSED = [
    (TaskSettings(kind="compare"), Ranked(places=(1, 2)), "kind rank"),
    (TaskSettings(kind="compare", ties=False), Compared(better=None), "a tie"),
    (TaskSettings(kind="compare"), Compared(better=None, strength="clearly"), "a strength"),
    (TaskSettings(kind="compare", strength=False), Compared(better=0, strength="clearly"), "a strength"),
    (TaskSettings(kind="rank"), Ranked(places=(1, 2, 3)), "3 places for 2"),
    (TaskSettings(kind="rank"), Ranked(places=(1, 3)), "none left out"),
    (TaskSettings(kind="rank"), Ranked(places=(2, 2)), "none left out"),
    (TaskSettings(kind="rank", ties=False), Ranked(places=(1, 1)), "no ties"),
    (TaskSettings(kind="rate"), Rated(ratings=({"overall": 3},)), "ratings of 1"),
    (TaskSettings(kind="rate"), Rated(ratings=({"other": 3}, {"overall": 3})), "ratings on other"),
    (TaskSettings(kind="rate"), Rated(ratings=({"overall": 3}, {"overall": 6})), "overall: 6"),
    (TaskSettings(kind="rate"), Rated(ratings=({"overall": 3}, {"overall": 2.5})), "overall: 2.5"),
    (
        TaskSettings(kind="chat", models=("a", "b"), turns=1),
        Chatted(turns=(Turn(message="m", responses=("x", "y"), better=0),) * 2),
        "2 turns",
    ),
]


@pytest.mark.parametrize(("settings", "answer", "says"), REFUSED)
def test_an_answer_that_does_not_fit_is_refused_in_words(settings, answer, says):
    with pytest.raises(InputError) as error:
        check(settings, answer, 2)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("kind", "n", "good"),
    [("compare", 2, True), ("compare", 3, False), ("rank", 9, True), ("rank", 10, False), ("rate", 1, True), ("demonstrate", 2, False)],
)
def test_items_have_as_many_responses_as_their_task_shows(kind, n, good):
    item = Item(prompt=Prompt.of("q"), responses=tuple(f"r{i}" for i in range(n)))
    if good:
        fits(TaskSettings(kind=kind), item)
    else:
        with pytest.raises(InputError, match=f"{n} responses"):
            fits(TaskSettings(kind=kind), item)


def test_a_line_of_json_gives_the_item_back_with_its_gold():
    item = Item(prompt=Prompt.of("q"), responses=("a", "b"), gold=Ranked(places=(2, 1)), practice=True, explanation="so")
    assert Item.model_validate_json(item.to_json()) == item


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (lambda: Criterion(low=1, high=1), "2 to 11 steps"),
        (lambda: TaskSettings(kind="chat", models=("one",)), "between two models"),
        (lambda: TaskSettings(kind="rate", criteria=(Criterion(), Criterion())), "the same name"),
        (lambda: Item(prompt=Prompt.of("q"), responses=("a", "b"), models=("m",)), "2 responses have 1 models"),
        (lambda: Item(prompt=Prompt.of("q"), practice=True), "needs gold"),
        (lambda: Demonstrated(text=""), "at least 1"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_made(record, says):
    with pytest.raises(ValueError, match=says):
        record()
