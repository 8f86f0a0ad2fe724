"""The formats that are read, each a few lines: how to tell it, and how a row becomes records.

A reader raises `Drop` for a row that is left out by a rule, DataError for one that is wrong.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from typing import Any

from pydantic import ValidationError

from handrail.data import argilla, fields, labelstudio
from handrail.data.fields import Drop, wrong
from handrail.data.files import Row
from handrail.data.judged import EQUAL, judged
from handrail.records import Demonstration, Message, Prompt, Ranking, Rating, Response, Role

Record = Prompt | Demonstration | Response | Ranking | Rating
Found = Sequence[Record]

_OTHER_PROMPT = "chosen and rejected answer different prompts"
_ASSISTANT = "\n\nAssistant:"
_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
_SPEAKERS: dict[str, Role] = {"Human": "user", "Assistant": "assistant"}


@dataclass(frozen=True, slots=True)
class Format:
    """A shape of rows.  `needs` are the fields that tell it; of `a|b` one is enough."""

    name: str
    makes: type
    needs: tuple[str, ...]
    may: tuple[str, ...]
    says: str
    read: Callable[[Row], Found]
    tells: Callable[[dict[str, Any]], bool] = lambda values: True

    def fits(self, values: dict[str, Any]) -> bool:
        return all(any(values.get(name) is not None for name in need.split("|")) for need in self.needs) and self.tells(values)

    @property
    def fields(self) -> set[str]:
        return {name for need in (*self.needs, *self.may) for name in need.split("|")}


def _one(values: dict[str, Any], *names: str) -> str:
    """The first of `names` that the row has; the first at all if none."""
    return next((name for name in names if values.get(name) is not None), names[0])


def _reply(row: Row, field: str) -> str:
    """A response as text or as a list with the assistant's message."""
    if not isinstance(row.values.get(field), list):
        return fields.text(row, field)
    turns = fields.messages(row, field)
    if len(turns) != 1 or turns[0].role != "assistant":
        raise wrong(row, f"'{field}' has messages of the roles: {fields.roles(turns)}", "one message of the assistant")
    return turns[0].content


def _prompt(row: Row) -> Found:
    return [fields.prompt(row)]


def _line(row: Row) -> Found:
    return [Prompt.of(fields.text(row, "text"))]


def _messages_prompt(row: Row) -> Found:
    turns = fields.messages(row, "messages")
    if turns and turns[-1].role == "assistant":
        turns = turns[:-1]
    return [fields.prompt_of_messages(row, turns, fields.meta(row))]


def _completion(row: Row) -> Found:
    response = _reply(row, _one(row.values, "response", "completion"))
    return [Demonstration(prompt=fields.prompt(row), response=response, author=fields.text_or(row, "author"), label=fields.label(row))]


def _messages(row: Row) -> Found:
    prompt, response = fields.dialogue(row, "messages")
    return [Demonstration(prompt=prompt, response=response, author=fields.text_or(row, "author"), label=fields.label(row))]


def _each_turn(row: Row) -> Found:
    """Each of the assistant's messages, with what stands before it; but for those with "train": false."""
    turns, given = fields.messages(row, "messages"), row.values["messages"]
    if not any(turn.role == "assistant" for turn in turns):
        raise wrong(row, f"'messages' has the roles: {fields.roles(turns)}", "at least one message of the assistant")
    chosen = [i for i, turn in enumerate(turns) if turn.role == "assistant" and given[i].get("train", True)]
    if not chosen:
        raise Drop("no turn to train on")
    author = fields.text_or(row, "author")
    return [Demonstration(prompt=fields.prompt_of_messages(row, turns[:i], {}), response=turns[i].content, author=author) for i in chosen]


def _is_marked(values: dict[str, Any]) -> bool:
    found = values["messages"]
    return isinstance(found, list) and any(isinstance(turn, dict) and "train" in turn for turn in found)


def _alpaca(row: Row) -> Found:
    return [Demonstration(prompt=_asked(row), response=fields.text(row, "output"))]


def _instruction(row: Row) -> Found:
    return [_asked(row)]


def _asked(row: Row) -> Prompt:
    """Alpaca's instruction, and its input in a paragraph of its own."""
    parts = (fields.text(row, "instruction").strip(), fields.text_or(row, "input").strip())
    return fields.prompt_of_text(row, "\n\n".join(part for part in parts if part))


def _comparison(row: Row) -> Found:
    """{"prompt", "chosen", "rejected"}; the two may be text, the assistant's message, or whole conversations."""
    if all(isinstance(row.values.get(side), list) and len(row.values[side]) > 1 for side in ("chosen", "rejected")):
        return _conversations(row)
    return _pair(row, fields.prompt(row), _reply(row, "chosen"), _reply(row, "rejected"))


def _conversations(row: Row) -> Found:
    """{"chosen", "rejected"} as conversations that differ in the assistant's last message."""
    prompt, chosen = fields.dialogue(row, "chosen")
    other, rejected = fields.dialogue(row, "rejected")
    if prompt != other:
        raise Drop(_OTHER_PROMPT)
    return _pair(row, prompt, chosen, rejected)


def _transcripts(row: Row) -> Found:
    """{"chosen", "rejected"} as transcripts; the prompt is what both have in common up to the last Assistant turn."""
    sides = fields.text(row, "chosen"), fields.text(row, "rejected")
    if sides[0] == sides[1]:
        raise Drop(EQUAL)
    common = commonprefix(sides)  # noqa: RUF071 - by characters is what is meant
    cut = common.rfind(_ASSISTANT)
    chosen, rejected = (side[cut + len(_ASSISTANT) :] for side in sides)
    if cut < 0 or any("\n\nHuman:" in reply for reply in (chosen, rejected)):
        raise Drop(_OTHER_PROMPT)
    turns = _turns(common[:cut])
    if not fields.waits(turns) or any(_ASSISTANT in reply for reply in (chosen, rejected)):
        raise Drop("turns of the transcript out of order")
    return _pair(row, fields.prompt_of_messages(row, turns, {}), chosen.strip(), rejected.strip())


def _turns(transcript: str) -> list[Message]:
    """The turns of a transcript; none if something stands before the first."""
    before, *rest = _TURN.split(transcript)
    turns = zip(rest[::2], rest[1::2], strict=True)
    return [] if before.strip() else [Message(role=_SPEAKERS[who], content=said.strip()) for who, said in turns]


def _pair(row: Row, prompt: Prompt, chosen: str, rejected: str) -> Found:
    return [judged(row, prompt, (chosen, rejected), (1, 2))]


def _ranking(row: Row) -> Found:
    places = fields.whole_numbers(row, _one(row.values, "places", "ranks"))
    scores = fields.numbers(row, "scores") if row.values.get("scores") else ()
    return [judged(row, fields.prompt(row), fields.texts(row, "responses"), places, scores)]


def _rating(row: Row) -> Found:
    rating = Rating(
        prompt=fields.prompt(row),
        response=_reply(row, "response"),
        score=fields.number(row, "score"),
        criterion=fields.text_or(row, "criterion"),
        labeller=fields.text_or(row, "labeller"),
        label=fields.label(row),
    )
    return [rating]


def _unpaired(row: Row) -> Found:
    """{"prompt", "completion", "label": true}: 1 for what is wanted, 0 for what is not, or the score that it comes from."""
    rating = Rating(
        prompt=fields.prompt(row),
        response=_reply(row, "completion"),
        score=fields.number_or(row, "score", float(row.values["label"])),
        criterion=fields.text_or(row, "criterion"),
        labeller=fields.text_or(row, "labeller"),
        label=fields.label(row),
    )
    return [rating]


def _response(row: Row) -> Found:
    about = {name: row.values[name] for name in ("model", "finish", "seed", "priority") if row.values.get(name) is not None}
    prompt, said = fields.prompt(row), _reply(row, _one(row.values, "text", "response"))
    try:
        return [Response.model_validate({"prompt": prompt, "text": said, **about})]
    except ValidationError as error:
        fault = error.errors()[0]
        raise wrong(row, f"'{fault['loc'][0]}' is {fault['input']!r:.40}", fault["msg"]) from None


def _candidates(row: Row) -> Found:
    prompt, answers = _asked(row), Row(row.where, fields.value(row, "responses"))
    return [Response(prompt=prompt, text=fields.text(answers, model), model=model) for model in answers.values]


def _is_unpaired(values: dict[str, Any]) -> bool:
    return isinstance(values.get("label"), bool)


def _is_completion(values: dict[str, Any]) -> bool:
    return not _is_unpaired(values)


def _is_transcripts(values: dict[str, Any]) -> bool:
    return all(isinstance(values[side], str) and _TURN.match(values[side]) for side in ("chosen", "rejected"))


def _is_candidates(values: dict[str, Any]) -> bool:
    return isinstance(values["responses"], dict)


def _is_conversations(values: dict[str, Any]) -> bool:
    return isinstance(values["chosen"], list) and isinstance(values["rejected"], list)


_OURS = ("label", "label_id", "prompt_meta")
_ABOUT = ("labeller", "criterion", "margin", "weight", "models", *_OURS)

_STUDIO, _MAPPED = ("data", "annotations"), ("prompt", "response", "left", "right", "meta")
_ARGILLA, _BESIDE = ("fields", "responses"), ("prompt", "response", "metadata", "suggestions", "vectors", "id", "_server_id")

# Those of one type of record are tried in this order: what needs more fields comes first.
FORMATS = (
    Format("comparison", Ranking, ("prompt", "chosen", "rejected"), _ABOUT, "chosen is preferred to rejected", _comparison),
    Format(
        "conversations", Ranking, ("chosen", "rejected"), _ABOUT, "prompt = messages before the last", _conversations, _is_conversations
    ),
    Format(
        "transcripts",
        Ranking,
        ("chosen", "rejected"),
        _ABOUT,
        "prompt = common prefix up to the last Assistant turn",
        _transcripts,
        _is_transcripts,
    ),
    Format(
        "ranking",
        Ranking,
        ("prompt", "responses", "places|ranks"),
        (*_ABOUT, "scores"),
        "responses in their places, 1 the best",
        _ranking,
    ),
    Format("labelstudio", Ranking, _STUDIO, _MAPPED, "each annotation's Pairwise or Ranker", labelstudio.rankings, labelstudio.ranks),
    Format("argilla", Ranking, _ARGILLA, _BESIDE, "each user's preference or ranking", argilla.rankings, argilla.ranks),
    Format("labelstudio", Rating, _STUDIO, _MAPPED, "each annotation's Rating or Number", labelstudio.ratings, labelstudio.rates),
    Format("argilla", Rating, _ARGILLA, _BESIDE, "each user's ratings", argilla.ratings, argilla.rates),
    Format("labelstudio", Demonstration, _STUDIO, _MAPPED, "each annotation's TextArea", labelstudio.demonstrations, labelstudio.writes),
    Format("argilla", Demonstration, _ARGILLA, _BESIDE, "each user's text", argilla.demonstrations, argilla.writes),
    Format("rating", Rating, ("prompt", "response", "score"), ("criterion", "labeller", *_OURS), "score of a response", _rating),
    Format(
        "unpaired",
        Rating,
        ("prompt", "completion", "label"),
        ("score", "criterion", "labeller", "label_id"),
        "label true -> 1, false -> 0, or the score",
        _unpaired,
        _is_unpaired,
    ),
    Format(
        "completion",
        Demonstration,
        ("prompt", "response|completion"),
        ("author", *_OURS),
        "prompt, and the response to it",
        _completion,
        _is_completion,
    ),
    Format("turns", Demonstration, ("messages",), ("author",), "each of the assistant's messages -> response", _each_turn, _is_marked),
    Format("messages", Demonstration, ("messages",), ("author",), "the assistant's last message -> response", _messages),
    Format("alpaca", Demonstration, ("instruction", "output"), ("input",), "instruction + input -> prompt, output -> response", _alpaca),
    Format(
        "response",
        Response,
        ("prompt", "text|response"),
        ("model", "finish", "seed", "priority"),
        "what a model answered",
        _response,
    ),
    Format(
        "candidates",
        Response,
        ("instruction", "responses"),
        ("input",),
        "instruction + input -> prompt, one response a model",
        _candidates,
        _is_candidates,
    ),
    Format("prompt", Prompt, ("prompt",), ("prompt_meta",), "the prompt alone", _prompt),
    Format("messages", Prompt, ("messages",), ("meta",), "messages up to the last of the user", _messages_prompt),
    Format("instruction", Prompt, ("instruction",), ("input",), "instruction + input -> prompt", _instruction),
    Format("lines", Prompt, ("text",), (), "each line a prompt", _line),
)
