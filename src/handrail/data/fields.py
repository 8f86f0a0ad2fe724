"""Single fields of a row: text, lists, conversations.  Whatever is not as it should be is a DataError with its place."""

import math
from itertools import pairwise
from typing import Any

from pydantic import ValidationError

from handrail.data.files import Row
from handrail.data.strict import Cell, kind, parse
from handrail.errors import DataError
from handrail.records import Message, Prompt

_ROLES = ("system", "user", "assistant")


class Drop(Exception):
    """Raised for a row that a rule leaves out; it is counted under its reason."""


def wrong(row: Row, found: str, allowed: str, remedy: str = "correct the record or remove it") -> DataError:
    return DataError(f"{row.where}: {found}", allowed, remedy)


def value(row: Row, field: str) -> Any:
    found = row.values.get(field)
    if found is None:
        if field in row.values:
            raise wrong(row, f"the field '{field}' is null", f"a value for '{field}' in every record", "give one, or remove the record")
        columns = ", ".join(f"'{name}'" for name in row.values) or "none"
        raise wrong(
            row, f"the field '{field}' is missing; found {columns}", f"'{field}' in every record", "add it, or map it with `columns`"
        )
    return found


def text(row: Row, field: str) -> str:
    return _text(row, value(row, field), f"'{field}'")


def text_or(row: Row, field: str, default: str = "") -> str:
    return default if row.values.get(field) is None else text(row, field)


def number_or(row: Row, field: str, default: float) -> float:
    found = row.values.get(field)
    return default if found is None or (isinstance(found, Cell) and not found) else number(row, field)


def number(row: Row, field: str) -> float:
    found = value(row, field)
    if isinstance(found, Cell):
        found = _number_of(row, field, found)
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise wrong(row, f"'{field}' is {kind(found)}: {found!r:.60}", "a number without quotes")
    return float(found)


def _number_of(row: Row, field: str, cell: Cell) -> float:
    try:
        found = float(cell)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise wrong(row, f"'{field}' is {cell!r:.60}", "a finite number, with a point for the fraction")
    return found


def label(row: Row) -> str:
    """The id of the label in the feedback store; `label` is also another's word for true or false."""
    return next((str(row.values[name]) for name in ("label_id", "label") if isinstance(row.values.get(name), str)), "")


def texts(row: Row, field: str) -> tuple[str, ...]:
    return tuple(_text(row, item, f"an item of '{field}'") for item in _list(row, field))


def whole_numbers(row: Row, field: str) -> tuple[int, ...]:
    found = _list(row, field)
    for item in found:
        if isinstance(item, bool) or not isinstance(item, int):
            raise wrong(row, f"'{field}' has {kind(item)}: {item!r:.60}", "whole numbers, 1 for the best")
    return tuple(found)


def numbers(row: Row, field: str) -> tuple[float, ...]:
    found = _list(row, field)
    return tuple(number(Row(row.where, {field: item}), field) for item in found)


def messages(row: Row, field: str) -> list[Message]:
    """A list of {"role", "content"}.  Their order is judged by `prompt_of_messages`."""
    found = []
    for item in _list(row, field):
        if not isinstance(item, dict) or "role" not in item or "content" not in item:
            raise wrong(row, f"'{field}' has {kind(item)}: {item!r:.60}", 'messages like {"role": "user", "content": "..."}')
        if item["role"] not in _ROLES:
            raise wrong(row, f"'{field}' has the role {item['role']!r:.40}", f"one of {', '.join(_ROLES)}", "rename the role")
        found.append(Message(role=item["role"], content=_text(row, item["content"], f"a content in '{field}'")))
    return found


def meta(row: Row) -> dict[str, Any]:
    found = row.values.get("meta") or {}
    if isinstance(row.values.get("prompt_meta"), str) and row.values["prompt_meta"]:  # as JSON, where a column has one type
        found = parse(row.values["prompt_meta"].encode(), f"{row.where}, 'prompt_meta'")
    if not isinstance(found, dict):
        raise wrong(row, f"'meta' is {kind(found)}", "an object")
    return found


def prompt(row: Row) -> Prompt:
    """A prompt as text, as a list of messages, or as one of our own records."""
    found = value(row, "prompt")
    if isinstance(found, dict):
        own = Row(row.where, found)
        return prompt_of_messages(row, messages(own, "messages"), meta(own))
    if isinstance(found, list):
        return prompt_of_messages(row, messages(row, "prompt"), meta(row) if "prompt_meta" in row.values else {})
    return prompt_of_text(row, text(row, "prompt"))


def prompt_of_text(row: Row, words: str) -> Prompt:
    return prompt_of_messages(row, [Message(role="user", content=words)], {})


def prompt_of_messages(row: Row, turns: list[Message], about: dict[str, Any]) -> Prompt:
    """Raises Drop if the user's last message is empty, DataError if the roles are out of order."""
    if turns and not turns[-1].content.strip():
        raise Drop("empty prompt")
    try:
        return Prompt(messages=tuple(turns), meta=about)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise wrong(row, f"the roles are out of order: {roles(turns)}", reason, "correct the order of the messages") from None


def dialogue(row: Row, field: str) -> tuple[Prompt, str]:
    """A conversation that ends with the assistant's message, as its prompt and that message."""
    turns = messages(row, field)
    if not turns or turns[-1].role != "assistant":
        raise wrong(row, f"the roles in '{field}' are out of order: {roles(turns)}", "the last message is the assistant's")
    return prompt_of_messages(row, turns[:-1], {}), turns[-1].content


def waits(turns: list[Message]) -> bool:
    """Whether user and assistant take turns, the user first and last."""
    return bool(turns) and turns[0].role == turns[-1].role == "user" and all(a.role != b.role for a, b in pairwise(turns))


def roles(turns: list[Message]) -> str:
    return ", ".join(turn.role for turn in turns) or "none"


def _text(row: Row, found: Any, what: str) -> str:
    if not isinstance(found, str):
        raise wrong(row, f"{what} is {kind(found)}: {found!r:.60}", "text")
    return str(found)


def _list(row: Row, field: str) -> list[Any]:
    found = value(row, field)
    if isinstance(found, Cell):
        found = parse(found.encode(), f"{row.where}, '{field}'")
    if not isinstance(found, list):
        raise wrong(row, f"'{field}' is {kind(found)}: {found!r:.60}", "a list")
    return found
