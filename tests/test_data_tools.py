"""What the store exports comes back as equal records; what other tools write is read; what is wrong in it is told."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from handrail.data import Loaded, Source, load_demonstrations, load_prompts, load_rankings, load_ratings
from handrail.errors import DataError
from handrail.feedback.formats import Options, records_of, write_export
from handrail.feedback.kinds import Label
from handrail.records import Demonstration, Prompt, Ranking, Rating
from labels_of_every_kind import hostile, labels

Load = Callable[[Source], Loaded]


def of(kind: type, some: list[Label]) -> list[Any]:
    return [record for record in records_of(some, {"labeller-2": 0.5}) if type(record) is kind]


def loaded(load: Load, path: Path, **settings: Any) -> list[Any]:
    return load(Source(path=str(path), **settings)).records


def exported(form: str, some: list[Label], folder: Path) -> Path:
    write_export(form, some, folder / form, Options(weights={"labeller-2": 0.5}, threshold=2.5))
    return folder / form


def as_pairs(rankings: list[Ranking], **lost: Any) -> list[Ranking]:
    """What a format of pairs keeps: each pair that is not tied, chosen first, with 1 / C(K, 2) of the weight."""
    found = []
    for r in rankings:
        every = len(r.responses) * (len(r.responses) - 1) // 2
        for better, worse in r.pairs():
            models = (r.models[better], r.models[worse]) if r.models else ()
            pair = {"responses": (r.responses[better], r.responses[worse]), "places": (1, 2), "models": models, "weight": r.weight / every}
            found.append(r.model_copy(update=pair | lost))
    return found


def unordered(records: list[Any]) -> Counter[str]:
    return Counter(record.to_json() for record in records)


def without_meta(records: list[Any]) -> list[Any]:
    return [record.model_copy(update={"prompt": Prompt(messages=record.prompt.messages)}) for record in records]


# --- a round trip ---

WHOLE = {
    "handrail": {"rankings": "rankings.jsonl", "ratings": "ratings.jsonl", "demonstrations": "demonstrations.jsonl"},
    "parquet": {"rankings": "rankings.parquet", "ratings": "ratings.parquet", "demonstrations": "demonstrations.parquet"},
    "datasets": {"rankings": "", "ratings": "ratings", "demonstrations": "demonstrations"},
}


@pytest.mark.parametrize("some", [labels, hostile], ids=["labels", "hostile"])
@pytest.mark.parametrize("form", WHOLE)
def test_formats_that_lose_nothing(form: str, some: Callable[[], list[Label]], tmp_path: Path) -> None:
    given, folder = some(), exported(form, some(), tmp_path)
    wanted = [r for r in of(Demonstration, given) if r.response.strip()]
    for load, kind, name in ((load_rankings, Ranking, "rankings"), (load_ratings, Rating, "ratings")):
        found = loaded(load, folder, subset=WHOLE[form][name]) if form == "datasets" else loaded(load, folder / WHOLE[form][name])
        assert found == of(kind, given)
    name = WHOLE[form]["demonstrations"]
    assert (
        loaded(load_demonstrations, folder, subset=name) if form == "datasets" else loaded(load_demonstrations, folder / name)
    ) == wanted


@pytest.mark.parametrize("some", [labels, hostile], ids=["labels", "hostile"])
def test_csv_keeps_pairs_ratings_and_demonstrations(some: Callable[[], list[Label]], tmp_path: Path) -> None:
    given, folder = some(), exported("csv", some(), tmp_path)
    assert loaded(load_rankings, folder / "pairs.csv") == as_pairs(of(Ranking, given))
    assert loaded(load_ratings, folder / "ratings.csv") == of(Rating, given)
    assert loaded(load_demonstrations, folder / "demonstrations.csv") == of(Demonstration, given)


@pytest.mark.parametrize("some", [labels, hostile], ids=["labels", "hostile"])
def test_trl_keeps_pairs_ratings_and_demonstrations_but_no_meta(some: Callable[[], list[Label]], tmp_path: Path) -> None:
    given, folder = some(), exported("trl", some(), tmp_path)
    assert loaded(load_rankings, folder / "preference.jsonl") == without_meta(as_pairs(of(Ranking, given)))
    assert loaded(load_ratings, folder / "unpaired.jsonl") == without_meta(of(Rating, given))
    assert loaded(load_demonstrations, folder / "demonstrations.jsonl") == without_meta(of(Demonstration, given))


def test_hh_keeps_pairs_of_dialogues(tmp_path: Path) -> None:
    folder = exported("hh", labels(), tmp_path)
    wanted = [pair for pair in as_pairs(of(Ranking, labels())) if pair.prompt.messages[0].role != "system"]
    assert len(wanted) == 10 and loaded(load_rankings, folder / "transcripts.jsonl") == wanted


def test_hh_keeps_hostile_text_but_for_space_around_it(tmp_path: Path) -> None:
    folder = exported("hh", hostile(), tmp_path)
    found = loaded(load_rankings, folder / "transcripts.jsonl")
    # three prompts that differ by the space before them alone become one, with labels that contradict one another
    wanted = [pair for pair in as_pairs(of(Ranking, hostile())) if pair.prompt.text.strip() != "=1"]
    assert [r.prompt.text for r in found] == [r.prompt.text.strip() for r in wanted]
    assert [r.responses for r in found] == [tuple(text.strip() for text in r.responses) for r in wanted]


@pytest.mark.parametrize("some", [labels, hostile], ids=["labels", "hostile"])
def test_label_studio_keeps_all_and_another_order(some: Callable[[], list[Label]], tmp_path: Path) -> None:
    given, folder = some(), exported("labelstudio", some(), tmp_path)
    rankings = [r for name in ("compare", "rank") if (p := folder / name / "tasks.json").exists() for r in loaded(load_rankings, p)]
    assert unordered(rankings) == unordered(of(Ranking, given))
    assert unordered(loaded(load_ratings, folder / "rate/tasks.json")) == unordered(of(Rating, given))
    assert loaded(load_demonstrations, folder / "demonstrate/tasks.json") == of(Demonstration, given)


@pytest.mark.parametrize("some", [labels, hostile], ids=["labels", "hostile"])
def test_argilla_keeps_all_but_shared_places_of_three_or_more(some: Callable[[], list[Label]], tmp_path: Path) -> None:
    given, folder = some(), exported("argilla", some(), tmp_path)
    rankings = [
        r for path in sorted(folder.glob("compare*")) + sorted(folder.glob("rank*")) for r in loaded(load_rankings, path / "records.json")
    ]
    wanted = [r for r in of(Ranking, given) if len(r.responses) == 2 or len(set(r.places)) == len(r.places)]
    assert unordered(rankings) == unordered(wanted)
    assert unordered(loaded(load_ratings, folder / "rate/records.json")) == unordered(of(Rating, given))
    assert loaded(load_demonstrations, folder / "demonstrate/records.json") == of(Demonstration, given)


def test_every_column_of_ours_is_used(tmp_path: Path) -> None:
    found = load_rankings(Source(path=str(exported("datasets", labels(), tmp_path))))
    assert found.described == "ranking: responses in their places, 1 the best; 9 rows, 9 rankings, 0 dropped"
    assert load_prompts(Source(path=str(tmp_path / "datasets"))).records[1:3] == [
        as_pairs(of(Ranking, labels()))[2].prompt,
        labels()[3].prompt,
    ]


# --- what others write ---


@dataclass(frozen=True)
class Case:
    load: Load
    row: dict[str, Any]
    records: list[Any]
    columns: dict[str, str]


def case(load: Load, row: dict[str, Any], *records: Any, **columns: str) -> Case:
    return Case(load, row, list(records), columns)


def studio(data: dict[str, Any], *annotations: Any) -> dict[str, Any]:
    return {"id": 1, "data": data, "annotations": list(annotations), "predictions": [], "project": 3}


def result(kind: str, value: Any, field: str = "", **more: Any) -> dict[str, Any]:
    return {"id": "x", "from_name": "tag", "to_name": "thing", "type": kind, "origin": "manual", "value": {field or kind: value}} | more


def annotation(*results: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": 7, "completed_by": 4, "result": list(results), "was_cancelled": False} | more


def argilla(fields: dict[str, Any], **responses: Any) -> dict[str, Any]:
    answers = {name: [{"value": value, "user_id": user} for user, value in some.items()] for name, some in responses.items()}
    return {"id": "1", "fields": fields, "metadata": {}, "suggestions": {}, "responses": answers, "vectors": {}, "_server_id": None}


Q = Prompt.of("q")
TWO = {"prompt": "q", "answer1": "a", "answer2": "b"}
ITEMS = [{"id": "llm_1", "title": "LLM 1", "body": "a"}, {"id": "llm_2", "title": "LLM 2", "body": "b"}]

CASES = {
    "studio-pairwise": case(
        load_rankings,
        studio(
            TWO, annotation(result("pairwise", "right", "selected")), annotation(result("pairwise", "left", "selected"), was_cancelled=True)
        ),
        Ranking(prompt=Q, responses=("a", "b"), places=(2, 1), labeller="4"),
    ),
    "studio-pairwise-columns": case(
        load_rankings,
        studio({"ask": "q", "one": "a", "two": "b"}, annotation(result("pairwise", "left", "selected"), completed_by={"email": "x@y.org"})),
        Ranking(prompt=Q, responses=("a", "b"), places=(1, 2), labeller="x@y.org"),
        prompt="data.ask",
        left="data.one",
        right="data.two",
    ),
    "studio-ranker": case(
        load_rankings,
        studio({"prompt": "q", "items": ITEMS}, annotation(result("ranker", ["llm_2", "llm_1"]))),
        Ranking(prompt=Q, responses=("a", "b"), places=(2, 1), labeller="4"),
    ),
    "studio-rating": case(
        load_ratings,
        studio({"prompt": "q", "answer": "a"}, annotation(result("rating", 4), result("number", 2.5, from_name="length"))),
        Rating(prompt=Q, response="a", score=4, criterion="tag", labeller="4"),
        Rating(prompt=Q, response="a", score=2.5, criterion="length", labeller="4"),
    ),
    "studio-textarea": case(
        load_demonstrations,
        studio({"question": "q"}, annotation(result("textarea", ["a"], "text"))),
        Demonstration(prompt=Q, response="a", author="4"),
    ),
    "argilla-ranks": case(
        load_rankings,
        argilla(
            {"prompt": "q", "reply-1": "a", "reply-2": "b", "reply-3": "c"},
            order={
                "u": [{"value": "reply-3", "rank": 1}, {"value": "reply-1", "rank": 1}, {"value": "reply-2", "rank": 3}],
                "v": ["reply-2", "reply-1", "reply-3"],
            },
        ),
        Ranking(prompt=Q, responses=("a", "b", "c"), places=(1, 3, 1), labeller="u"),
        Ranking(prompt=Q, responses=("a", "b", "c"), places=(2, 1, 3), labeller="v"),
    ),
    "argilla-rating": case(
        load_ratings,
        argilla({"instruction": "q", "completion": "a"}, helpful={"u": 4}, comment={"u": "fine"}),
        Rating(prompt=Q, response="a", score=4, criterion="helpful", labeller="u"),
    ),
    "argilla-text": case(
        load_demonstrations,
        argilla({"ctx": "q", "old": "x"}, corrected={"u": "a"}, comment={"u": "fine"}),
        Demonstration(prompt=Q, response="a", author="u"),
        prompt="fields.ctx",
        response="responses.corrected",
    ),
    "unpaired": case(
        load_ratings,
        {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}], "label": True},
        Rating(prompt=Q, response="a", score=1),
    ),
    "unpaired-prompts": case(load_prompts, {"prompt": "q", "completion": "a", "label": False}, Q),
}


@pytest.mark.parametrize("name", CASES)
def test_each_tool(name: str, tmp_path: Path) -> None:
    path = tmp_path / "export.json"
    path.write_text(json.dumps([CASES[name].row]))
    found = CASES[name].load(Source(path=str(path), columns=CASES[name].columns))
    assert found.records == CASES[name].records
    assert found.described.startswith(f"{found.format}: ") and found.dropped == {}


WRONG = {
    "no prompt": (
        load_rankings,
        studio({"text1": "a", "text2": "b"}, annotation(result("pairwise", "left", "selected"))),
        "a prompt as one of",
    ),
    "no pair": (
        load_rankings,
        studio({"prompt": "q", "x": "a"}, annotation(result("pairwise", "left", "selected"))),
        "columns: {left: data.first",
    ),
    "selected": (load_rankings, studio(TWO, annotation(result("pairwise", "up", "selected"))), "'selected' is 'up'(.|\n)*left or right"),
    "ids": (load_rankings, studio({"prompt": "q", "items": ITEMS}, annotation(result("ranker", ["llm_9"]))), "it ranks llm_9"),
    "bucket": (
        load_rankings,
        studio({"prompt": "q", "items": ITEMS}, annotation(result("ranker", {"good": ["llm_1"]}))),
        "the bucket 'good'",
    ),
    "no results": (
        load_ratings,
        studio({"prompt": "q", "answer": "a"}, annotation(result("rating", 1)), {"id": 3}),
        "annotation 2: .*without a list 'result'",
    ),
    "stars": (load_ratings, studio({"prompt": "q", "answer": "a"}, annotation(result("rating", "4"))), "'rating' is text: '4'"),
    "argilla prompt": (load_ratings, argilla({"a": "q"}, helpful={"u": 1}), r"columns: \{prompt: fields.context\}"),
    "argilla option": (
        load_rankings,
        argilla({"prompt": "q", "r1": "a", "r2": "b"}, order={"u": ["r1", "r9"]}),
        "user u: 'order' ranks 'r9'",
    ),
    "argilla texts": (
        load_demonstrations,
        argilla({"prompt": "q"}, a={"u": "x"}, b={"u": "y"}),
        r"columns: \{response: responses.corrected\}",
    ),
    "argilla which": (load_ratings, argilla({"prompt": "q", "r1": "a", "r2": "b"}, helpful={"u": 1}), "'helpful' rates one of r1, r2"),
    "argilla value": (
        load_ratings,
        {"fields": {"prompt": "q", "r": "a"}, "responses": {"h": [{"value": 1}, 4]}},
        "a response to 'h' is a number",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_told_with_its_place(name: str, tmp_path: Path) -> None:
    load, row, said = WRONG[name]
    path = tmp_path / "export.json"
    path.write_text(json.dumps([row]))
    with pytest.raises(DataError, match=said) as caught:
        load(Source(path=str(path)))
    assert str(caught.value).startswith(f"{path}, record 1")


def test_tasks_without_an_answer_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "export.json"
    incomplete = studio({"prompt": "q", "items": ITEMS}, annotation(result("ranker", {"place_1": ["llm_1"], "_": ["llm_2"]})))
    rows = [studio(TWO, annotation(result("pairwise", "left", "selected"))), studio(TWO), studio(TWO, annotation()), incomplete]
    path.write_text(json.dumps(rows))
    found = load_rankings(Source(path=str(path)))
    assert len(found.records) == 1
    assert found.dropped == {"a task without an annotation of this kind": 2, "a ranking that leaves items without a place": 1}


# --- CSV ---


def sheet(path: Path, content: bytes) -> Source:
    path.write_bytes(content)
    return Source(path=str(path))


def test_csv_of_others(tmp_path: Path) -> None:
    source = sheet(
        tmp_path / "a.csv", b'\xef\xbb\xbfprompt;chosen;rejected;margin;models\r\nq;\'a\';"b\r\n;c";0.5;"[""m"", ""n""]"\r\n\r\nr;a;;;\r\n'
    )
    assert load_rankings(source).records == [
        Ranking(prompt=Q, responses=("'a'", "b\r\n;c"), places=(1, 2), margin=0.5, models=("m", "n")),
        Ranking(prompt=Prompt.of("r"), responses=("a", ""), places=(1, 2)),
    ]
    ranked = sheet(tmp_path / "r.csv", b'prompt,responses,places\nq,"[""a"", ""b""]","[2, 1]"\n')
    assert load_rankings(ranked).records == [Ranking(prompt=Q, responses=("a", "b"), places=(2, 1))]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"prompt,response,score\nq,a,4\nq,b\n", "line 3: 2 cells where the header has 3"),
        (b"prompt,response,score\nq,a,four\n", "line 2: 'score' is 'four'(.|\n)*a finite number"),
        (b"prompt,response,score\nq,a,nan\n", "line 2: 'score' is 'nan'"),
        (b'prompt,response,score\nq,a,4\n"q\nr",b,x\n', "line 3: 'score' is 'x'"),
        (b'prompt,response,score\nq,"a,4\n', "line 2: not CSV"),
        (b"prompt,prompt,score\nq,a,4\n", "line 1: the column 'prompt' stands twice"),
        (b"prompt,response,score\nq,\xff,4\n", "line 2: byte 3 is 0xff"),
        (b"prompt,response,score\n", "it has no records"),
        ("prompt,response,score\n".encode("utf-16"), "line 1: the file is in UTF-16"),
    ],
)
def test_csv_that_is_wrong(content: bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        load_ratings(sheet(tmp_path / "a.csv", content))
