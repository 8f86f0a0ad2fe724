"""A file of lines that people are to be asked about: our own records, plain comparisons, native items, in any mixture.

Each line is one JSON object; which record it is follows from its fields.  A prompt may be a plain text.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Literal

from pydantic import ValidationError

from handrail.errors import DataError, InputError
from handrail.feedback.formats.items import Source, items_of
from handrail.feedback.kinds import Compared, Demonstrated, Item, Ranked, Rated, TaskSettings, fits, question_of, right_of
from handrail.records import Demonstration, Prompt, Ranking, Rating, Response

As = Literal["work", "gold", "practice"]

FIELDS: tuple[tuple[str, type], ...] = (  # the first of these fields that a line has tells what it is
    ("places", Ranking),
    ("score", Rating),
    ("text", Response),
    ("response", Demonstration),
    ("messages", Prompt),
    ("prompt", Item),
)
ALLOWED = (
    "one JSON object a line: a prompt (prompt), a response (prompt, text), a comparison (prompt, chosen, rejected), "
    "a ranking (prompt, responses, places), a rating (prompt, response, score), a demonstration (prompt, response) "
    "or an item (prompt, responses, gold)"
)
TO_LINES = 'python -c "import csv, json, sys; [print(json.dumps(row)) for row in csv.DictReader(sys.stdin)]" < {old} > {new}'
NO_ANSWER = "a record without an answer that could be gold"
MEND = "mend the line; nothing was taken in"
MOST_FAULTS = 20


@dataclass(frozen=True)
class Upload:
    """What a file has: items in order, how much was left out by reason, and what is wrong with which lines."""

    items: list[Item]
    records: dict[str, int]
    left_out: dict[str, int] = field(default_factory=dict)
    wrong: list[DataError] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        """The first lines that are wrong, in words."""
        return [error.found for error in self.wrong[:MOST_FAULTS]]

    def whole(self) -> "Upload":
        """Itself, where no line is wrong and there is something in it.  Raises DataError."""
        if self.wrong:
            raise self.wrong[0]
        if not self.items:
            left = "; ".join(f"{reason} ({number})" for reason, number in self.left_out.items())
            raise DataError(f"nothing to ask about{': ' + left if left else ''}", ALLOWED, "give another file, or another kind of task")
        return self


def read(raw: bytes, name: str, settings: TaskSettings, most: int = 0, as_: As = "work") -> Upload:
    """The items of a file for a task of these settings.

    Args:
        name: of the file, for messages.
        most: responses an item at most; 0: as many as the kind can show.
        as_: "gold" and "practice" make of the answers that rankings, ratings and demonstrations carry the right ones.

    Raises DataError for a file that has no lines of JSON.
    """
    refuse_other_forms(raw, name)
    records: list[tuple[str, Source | Item]] = []
    wrong, counts = [], Counter[str]()
    for where, line in lines(raw, name):
        try:
            record = record_of(line, where)
        except DataError as error:
            wrong.append(error)
            continue
        records.append((where, record))
        counts[type(record).__name__.lower()] += 1
    native = [(where, record) for where, record in records if isinstance(record, Item)]
    others = [(where, record) for where, record in records if not isinstance(record, Item)]
    if as_ == "work":
        made = items_of([record for _, record in others], settings.kind, most)
        asked, left_out = [("", item) for item in made.items], Counter(made.left_out)
    else:
        asked, left_out = answered(others, settings)
    given = [*native, *prioritised(asked, [record for _, record in others])]
    at_odds = contradictions(given)
    kept = []
    for where, item in given:
        if where in at_odds:
            continue
        if as_ == "practice" and item.gold:
            item = Item.model_validate(item.model_dump() | {"practice": True})
        if as_ != "work" and item.gold is None:
            left_out[NO_ANSWER] += 1
            continue
        try:
            fits(settings, item)
        except InputError as error:
            left_out[f"{error.found}; {error.allowed}"] += 1
            continue
        kept.append(item)
    return Upload(kept, dict(counts), dict(+left_out), wrong + [error for error in at_odds.values() if error])


def refuse_other_forms(raw: bytes, name: str) -> None:
    """Raises DataError for a table and for one list of JSON, with the command that makes lines of it."""
    path = PurePath(name)
    new = path.with_suffix(".jsonl")
    if path.suffix.lower() in (".csv", ".tsv"):
        first = raw.removeprefix(b"\xef\xbb\xbf").split(b"\n", 1)[0].decode("utf-8", "replace").strip()
        columns = next(csv.reader([first], delimiter="\t" if "\t" in first else ","), [])
        told = ", ".join(repr(column[:40]) for column in columns[:12]) or "nothing"
        raise DataError(f"{name}: a table with the columns {told}", ALLOWED, TO_LINES.format(old=name, new=new))
    if raw.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        raise DataError(f"{name}: one list in JSON", ALLOWED, f"jq -c '.[]' {name} > {new if str(new) != name else 'lines.jsonl'}")


def contradictions(given: Iterable[tuple[str, Item]]) -> dict[str, DataError | None]:
    """The lines on a question that has two right answers, each with its error, None where it agrees with the first of them."""
    questions: dict[tuple[str, frozenset[str]], list[tuple[str, Any]]] = {}
    for where, item in given:
        if right := right_of(item):
            questions.setdefault(question_of(item), []).append((where, right))
    found: dict[str, DataError | None] = {}
    for (first, right), *others in questions.values():
        for where, other in others if any(other != right for _, other in others) else ():
            told = f"{where}: its right answer is another than that of {first.rpartition(', ')[2]}, to the same prompt and responses"
            error = DataError(told, "one right answer to a question", "keep the line that is right; nothing was taken in")
            found |= {first: None, where: error if other != right else None}
    return found


def lines(raw: bytes, name: str) -> Iterator[tuple[str, bytes]]:
    """(where it stands, the line) of every line that is not blank."""
    for number, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if line.strip():
            yield f"{name}, line {number}", line


def record_of(line: bytes, where: str) -> Source | Item:
    """A line as the record that its fields say.  Raises DataError."""
    try:
        told = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON in UTF-8: {error}", ALLOWED, MEND) from None
    if isinstance(told, dict) and "chosen" in told and "rejected" in told:
        told = compared(told, where)
    kind = next((kind for name, kind in FIELDS if isinstance(told, dict) and name in told), None)
    if kind is None:
        has = ", ".join(list(told)[:8]) if isinstance(told, dict) else type(told).__name__
        raise DataError(f"{where}: found {has or 'an empty object'}", ALLOWED, MEND)
    if isinstance(told.get("prompt"), str):
        told["prompt"] = {"messages": [{"role": "user", "content": told["prompt"]}]}
    elif isinstance(told.get("prompt"), list):
        told["prompt"] = {"messages": told["prompt"]}
    try:
        return kind.model_validate(told)  # type: ignore[attr-defined, no-any-return]
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(part) for part in fault["loc"])
        said = fault["msg"].removeprefix("Value error, ")
        raise DataError(f"{where}: {kind.__name__.lower()}: {place + ': ' if place else ''}{said}", ALLOWED, MEND) from None


def compared(told: dict[str, Any], where: str) -> dict[str, Any]:
    """A comparison as the ranking of two that it is; of its other fields `models` alone is kept.  Raises DataError.

    The two may be texts, or each a list with the assistant's message.
    """
    sides = [told["chosen"], told["rejected"]]
    for number, side in enumerate(sides):
        if isinstance(side, list) and len(side) == 1 and isinstance(side[0], dict) and side[0].get("role") == "assistant":
            sides[number] = side[0].get("content")
    if sides[0] == sides[1]:
        raise DataError(f"{where}: chosen and rejected are the same", "two different responses", MEND)
    about = {name: told[name] for name in ("prompt", "models") if told.get(name)}
    return about | {"responses": sides, "places": [1, 2]}


def prioritised(given: Iterable[tuple[str, Item]], records: Sequence[Source]) -> list[tuple[str, Item]]:
    """Items with the highest priority that a response to their prompt carries."""
    urgent: dict[str, float] = {}
    for record in records:
        priority = float(getattr(record, "priority", 0.0) or 0.0)
        if priority and not isinstance(record, Prompt):
            text = record.prompt.text
            urgent[text] = max(priority, urgent.get(text, priority))
    return [(where, item.model_copy(update={"priority": urgent.get(item.prompt.text, item.priority)})) for where, item in given]


def answered(records: Iterable[tuple[str, Source]], settings: TaskSettings) -> tuple[list[tuple[str, Item]], Counter[str]]:
    """Items whose right answer is the one that the record carries, each with its line, and what was left out."""
    found, left_out = [], Counter[str]()
    for where, record in records:
        if isinstance(record, Ranking) and settings.kind in ("compare", "rank"):
            content: dict[str, Any] = {"responses": record.responses, "models": record.models, "gold": gold_of(record, settings)}
        elif isinstance(record, Rating) and settings.kind == "rate" and len(settings.criteria) == 1:
            rated = {settings.criteria[0].name: record.score}
            content = {"responses": (record.response,), "gold": Rated(ratings=(rated,))}
        elif isinstance(record, Demonstration) and settings.kind == "demonstrate":
            content = {"gold": Demonstrated(text=record.response)}
        else:
            left_out[NO_ANSWER] += 1
            continue
        found.append((where, Item(prompt=record.prompt, **content)))
    return found, left_out


def gold_of(record: Ranking, settings: TaskSettings) -> Compared | Ranked:
    """The places of a ranking as an answer; 2, 4, 4 become 1, 2, 2."""
    order = sorted(set(record.places))
    places = tuple(order.index(place) + 1 for place in record.places)
    if settings.kind == "rank" or len(places) != 2:
        return Ranked(places=places)
    return Compared(better=None if places[0] == places[1] else places.index(1))
