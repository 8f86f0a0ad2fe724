"""Ratings become rankings; criteria and scores go through the formats."""

import json
from pathlib import Path

import pytest

from data_tokenizers import byte_level
from handrail.data import Source, load_rankings, ranking_batch, write_records
from handrail.data.codec import Codec
from handrail.errors import DataError
from handrail.records import Prompt, Ranking


def rows(path: Path, *given: dict) -> Source:
    path.write_text("".join(json.dumps(row) + "\n" for row in given))
    return Source(path=str(path))


def rating(response: str, score: float, prompt: str = "q", **more: str) -> dict:
    return {"prompt": prompt, "response": response, "score": score, **more}


def test_ratings_of_one_prompt_are_a_ranking(tmp_path):
    given = [rating("a", 2), rating("b", 5), rating("z", 1, "other"), rating("c", 2), rating("y", 3.5, "other")]
    loaded = load_rankings(rows(tmp_path / "r.jsonl", *given))
    assert loaded.records == [
        Ranking(prompt=Prompt.of("q"), responses=("a", "b", "c"), places=(2, 1, 2), scores=(2, 5, 2)),
        Ranking(prompt=Prompt.of("other"), responses=("z", "y"), places=(2, 1), scores=(1, 3.5)),
    ]
    assert loaded.described == "rating: score of a response; 5 rows, 2 rankings, 0 dropped"


def test_labellers_and_criteria_are_never_mixed(tmp_path):
    given = [
        *(rating(r, s, labeller="ann", criterion="kind") for r, s in (("a", 1), ("b", 2))),
        *(rating(r, s, labeller="bob", criterion="kind") for r, s in (("a", 5), ("b", 4), ("c", 4))),
        *(rating(r, s, labeller="ann", criterion="short") for r, s in (("a", 9), ("b", 9))),
        rating("c", 3, labeller="eve", criterion="kind"),
    ]
    loaded = load_rankings(rows(tmp_path / "r.jsonl", *given))
    assert [(r.labeller, r.criterion, r.responses, r.places) for r in loaded.records] == [
        ("ann", "kind", ("a", "b"), (2, 1)),
        ("bob", "kind", ("a", "b", "c"), (1, 2, 2)),
        ("ann", "short", ("a", "b"), (1, 1)),
    ]
    assert loaded.dropped == {"the only rating of its prompt by its labeller": 1}


def test_a_response_with_two_scores_is_left_out_and_one_given_twice_is_one(tmp_path):
    given = [rating("a", 1), rating("a", 1), rating("b", 2), rating("c", 3), rating("c", 4)]
    loaded = load_rankings(rows(tmp_path / "r.jsonl", *given))
    assert [r.scores for r in loaded.records] == [(1, 2)]
    assert loaded.dropped == {"contradicts another label of the same labeller": 2}


def test_ratings_that_make_no_ranking_are_an_error(tmp_path):
    with pytest.raises(DataError, match=r"none of 2 rows can be used \(the only rating of its prompt by its labeller: 2\)"):
        load_rankings(rows(tmp_path / "r.jsonl", rating("a", 1), rating("b", 1, "other")))


def test_one_labeller_may_prefer_otherwise_by_another_criterion(tmp_path):
    base = {"prompt": "q", "chosen": "a", "rejected": "b", "labeller": "ann"}
    other = base | {"chosen": "b", "rejected": "a"}
    loaded = load_rankings(rows(tmp_path / "r.jsonl", base | {"criterion": "kind"}, other | {"criterion": "short"}))
    assert [(r.criterion, r.responses) for r in loaded.records] == [("kind", ("a", "b")), ("short", ("b", "a"))]
    loaded = load_rankings(rows(tmp_path / "r.jsonl", base, base | {"criterion": "kind"}, other | {"criterion": "kind"}))
    assert len(loaded.records) == 1 and loaded.dropped == {"contradicts another label of the same labeller": 2}


def test_scores_and_criteria_come_back_as_they_were_written(tmp_path):
    ranking = Ranking(prompt=Prompt.of("q"), responses=("a", "b"), places=(2, 1), scores=(-1.5, 2), criterion="kind", labeller="ann")
    write_records(tmp_path / "r.jsonl", [ranking])
    assert load_rankings(Source(path=str(tmp_path / "r.jsonl"))).records == [ranking]


@pytest.mark.parametrize(
    ("scores", "said"),
    [([1, 2], "do not give the places"), ([3], "2 responses have 1 scores"), ([2, "x"], "'scores' is text: 'x'"), ([1, 1], "do not give")],
)
def test_scores_that_do_not_fit_are_refused(tmp_path, scores, said):
    row = {"prompt": "q", "responses": ["a", "b"], "places": [1, 2], "scores": scores}
    with pytest.raises(DataError, match=said):
        load_rankings(rows(tmp_path / "r.jsonl", row))


def test_the_batch_holds_the_scores(tmp_path):
    prompt = Prompt.of("q")
    rankings = [
        Ranking(prompt=prompt, responses=("a", "b"), places=(2, 1), scores=(1, 4)),
        Ranking(prompt=prompt, responses=("a", "b", "c"), places=(1, 2, 3)),
    ]
    batch = ranking_batch(Codec(byte_level(), "plain"), rankings, 64)
    assert batch.ratings.tolist() == [[1, 4, 0], [0, 0, 0]] and batch.places.tolist() == [[2, 1, 1], [1, 2, 3]]


def test_a_rankings_id_tells_what_was_said_and_not_what_it_weighs():
    ranking = Ranking(prompt=Prompt.of("q"), responses=("a", "b"), places=(1, 2), labeller="ann", criterion="kind")
    assert ranking.model_copy(update={"weight": 3.0, "margin": 1.0}).id == ranking.id
    others = [{"places": (2, 1)}, {"labeller": "bob"}, {"criterion": "short"}, {"responses": ("a", "c")}, {"prompt": Prompt.of("p")}]
    assert len({ranking.model_copy(update=other).id for other in others} | {ranking.id}) == 6
