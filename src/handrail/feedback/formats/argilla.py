"""Argilla's folders, as `rg.Dataset.from_disk` reads them: dataset.json, settings.json, records.json.

A folder is a dataset, whose questions are the same for every record: compare, rank-K for each number of responses, rate for
each set of criteria, demonstrate.  A labeller's answers are responses of a user, whom Argilla knows by a UUID: one made from
the labeller's name, unless the export was told the user's id.  The suggestion is what most labellers said, its score their
share.  No field renders Markdown.  What Argilla has no field for stands as JSON in the metadata `handrail`.
"""

import hashlib
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from handrail.feedback.formats.asked import Asked, gathered, scale, slugs
from handrail.feedback.formats.lines import json_list, json_text
from handrail.feedback.formats.options import Made, Options
from handrail.feedback.formats.said import R, Said, Sayings
from handrail.feedback.kinds import Compared
from handrail.records import Demonstration, Ranking, Rating

Answers = dict[str, Any]  # question: value

_NOTE = """For Argilla 2: `rg.Dataset.from_disk("FOLDER")` with one of the folders. A response names its user by id; where the server
does not know the id, load the folder with users of your own, or with `with_records=False`. Responses are answers of people, the suggestion
is what most of them said."""
TIED = "a ranking of three or more with shared places, which Argilla's client cannot say"
OFF_SCALE = "a score that is no whole number from 0 to 10, which Argilla asks for"


def argilla(said: Sayings, options: Options) -> Made:
    """dataset.json, settings.json and records.json for each shape of question."""
    files: dict[str, bytes] = {}
    left_out: Counter[str] = Counter()
    for name, rankings in _rankings(said.rankings, left_out).items():
        answers = _compared if name == "compare" else _ranked
        files |= _dataset(name, rankings, _ranking_questions(rankings), answers, options)
    for name, ratings in _ratings(said.ratings, left_out).items():
        named = slugs(s.record.criterion for s in ratings)
        questions = [_question(slug, "rating", title, _numbers(scale(title, ratings, options))) for title, slug in named.items()]
        files |= _dataset(name, ratings, questions, partial(_rated, named=named), options, named)
    if said.demonstrations:
        files |= _dataset("demonstrate", said.demonstrations, [_question("demonstration", "text")], _demonstrated, options)
    return Made(files, _NOTE, left_out)


def _rankings(some: Sequence[Said[Ranking]], left_out: Counter[str]) -> dict[str, list[Said[Ranking]]]:
    found: dict[str, list[Said[Ranking]]] = {}
    for said in some:
        k = len(said.record.responses)
        if k > 2 and len(set(said.record.places)) < k:
            left_out[TIED] += 1
        else:
            found.setdefault("compare" if k == 2 else f"rank-{k}", []).append(said)
    return dict(sorted(found.items()))


def _ratings(some: Sequence[Said[Rating]], left_out: Counter[str]) -> dict[str, list[Said[Rating]]]:
    """Ratings by the set of criteria of their label: a response to a dataset answers all its questions."""
    held = []
    for said in some:
        if said.record.score in range(11):
            held.append(said)
        else:
            left_out[OFF_SCALE] += 1
    criteria: dict[str, dict[str, None]] = {}
    for said in held:
        criteria.setdefault(said.label.id, {})[said.record.criterion] = None
    sets: dict[tuple[str, ...], list[Said[Rating]]] = {}
    for said in held:
        sets.setdefault(tuple(sorted(criteria[said.label.id])), []).append(said)
    return {"rate" if not i else f"rate-{i + 1}": group for i, group in enumerate(sets.values())}


def _dataset(
    name: str,
    some: Sequence[Said[R]],
    questions: list[dict[str, Any]],
    answers: Callable[[list[Said[R]]], Answers],
    options: Options,
    named: dict[str, str] | None = None,
) -> dict[str, bytes]:
    first = some[0].record
    shown: int = len(first.responses) if isinstance(first, Ranking) else 1 if isinstance(first, Rating) else 0
    guidelines = next((asked.instructions for s in some if (asked := options.asked(s.label))), "") or None
    shared = {"guidelines": guidelines, "allow_extra_metadata": True}
    fields = [_field("prompt", "chat"), *(_field(_name(i), "text") for i in range(shown))]
    settings = shared | {"fields": fields, "questions": questions, "vectors": [], "metadata": []}
    records = [record for asked in gathered(some) for record in _records(asked, answers, options, named or {})]
    dataset = shared | {"name": name, "status": "draft"}
    files = {"dataset": json_text(dataset) + "\n", "settings": json_text(settings) + "\n", "records": json_list(records)}
    return {f"{name}/{file}.json": text.encode() for file, text in files.items()}


def _records(asked: Asked[R], answers: Callable[[list[Said[R]]], Answers], options: Options, named: dict[str, str]) -> list[dict[str, Any]]:
    """One record, or as many as a labeller has labels of it: a user answers a question of a record once."""
    rounds: list[dict[str, list[Said[R]]]] = []
    for some in asked.answers.values():
        user = _user(some[0].label.labeller, options)
        free = next((taken for taken in rounds if user not in taken), None)
        if free is None:
            rounds.append(free := {})
        free[user] = some
    return [_record(asked, number, taken, answers, named) for number, taken in enumerate(rounds)]


def _record(
    asked: Asked[R],
    number: int,
    by_user: dict[str, list[Said[R]]],
    answers: Callable[[list[Said[R]]], Answers],
    named: dict[str, str],
) -> dict[str, Any]:
    responses: dict[str, list[dict[str, Any]]] = {}
    people = {}
    for user, some in by_user.items():
        about: dict[str, Any] = {"labeller": some[0].label.labeller, "label": some[0].label.id}
        if isinstance(some[0].record, Ranking):
            about["weight"] = some[0].record.weight
        people[user] = about
        for question, value in answers(some).items():
            responses.setdefault(question, []).append({"value": value, "user_id": user})
    fields = {"prompt": [m.model_dump() for m in asked.prompt.messages]} | {_name(i): text for i, text in enumerate(asked.responses)}
    told = {
        "meta": asked.prompt.meta,
        "models": list(asked.models),
        "users": people,
        "criteria": {slug: name for name, slug in named.items()},
    }
    key = json_text([fields, asked.prompt.meta, asked.models, number])
    return {
        "id": hashlib.sha256(key.encode()).hexdigest()[:16],
        "fields": fields,
        "metadata": {"handrail": json_text({name: value for name, value in told.items() if value})},
        "suggestions": {question: _most(values) for question, values in responses.items()},
        "responses": responses,
        "vectors": {},
    }


def _user(labeller: str, options: Options) -> str:
    return options.users.get(labeller) or str(uuid.uuid5(uuid.NAMESPACE_OID, f"handrail labeller {labeller}"))


def _most(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """The answer that most gave, of several the one that was given first."""
    counts = Counter(json_text(answer["value"]) for answer in answers)
    most, times = counts.most_common(1)[0]
    value = next(answer["value"] for answer in answers if json_text(answer["value"]) == most)
    return {"value": value, "score": times / len(answers), "agent": "handrail: most labellers"}


def _compared(some: list[Said[Ranking]]) -> Answers:
    record, answer = some[0].record, some[0].label.answer
    first, second = record.places
    preferred = "tie" if first == second else _name(0) if first < second else _name(1)
    strength = answer.strength if isinstance(answer, Compared) else ""
    return {"preference": preferred} | ({"strength": strength} if strength else {})


def _ranked(some: list[Said[Ranking]]) -> Answers:
    record = some[0].record
    return {"ranking": [_name(i) for i in sorted(range(len(record.places)), key=lambda i: record.places[i])]}


def _rated(some: list[Said[Rating]], named: dict[str, str]) -> Answers:
    return {named[s.record.criterion]: int(s.record.score) for s in some}


def _demonstrated(some: list[Said[Demonstration]]) -> Answers:
    return {"demonstration": some[0].record.response}


def _ranking_questions(some: Sequence[Said[Ranking]]) -> list[dict[str, Any]]:
    names = [_name(i) for i in range(len(some[0].record.responses))]
    if len(names) > 2:
        return [_question("ranking", "ranking", options=_texts(names))]
    strength = _question("strength", "label_selection", options=_texts(["slightly", "clearly"])) | {"required": False}
    return [_question("preference", "label_selection", options=_texts([*names, "tie"])), strength]


def _question(name: str, kind: str, title: str = "", options: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    settings: dict[str, Any] = {"type": kind} | ({"use_markdown": False} if kind == "text" else {"options": options})
    return {"name": name, "title": title or name, "description": None, "required": True, "settings": settings}


def _field(name: str, kind: str) -> dict[str, Any]:
    return {"name": name, "title": name, "required": True, "settings": {"type": kind, "use_markdown": False}}


def _texts(values: list[str]) -> list[dict[str, Any]]:
    return [{"value": value, "text": value.replace("_", " ")} for value in values]


def _numbers(ends: tuple[int, int]) -> list[dict[str, Any]]:
    low, high = ends
    return [{"value": value} for value in range(max(low, 0), min(high, 10) + 1)]


def _name(i: int) -> str:
    return f"response_{i + 1}"
