"""CSV for spreadsheets, in which no cell is a formula.

A cell that begins with =, +, -, @, one of their full-width forms, a tab, a carriage return, a line feed or an apostrophe
gets an apostrophe in front, which a spreadsheet takes for "this is text".  The column `inert` says so in each row, and our
own import takes the apostrophe away.
"""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from handrail.feedback.formats.lines import json_text
from handrail.feedback.formats.options import Made, Options
from handrail.feedback.formats.pairs import pairs
from handrail.feedback.formats.said import Sayings
from handrail.records import Prompt

ACTIVE = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20", "\t", "\r", "\n", "'")

_NOTE = """CSV in UTF-8 with a byte-order mark. A text that begins with a character that a spreadsheet might run or
swallow (= + - @, their full-width forms, tab, line break, apostrophe) has an apostrophe in front of it, as the column `inert` says;
`handrail` takes it away when it reads the file. `prompt` is for reading; where it is more than one message of a user, `messages`
has it as JSON. A spreadsheet that saves the file may cut cells at 32,767 characters."""


def sheets(said: Sayings, options: Options) -> Made:
    """A row for each pair that is not tied, for each rating, for each demonstration."""
    found, left_out = pairs(said.rankings)
    ratings = [s.record for s in said.ratings]
    demonstrations = [s.record for s in said.demonstrations]
    tables: dict[str, list[dict[str, Any]]] = {
        "pairs": [_prompt(p.prompt) | {"chosen": p.chosen, "rejected": p.rejected} | p.about for p in found],
        "ratings": [
            _prompt(r.prompt)
            | {"response": r.response, "score": r.score, "criterion": r.criterion, "labeller": r.labeller, "label_id": r.label}
            for r in ratings
        ],
        "demonstrations": [_prompt(d.prompt) | {"response": d.response, "author": d.author, "label_id": d.label} for d in demonstrations],
    }
    return Made({f"{name}.csv": _csv(rows) for name, rows in tables.items() if rows}, _NOTE, Counter(left_out))


def inert(text: str) -> str:
    """A text that no spreadsheet runs."""
    return f"'{text}" if text.startswith(ACTIVE) else text


def _prompt(prompt: Prompt) -> dict[str, str]:
    plain = len(prompt.messages) == 1 and not prompt.meta
    return {"prompt": prompt.text, "messages": "" if plain else json_text(prompt.model_dump(mode="json", exclude_defaults=True))}


def _csv(rows: Iterable[Mapping[str, Any]]) -> bytes:
    sink = io.StringIO(newline="")
    writer = csv.writer(sink, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    for number, row in enumerate(rows):
        if not number:
            writer.writerow([*row, "inert"])
        writer.writerow([*map(_cell, row.values()), "apostrophe"])
    return b"\xef\xbb\xbf" + sink.getvalue().encode("utf-8")


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return inert(value)
    if isinstance(value, list):
        return json_text(value) if value else ""
    return repr(value)
