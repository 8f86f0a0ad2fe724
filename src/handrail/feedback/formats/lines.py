"""One value as one line of JSON, and back, so that nothing in it can break the line or hide in it."""

import json
import re
from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from handrail.errors import DataError

M = TypeVar("M", bound=BaseModel)

# Controls, line and paragraph separators, zero-width and bidirectional marks, interlinear marks, tags: what a program
# may take for the end of a line and what an editor does not show.
_UNSEEN = re.compile(
    "[\x7f-\x9f\u00ad\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff]"
)


def json_text(value: Any) -> str:
    """JSON on one line, readable but for unseen characters, which stand as escapes.

    Raises ValueError for NaN and infinity, TypeError for what JSON has no form for.
    """
    return _UNSEEN.sub(_escaped, json.dumps(value, ensure_ascii=False, allow_nan=False))


def json_line(value: Any) -> bytes:
    """`json_text` in UTF-8 with its line feed.  Raises UnicodeEncodeError for a lone surrogate."""
    return (json_text(value) + "\n").encode("utf-8")


def json_list(values: Iterable[Any]) -> str:
    """A list in JSON, each of its values on a line."""
    return "[\n" + ",\n".join(map(json_text, values)) + "\n]\n"


def parsed(model: type[M], raw: bytes, where: str) -> M:
    """A line as a record.  Raises DataError with its place, the field and what is wrong with it."""
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(str(part) for part in fault["loc"])
        found = f"'{field}': {fault['msg']}" if field else fault["msg"]
        allowed = f"one line of JSON with the fields {', '.join(model.model_fields)}"
        raise DataError(f"{where}: {found}", allowed, "correct the line") from None


def _escaped(found: re.Match[str]) -> str:
    return json.dumps(found[0])[1:-1]
