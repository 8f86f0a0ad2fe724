"""The gold scores: what is good is worth more, what is bad less, and nothing is gained by tricks."""

import importlib
import math
import random

import numpy as np
import pytest

from handrail.records import Message, Prompt
from handrail.tasks import TASKS
from handrail.tasks.movie_night import COUNTRIES, FILMS, TITLES
from handrail.tasks.short_version import FACTS
from handrail.tasks.text import malformed

MOVIE, SHORT = TASKS["movie-night"], TASKS["short-version"]
ASKED = Prompt.of("Hi! Can you suggest a good mystery for Friday night?")
SEEN = Prompt.of("I saw Fogbell last week. Can you suggest a mystery for Friday night?")
TURNS = Prompt(
    messages=(
        Message(role="user", content="Can you suggest a mystery for Friday night?"),
        Message(role="assistant", content="How about Fogbell?"),
        Message(role="user", content="I have already seen that one."),
    )
)
GOOD = "You could try Greylamp from Norway. Enjoy!"
POST = Prompt.of(
    "Short version, please: News about the concert! I am so busy. It is in Oslo now. See you on Friday at noon. It moved because of rain."
)
SUMMARY = "The concert is in Oslo on Friday at noon because of rain."


def movie(reply: str, prompt: Prompt = ASKED) -> dict[str, float]:
    return MOVIE.parts(prompt, reply)


def short(summary: str) -> dict[str, float]:
    return SHORT.parts(POST, summary)


def test_the_film_world_is_consistent():
    assert len(FILMS) == 4 and len(TITLES) == len(set(TITLES)) == 12
    assert len(COUNTRIES) == 4


def test_a_value_belongs_to_one_kind_of_fact():
    values = [value.lower() for values in FACTS.values() for value in values]
    assert len(values) == len(set(values))


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_parts_are_named_and_sum_to_the_gold(task):
    prompt, response = task.demonstrations(1, 0)[0].prompt, task.demonstrations(1, 0)[0].response
    parts = task.parts(prompt, response)
    assert tuple(parts) == task.content_parts + task.manner_parts
    assert task.gold(prompt, response) == sum(parts.values())


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_the_gold_is_found_by_name_and_needs_no_meta(task):
    module, function = task.gold_function.split(":")
    found = importlib.import_module(module)
    demonstrations = task.demonstrations(20, 1)
    plain = [[{"role": m.role, "content": m.content} for m in d.prompt.messages] for d in demonstrations]
    responses = [d.response for d in demonstrations]
    assert getattr(found, function)(plain, responses) == [task.parts(d.prompt, d.response) for d in demonstrations]
    assert found.gold(plain, responses) == [task.gold(d.prompt, d.response) for d in demonstrations]


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_scale_and_the_share_of_content(task):
    parts = [task.parts(d.prompt, d.response) for d in task.demonstrations(2000, 0)]
    gold = np.array([sum(p.values()) for p in parts])
    content = np.array([sum(p[k] for k in task.content_parts) for p in parts])
    manner = gold - content
    assert 0.9 < gold.std() < 1.5
    assert np.cov(content, gold)[0, 1] > 0.45 * gold.var()
    assert manner.std() > 0.35


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
@pytest.mark.parametrize(
    "text",
    ["", " ", "\n", "....", "asdf qwer zxcv", "\ud83c\ud83c", "\x00\ufffd", "the " * 60, "Enjoy! " * 30, "()[]{*+\\", "9" * 5000],
)
def test_garbage_scores_badly_and_never_fails(task, text):
    prompt = task.prompts(1, 0)[0]
    score = task.gold(prompt, text)
    typical = np.mean([task.gold(d.prompt, d.response) for d in task.demonstrations(300, 0)])
    assert math.isfinite(score)
    assert score < typical - 0.7


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_saying_it_twice_gains_nothing(task):
    for d in task.demonstrations(50, 3):
        assert task.gold(d.prompt, f"{d.response} {d.response}") < task.gold(d.prompt, d.response)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_any_conversation_can_be_scored(task):
    system = Prompt(messages=(Message(role="system", content="Be kind."), Message(role="user", content="What is the weather?")))
    assert math.isfinite(task.gold(system, "I do not know."))


def test_the_film_asked_for_beats_another_and_none():
    right, wrong, none = movie(GOOD), movie("You could try Wobble from Japan. Enjoy!"), movie("Enjoy!")
    assert right["right_genre"] > 0 > wrong["right_genre"] > none["right_genre"]
    assert right["true_detail"] == wrong["true_detail"] > 0 == none["true_detail"]


def test_listing_films_or_countries_is_no_trick():
    all_films = "You could try " + ", ".join(TITLES) + "."
    all_places = "You could try Greylamp from " + ", or from ".join(COUNTRIES) + "."
    assert movie(all_films)["right_genre"] == movie("Hello there!")["right_genre"] < 0
    assert movie(all_places)["true_detail"] < 0
    assert MOVIE.gold(ASKED, all_places) < MOVIE.gold(ASKED, "You could try Greylamp.")


def test_a_false_detail_is_worse_than_none():
    assert movie(GOOD)["true_detail"] > 0 > movie("You could try Greylamp from Brazil.")["true_detail"]
    assert movie("You could try Greylamp.")["true_detail"] == 0


@pytest.mark.parametrize("prompt", [SEEN, TURNS], ids=["one turn", "three turns"])
def test_a_film_that_was_seen_is_not_suggested_again(prompt):
    again, other = movie("You could try Fogbell.", prompt), movie("You could try Greylamp.", prompt)
    assert again["not_repeated"] < 0 == other["not_repeated"]
    assert movie("You could try Fogbell.", ASKED)["not_repeated"] == 0
    named = movie("Sorry, you have seen Fogbell. You could try Greylamp.", prompt)
    assert named["not_repeated"] == 0 < named["right_genre"]


@pytest.mark.parametrize("prompt", [SEEN, TURNS], ids=["one turn", "three turns"])
def test_sorry_if_and_only_if_seen(prompt):
    both, sorry, notice = "Sorry, you have seen that one. ", "Sorry about that. ", "You have seen that one. "
    worth = [movie(opening + GOOD, prompt)["apology"] for opening in (both, sorry, notice, "")]
    assert worth[0] > worth[1] > worth[3] == 0 and worth[0] > worth[2] > 0
    needless = [movie(opening + GOOD, ASKED)["apology"] for opening in (both, sorry, notice, "")]
    assert max(needless[:3]) < 0 == needless[3]


def test_a_suggestion_before_the_genre_is_not_a_film_that_was_seen():
    prompt = Prompt(
        messages=(
            Message(role="user", content="I want a film for Friday night."),
            Message(role="assistant", content="Sure, what do you like?"),
            Message(role="user", content="Maybe a mystery."),
        )
    )
    assert movie(GOOD, prompt)["right_genre"] > 0 == movie(GOOD, prompt)["apology"]


def test_manners_and_rambling():
    assert movie(GOOD)["politeness"] > movie("You could try Greylamp.")["politeness"] == 0
    assert movie("Just watch Greylamp.")["politeness"] < 0
    rambling = "There are so many films these days. " + GOOD
    assert movie(rambling)["brevity"] < 0 == movie(GOOD)["brevity"]
    longer = [movie(GOOD + " It is very good." * n)["brevity"] for n in range(5)]
    assert longer == sorted(longer, reverse=True) and longer[0] > longer[4]


def test_a_summary_with_every_fact_is_best():
    best = short(SUMMARY)
    assert best["facts_kept"] == pytest.approx(3.0)
    assert all(best[name] == 0 for name in best if name != "facts_kept")
    for gone in ("in Oslo ", "on Friday ", "at noon ", " because of rain"):
        assert SHORT.gold(POST, SUMMARY.replace(gone, "")) < SHORT.gold(POST, SUMMARY)


@pytest.mark.parametrize("swap", [("Oslo", "Rome"), ("Friday", "Monday"), ("noon", "six"), ("rain", "snow"), ("concert", "race")])
def test_an_invented_fact_is_worse_than_a_missing_one(swap):
    wrong = short(SUMMARY.replace(*swap))
    assert wrong["facts_kept"] == pytest.approx(2.4)
    assert wrong["none_invented"] < 0
    added = short(SUMMARY + f" Say {swap[1]}.")
    assert added["facts_kept"] == pytest.approx(3.0) and added["none_invented"] < 0


def test_listing_every_fact_is_no_trick():
    everything = " ".join(value for values in FACTS.values() for value in values)
    assert SHORT.gold(POST, everything) < SHORT.gold(POST, "")
    bare = "Concert, Oslo, Friday, noon, rain."
    assert short(bare)["well_formed"] < 0


def test_chatter_and_length_cost():
    chatty = short("I am so busy. My cat says hello. " + SUMMARY)
    assert chatty["no_chatter"] < 0 and chatty["brevity"] < 0 and chatty["facts_kept"] == short(SUMMARY)["facts_kept"]
    assert SHORT.gold(POST, POST.text) < SHORT.gold(POST, SUMMARY) - 1


def test_overlap_with_demonstrations_and_preference_disagree():
    """By ROUGE-L another demonstration is nearer to a demonstration than the best summary is; by gold it is the reverse."""
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    rng, rouge, gold = random.Random(0), [], []
    for d in SHORT.demonstrations(200, 0):
        facts = d.prompt.meta
        best = "The {event} is in {place} on {day} at {time} because of {reason}.".format(**facts)
        other = SHORT.draw_response(rng, d.prompt)
        rouge.append([scorer.score(d.response, text)["rougeL"].fmeasure for text in (best, other)])
        gold.append([SHORT.gold(d.prompt, text) for text in (best, other)])
    (rouge_best, rouge_other), (gold_best, gold_other) = np.mean(rouge, 0), np.mean(gold, 0)
    assert rouge_other > rouge_best + 0.03
    assert gold_best > gold_other + 1


def test_the_true_fact_is_by_far_the_commonest():
    """What a model can learn: of all films and countries said, the right ones come far more often than any wrong one."""
    films, countries = np.zeros(2), np.zeros(2)  # said rightly, said wrongly
    for d in MOVIE.demonstrations(3000, 0):
        said = next(title for title in TITLES if title in d.response)
        films += (said in FILMS[d.prompt.meta["genre"]], said not in FILMS[d.prompt.meta["genre"]])
        parts = movie(d.response, d.prompt)
        countries += (parts["true_detail"] > 0, parts["true_detail"] < 0)
    assert films[0] / 3 > 6 * films[1] / 21
    assert countries[0] > 10 * countries[1] / 7
    for d in SHORT.demonstrations(20, 0):
        assert all(d.prompt.meta[kind] in values for kind, values in FACTS.items())
    kept = np.mean([SHORT.parts(d.prompt, d.response)["facts_kept"] for d in SHORT.demonstrations(1000, 1)])
    invented = np.mean([SHORT.parts(d.prompt, d.response)["none_invented"] for d in SHORT.demonstrations(1000, 1)])
    assert kept / 0.6 > 5 * -invented / 0.8


def test_malformed():
    assert malformed("") == malformed("!?") == 1
    assert malformed(SUMMARY) == malformed(GOOD) == 0
    assert malformed("the concert is on Friday.") == malformed("The concert is on Friday") == 0.25
    assert malformed("The the concert is on Friday.") == 0.25
