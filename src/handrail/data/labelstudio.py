"""Label Studio's JSON export of annotated tasks: {"data": {...}, "annotations": [{"result": [...]}]}.

Which field of `data` is the prompt and which are the responses is found by their usual names, or said by `columns`, for example
columns: {prompt: data.question, left: data.first, right: data.second, response: data.answer}.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from handrail.data import fields
from handrail.data.fields import Drop, wrong
from handrail.data.files import Row
from handrail.data.judged import judged
from handrail.data.strict import kind
from handrail.records import MARGIN, Demonstration, Prompt, Ranking, Rating

_PROMPTS = ("messages", "prompt", "instruction", "question", "dialogue", "conversation")
_RESPONSES = ("response", "answer", "completion", "output", "text")
_PAIR = re.compile(r"(response|answer|completion|output|text)[ _-]?([12ab])", re.IGNORECASE)
_PLACE = re.compile(r"place_([1-9][0-9]*)")
_REMEDY = "say which it is with `columns`, for example columns: {prompt: data.question}"


def ranks(values: dict[str, Any]) -> bool:
    return _says(values, "pairwise", "ranker", "choices")


def rates(values: dict[str, Any]) -> bool:
    return _says(values, "rating", "number")


def writes(values: dict[str, Any]) -> bool:
    return _says(values, "textarea")


def rankings(row: Row) -> Sequence[Ranking]:
    """A ranking for each annotation with a result of Pairwise, of Ranker, or a choice "tie"."""
    return _each(row, _ranking)


def ratings(row: Row) -> Sequence[Rating]:
    """A rating for each result of Rating or Number; the criterion is the tag's name."""
    return _each(row, _ratings)


def demonstrations(row: Row) -> Sequence[Demonstration]:
    """A demonstration for each text of a TextArea."""
    return _each(row, _demonstrations)


def _says(values: dict[str, Any], *types: str) -> bool:
    """Whether some result is of these types; where there is no result at all, nothing speaks against it."""
    annotations = values["annotations"] if isinstance(values["annotations"], list) else []
    found = [r.get("type") for a in annotations if isinstance(a, dict) for r in a.get("result") or [] if isinstance(r, dict)]
    return isinstance(values["data"], dict) and (not found or any(name in types for name in found))


def _each(row: Row, read: Callable[[Row, Prompt, list[dict[str, Any]], dict[str, Any]], Iterator[Any]]) -> list[Any]:
    prompt = _prompt(row)
    found: list[Any] = []
    for number, annotation in enumerate(fields.value(row, "annotations"), start=1):
        own = Row(f"{row.where}, annotation {number}", row.values)
        if not isinstance(annotation, dict) or not isinstance(annotation.get("result"), list):
            raise wrong(own, f"it is {kind(annotation)} without a list 'result'", "annotations with results, as a JSON export has them")
        results = [r for r in annotation["result"] if isinstance(r, dict) and isinstance(r.get("value"), dict)]
        if not annotation.get("was_cancelled"):
            found += read(own, prompt, results, _about(annotation, results))
    if not found:
        raise Drop("a task without an annotation of this kind")
    return found


def _about(annotation: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, Any]:
    """Labeller and label: those that an export of ours wrote, otherwise whom Label Studio says."""
    ours = next((own for own in map(_ours, results) if "labeller" in own), None)
    if ours is not None:
        return {name: ours[name] for name in ("labeller", "label", "weight") if name in ours}
    by = annotation.get("completed_by")
    if isinstance(by, dict):
        by = by.get("email") or by.get("id")
    return {} if by is None else {"labeller": str(by)}


def _ours(holder: dict[str, Any]) -> dict[str, Any]:
    """What an export of ours keeps in the `meta` of a result or a task."""
    meta = holder.get("meta")
    own = meta.get("handrail") if isinstance(meta, dict) else None
    return own if isinstance(own, dict) else {}


def _prompt(row: Row) -> Prompt:
    data = fields.value(row, "data")
    if row.values.get("prompt") is None:
        name = next((name for name in _PROMPTS if data.get(name) is not None), None)
        if name is None:
            raise wrong(row, f"'data' has {', '.join(data) or 'nothing'}", f"a prompt as one of {', '.join(_PROMPTS)}", _REMEDY)
        data = {"prompt": data[name]}
    else:
        data = {"prompt": row.values["prompt"]}
    prompt = fields.prompt(Row(row.where, data))
    meta = _ours(row.values).get("meta")
    return Prompt(messages=prompt.messages, meta=meta) if isinstance(meta, dict) else prompt


def _ranking(row: Row, prompt: Prompt, results: list[dict[str, Any]], about: dict[str, Any]) -> Iterator[Ranking]:
    choices = {choice for r in results if r.get("type") == "choices" for choice in r["value"].get("choices") or []}
    strength = next((name for name in MARGIN if name and name in choices), "")
    told = {**about, "margin": MARGIN[strength], "models": _ours(row.values).get("models")}
    own = Row(row.where, told)
    for result in results:
        if result.get("type") == "ranker":
            yield judged(own, prompt, *_ranked(row, result["value"].get("ranker")))
            return
        if result.get("type") == "pairwise":
            selected = result["value"].get("selected")
            if selected not in ("left", "right"):
                raise wrong(row, f"'selected' is {selected!r:.40}", "left or right")
            yield judged(own, prompt, _both(row), (1, 2) if selected == "left" else (2, 1))
            return
    if "tie" in choices:
        yield judged(own, prompt, _both(row), (1, 1))


def _both(row: Row) -> tuple[str, str]:
    if row.values.get("left") is not None and row.values.get("right") is not None:
        return fields.text(row, "left"), fields.text(row, "right")
    data = row.values["data"]
    matches = [match for match in map(_PAIR.fullmatch, data) if match]
    for stem in dict.fromkeys(match[1] for match in matches):
        names = {match[2].lower(): match[0] for match in matches if match[1] == stem}
        for left, right in (("1", "2"), ("a", "b")):
            if left in names and right in names:
                own = Row(row.where, data)
                return fields.text(own, names[left]), fields.text(own, names[right])
    remedy = "say which they are with `columns`, for example columns: {left: data.first, right: data.second}"
    raise wrong(row, f"'data' has {', '.join(data)}", "response_1 and response_2, answer1 and answer2, or the like", remedy)


def _ranked(row: Row, value: Any) -> tuple[tuple[str, ...], tuple[int, ...]]:
    lists = [found for found in row.values["data"].values() if isinstance(found, list) and found]
    items = next((found for found in lists if all(isinstance(item, dict) and "id" in item for item in found)), [])
    bodies = {str(item["id"]): item.get("body", item.get("text", item.get("title"))) for item in items}
    if isinstance(value, list):
        places = {str(name): place for place, name in enumerate(value, start=1)}
    elif isinstance(value, dict):
        unknown = next((name for name in value if name != "_" and not _PLACE.fullmatch(str(name))), None)
        if unknown is not None:
            raise wrong(row, f"the bucket {unknown!r:.40}", "buckets place_1, place_2, ..., or a Ranker without buckets")
        places = {str(name): int(bucket[6:]) for bucket, names in value.items() if bucket != "_" for name in names}
    else:
        raise wrong(row, f"'ranker' is {kind(value)}", "a list of ids, or buckets of them")
    if not places.keys() <= bodies.keys():
        raise wrong(row, f"it ranks {', '.join(places)}; 'data' has items with the ids {', '.join(bodies) or 'none'}", "ids of the items")
    if len(places) < len(bodies):
        raise Drop("a ranking that leaves items without a place")
    own = Row(row.where, {"items": list(bodies.values())})
    return fields.texts(own, "items"), tuple(places[name] for name in bodies)


def _ratings(row: Row, prompt: Prompt, results: list[dict[str, Any]], about: dict[str, Any]) -> Iterator[Rating]:
    about = {name: about[name] for name in ("labeller", "label") if name in about}
    for result in results:
        if result.get("type") in ("rating", "number"):
            score = fields.number(Row(row.where, result["value"]), result["type"])
            criterion = str(_ours(result).get("criterion", result.get("from_name", "")))
            yield Rating(prompt=prompt, response=_response(row), score=score, criterion=criterion, **about)


def _response(row: Row) -> str:
    if row.values.get("response") is not None:
        return fields.text(row, "response")
    data = row.values["data"]
    name = next((name for name in _RESPONSES if data.get(name) is not None), None)
    if name is None:
        remedy = "say which it is with `columns`, for example columns: {response: data.reply}"
        raise wrong(row, f"'data' has {', '.join(data)}", f"the response as one of {', '.join(_RESPONSES)}", remedy)
    return fields.text(Row(row.where, data), name)


def _demonstrations(row: Row, prompt: Prompt, results: list[dict[str, Any]], about: dict[str, Any]) -> Iterator[Demonstration]:
    for result in results:
        if result.get("type") == "textarea":
            value = result["value"].get("text")
            own = Row(row.where, {"text": [value] if isinstance(value, str) else value})
            for text in fields.texts(own, "text"):
                yield Demonstration(prompt=prompt, response=text, author=about.get("labeller", ""), label=about.get("label", ""))
