"""Argilla's records as JSON: {"fields": {...}, "responses": {question: [{"value": ..., "user_id": ...}]}}.

A value that is a list ranks fields, one that names a field (or is "tie") prefers it, a number rates, other text demonstrates.
Suggestions are what a model proposed; they are not read.  The prompt is found by its usual names, or said by `columns`, for
example columns: {prompt: fields.context, response: responses.corrected}.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from handrail.data import fields, strict
from handrail.data.fields import Drop, wrong
from handrail.data.files import Row
from handrail.data.judged import judged
from handrail.data.strict import kind
from handrail.records import MARGIN, Demonstration, Prompt, Ranking, Rating

_PROMPTS = ("prompt", "instruction", "question", "input", "chat", "messages", "conversation")
_NUMBER = re.compile(r"([0-9]+)$")

Answers = dict[str, Any]  # question: value


def ranks(values: dict[str, Any]) -> bool:
    return _says(values, lambda value: isinstance(value, list) or _field_of(values, value) is not None or value == "tie")


def rates(values: dict[str, Any]) -> bool:
    return _says(values, _is_number)


def writes(values: dict[str, Any]) -> bool:
    return _says(values, lambda value: isinstance(value, str))


def rankings(row: Row) -> Sequence[Ranking]:
    """A ranking for each user's ranking or preference; a text that names a strength, slightly or clearly, is its margin."""
    return _each(row, _rankings)


def ratings(row: Row) -> Sequence[Rating]:
    """A rating for each user's number; the criterion is the question's name."""
    return _each(row, _ratings)


def demonstrations(row: Row) -> Sequence[Demonstration]:
    """A demonstration for each user's text."""
    return _each(row, _demonstrations)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _says(values: dict[str, Any], is_one: Callable[[Any], bool]) -> bool:
    """Whether some answer is of this kind; where there is no answer at all, nothing speaks against it."""
    if not isinstance(values["fields"], dict) or not isinstance(values["responses"], dict):
        return False
    found = [a.get("value") for some in values["responses"].values() if isinstance(some, list) for a in some if isinstance(a, dict)]
    return not found or any(map(is_one, found))


def _each(row: Row, read: Callable[[Row, Prompt, Answers, dict[str, Any]], Iterator[Any]]) -> list[Any]:
    ours = _ours(row)
    prompt = _prompt(row, ours)
    found: list[Any] = []
    for user, answers in _by_user(row).items():
        about = ours.get("users", {}).get(user) or ({"labeller": user} if user else {})
        found += read(Row(f"{row.where}, user {user}", row.values), prompt, answers, {**ours, **about})
    if not found:
        raise Drop("a record without a response of this kind")
    return found


def _by_user(row: Row) -> dict[str, Answers]:
    found: dict[str, Answers] = {}
    for question, some in fields.value(row, "responses").items():
        for answer in some if isinstance(some, list) else [some]:
            if not isinstance(answer, dict) or "value" not in answer:
                raise wrong(row, f"a response to '{question}' is {kind(answer)}", 'responses like {"value": 4, "user_id": "..."}')
            if answer.get("status") != "discarded":
                found.setdefault(str(answer.get("user_id") or ""), {})[question] = answer["value"]
    return found


def _ours(row: Row) -> dict[str, Any]:
    """What an export of ours keeps in the metadata, as JSON."""
    metadata = row.values.get("metadata")
    text = metadata.get("handrail") if isinstance(metadata, dict) else None
    found = strict.parse(text.encode(), f"{row.where}, 'metadata'") if isinstance(text, str) else {}
    return found if isinstance(found, dict) else {}


def _prompt(row: Row, ours: dict[str, Any]) -> Prompt:
    if row.values.get("prompt") is not None:
        return fields.prompt(row)
    name = _prompt_name(row.values)
    if name is None:
        found = f"'fields' has {', '.join(row.values['fields']) or 'nothing'}"
        remedy = "say which it is with `columns`, for example columns: {prompt: fields.context}"
        raise wrong(row, found, f"a prompt as one of {', '.join(_PROMPTS)}", remedy)
    prompt = fields.prompt(Row(row.where, {"prompt": row.values["fields"][name]}))
    return Prompt(messages=prompt.messages, meta=ours["meta"]) if isinstance(ours.get("meta"), dict) else prompt


def _prompt_name(values: dict[str, Any]) -> str | None:
    return next((name for name in _PROMPTS if values["fields"].get(name) is not None), None)


def _responses(values: dict[str, Any]) -> dict[str, Any]:
    """The fields that hold responses: all but the prompt, of which only those with a number where some have one."""
    mapped = values.get("prompt")
    others = {name: v for name, v in values["fields"].items() if name != _prompt_name(values) and (mapped is None or v != mapped)}
    numbered = {name: v for name, v in others.items() if _NUMBER.search(name)}
    return numbered if len(numbered) > 1 else others


def _field_of(values: dict[str, Any], option: Any) -> str | None:
    """The field that an option names: by its name, or by the number at its end."""
    if not isinstance(option, str):
        return None
    held = _responses(values)
    if option in held:
        return option
    number = _NUMBER.search(option)
    return next((name for name in held if number and (own := _NUMBER.search(name)) and own[1] == number[1]), None)


def _rankings(row: Row, prompt: Prompt, answers: Answers, about: dict[str, Any]) -> Iterator[Ranking]:
    held = _responses(row.values)
    strength = next((value for value in answers.values() if isinstance(value, str) and value in MARGIN), "")
    for question, value in answers.items():
        preferred = _field_of(row.values, value)
        if isinstance(value, list):
            places = _places(row, question, value, held)
        elif len(held) == 2 and (preferred or value == "tie"):
            places = [1 if preferred in (None, name) else 2 for name in held]
        else:
            continue
        told: dict[str, Any] = {name: about[name] for name in ("labeller", "label", "weight", "models") if name in about}
        own = Row(row.where, {**told, "margin": MARGIN[strength], "responses": list(held.values())})
        yield judged(own, prompt, fields.texts(own, "responses"), tuple(places))


def _places(row: Row, question: str, value: list[Any], held: dict[str, Any]) -> list[int]:
    """Options in order, or options with their ranks."""
    places: dict[str, int] = {}
    for place, entry in enumerate(value, start=1):
        option, rank = (entry.get("value"), entry.get("rank") or place) if isinstance(entry, dict) else (entry, place)
        name = _field_of(row.values, option)
        if name is None or not isinstance(rank, int):
            raise wrong(row, f"'{question}' ranks {option!r:.40}", f"the fields {', '.join(held)}")
        places[name] = rank
    if len(places) < len(held):
        raise Drop("a ranking that leaves items without a place")
    return [places[name] for name in held]


def _ratings(row: Row, prompt: Prompt, answers: Answers, about: dict[str, Any]) -> Iterator[Rating]:
    held = _responses(row.values)
    told = {name: about[name] for name in ("labeller", "label") if name in about}
    for question, value in answers.items():
        if _is_number(value):
            name = next(iter(held)) if len(held) == 1 else _field_of(row.values, question)
            if name is None:
                found = f"'{question}' rates one of {', '.join(held) or 'no field'}"
                raise wrong(row, found, "one response, or questions that end in its number")
            response = fields.text(Row(row.where, held), name)
            yield Rating(prompt=prompt, response=response, score=value, criterion=about.get("criteria", {}).get(question, question), **told)


def _demonstrations(row: Row, prompt: Prompt, answers: Answers, about: dict[str, Any]) -> Iterator[Demonstration]:
    texts = {question: value for question, value in answers.items() if isinstance(value, str)}
    mapped = row.values.get("response")
    if mapped is not None:
        texts = {question: value for question, value in texts.items() if row.values["responses"].get(question) == mapped}
    if len(texts) > 1:
        remedy = "say which it is with `columns`, for example columns: {response: responses.corrected}"
        raise wrong(row, f"texts as answers to {', '.join(texts)}", "one that is the demonstration", remedy)
    for text in texts.values():
        yield Demonstration(prompt=prompt, response=text, author=about.get("labeller", ""), label=about.get("label", ""))
