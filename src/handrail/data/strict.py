"""One JSON value from bytes, strictly: whatever a later stage could stumble over is refused here, by name."""

import json
import math
import re
from typing import Any

from handrail.errors import DataError

_DEEPEST = 100
_SURROGATE = re.compile("[\ud800-\udfff]")
_UTF16 = "UTF-8; convert it with `iconv -f UTF-16 -t UTF-8 OLD > NEW`"


class Cell(str):
    """Text of a cell, which may stand for a number or for a list in JSON."""


_KINDS = {
    str: "text",
    Cell: "text",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
    type(None): "nothing",
}


def kind(value: Any) -> str:
    """What a value is, in JSON's words: "a number"."""
    return _KINDS.get(type(value), f"a {type(value).__name__}")


class _Refused(ValueError):
    """What is wrong with a JSON value that Python would have taken."""

    def __init__(self, found: str, allowed: str, remedy: str):
        super().__init__(found)
        self.found, self.allowed, self.remedy = found, allowed, remedy


def parse(raw: bytes, where: str, cut: bool = False) -> Any:
    """The JSON value in `raw`.  `cut` says that it is a last line without a line break.

    Raises DataError for another encoding than UTF-8, broken JSON, a repeated key, NaN, infinity, numbers beyond
    float64, lone surrogates and nesting deeper than 100.
    """
    try:
        value = json.loads(text(raw, where, cut), parse_constant=_no_number, parse_float=_finite, object_pairs_hook=_once)
        check(value)
        return value
    except _Refused as refused:
        raise DataError(f"{where}: {refused.found}", refused.allowed, refused.remedy) from None
    except RecursionError:
        raise _too_deep(where) from None
    except json.JSONDecodeError as error:
        if cut:
            raise _cut_off(where) from None
        place = f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        start, fault = raw[:60].decode("utf-8", "replace"), error.msg.removesuffix(" at")
        raise DataError(f"{where}: not JSON at {place}: {fault}; it begins {start!r}", "one JSON object", "correct it") from None
    except ValueError as error:  # an integer of thousands of digits
        raise DataError(f"{where}: {error}", "numbers that a computer can hold", "write it as text") from None


def text(raw: bytes, where: str, cut: bool = False) -> str:
    """UTF-8 as text, a byte-order mark removed.  Raises DataError with the place of the first bad byte."""
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\x00" in raw[:4]:
        raise DataError(f"{where}: the file is in UTF-16 or UTF-32", _UTF16)
    try:
        return raw.removeprefix(b"\xef\xbb\xbf").decode("utf-8")
    except UnicodeDecodeError as error:
        if cut and error.reason == "unexpected end of data":
            raise _cut_off(where) from None
        raise DataError(
            f"{where}: byte {error.start + 1} is 0x{raw[error.start]:02x}, which is not UTF-8",
            "UTF-8",
            "find out its encoding and convert it, for example `iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW`",
        ) from None


def check(value: Any) -> None:
    """Refuse lone surrogates, NaN, infinity and deep nesting in a value of lists and dicts."""
    waiting = [(value, 1)]
    while waiting:
        item, depth = waiting.pop()
        if isinstance(item, str):
            _whole(item)
        elif isinstance(item, float) and not math.isfinite(item):
            _no_number(str(item))
        elif isinstance(item, dict | list):
            if depth > _DEEPEST:
                raise RecursionError
            waiting += [(inner, depth + 1) for inner in (item.values() if isinstance(item, dict) else item)]
            if isinstance(item, dict):
                waiting += [(key, depth + 1) for key in item]


def check_row(value: Any, where: str) -> None:
    """`check` for values that come from columns.  Raises DataError."""
    try:
        check(value)
    except _Refused as refused:
        raise DataError(f"{where}: {refused.found}", refused.allowed, refused.remedy) from None
    except RecursionError:
        raise _too_deep(where) from None


def _whole(item: str) -> None:
    found = None if item.isascii() else _SURROGATE.search(item)
    if found:
        raise _Refused(
            f"a lone surrogate, \\u{ord(found[0]):04x}, which is half a character",
            "whole characters",
            "write the file again with whole characters (an emoji that was cut in two, as a rule)",
        )


def _no_number(found: str) -> float:
    raise _Refused(f"found {found} as a number", "finite numbers", "remove the record or give the number")


def _finite(digits: str) -> float:
    number = float(digits)
    return number if math.isfinite(number) else _no_number(digits)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Refused(f"the key '{twice}' stands twice in one object", "each key once", "remove one of the two")
    return values


def _too_deep(where: str) -> DataError:
    return DataError(f"{where}: lists or objects are nested too deeply", f"at most {_DEEPEST} levels", "remove the record")


def _cut_off(where: str) -> DataError:
    return DataError(
        f"{where}: the last line is cut off", "a whole JSON object on each line", "write the file again, or remove its last line"
    )
