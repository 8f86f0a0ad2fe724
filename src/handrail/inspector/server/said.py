"""Text of strangers as data that a page can set without trusting it."""

import math
import unicodedata
from typing import Any

from handrail.feedback.server.render import INVISIBLE, JOINERS

Said = str | list[str | dict[str, str]]
MOST = 60_000  # characters of a text that a page is sent


def said(text: str, most: int = MOST) -> Said:
    """The text; where characters in it cannot be seen or turn others round, its pieces, with {"code", "name"} for each of those."""
    if len(text) > most:
        text = text[: most - 1].rstrip() + "…"
    pieces: list[str | dict[str, str]] = []
    start = 0
    for found in INVISIBLE.finditer(text):
        at = found.start()
        if ord(found[0]) in JOINERS and 0 < at < len(text) - 1 and all(unicodedata.category(text[i])[0] in "LMS" for i in (at - 1, at + 1)):
            continue
        pieces += [text[start:at], {"code": f"U+{ord(found[0]):04X}", "name": unicodedata.name(found[0], "control character").lower()}]
        start = found.end()
    return [piece for piece in [*pieces, text[start:]] if piece] if pieces else text


def marked(value: Any) -> Any:
    """The value with `said` in place of every text in it."""
    if isinstance(value, dict):
        return {key: marked(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [marked(inner) for inner in value]
    return said(value) if isinstance(value, str) else value


def sendable(value: Any) -> Any:
    """The value with None for every number that JSON does not have, and half surrogate pairs written out."""
    if isinstance(value, dict):
        return {key: sendable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [sendable(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
