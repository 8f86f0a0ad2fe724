"""A file of lines that people are to be asked about: our own records, native items, or both.

Each line is one JSON object; which record it is follows from its fields.  A prompt may be a plain text.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ValidationError

from handrail.errors import DataError, InputError
from handrail.feedback.formats.items import Items, Source, items_of
from handrail.feedback.kinds import Compared, Demonstrated, Item, Ranked, Rated, TaskSettings, fits
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
ALLOWED = "one JSON object a line: an item, a prompt, a response, a ranking, a rating or a demonstration"
NO_ANSWER = "a record without an answer that could be gold"
MOST_FAULTS = 20


@dataclass(frozen=True)
class Upload:
    """What a file has: items in order, how much was left out by reason, and the lines that are wrong."""

    items: list[Item]
    records: dict[str, int]
    left_out: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def whole(self) -> "Upload":
        """Itself, where no line is wrong and there is something in it.  Raises DataError."""
        if self.faults:
            raise DataError(self.faults[0], ALLOWED, "mend the line; nothing was taken in")
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
    """
    records: list[Source | Item] = []
    faults, counts = [], Counter[str]()
    for where, line in lines(raw, name):
        try:
            record = record_of(line, where)
        except DataError as error:
            faults.append(error.found)
            continue
        records.append(record)
        counts[type(record).__name__.lower()] += 1
    native = [record for record in records if isinstance(record, Item)]
    others: list[Source] = [record for record in records if not isinstance(record, Item)]
    made = answered(others, settings) if as_ != "work" else items_of(others, settings.kind, most)
    found = [*native, *prioritised(made.items, others)]
    if as_ == "practice":
        found = [Item.model_validate(item.model_dump() | {"practice": True}) if item.gold else item for item in found]
    left_out, kept = Counter(made.left_out), []
    for item in found:
        if as_ != "work" and item.gold is None:
            left_out[NO_ANSWER] += 1
            continue
        try:
            fits(settings, item)
        except InputError as error:
            left_out[f"{error.found}; {error.allowed}"] += 1
            continue
        kept.append(item)
    return Upload(kept, dict(counts), dict(+left_out), faults[:MOST_FAULTS])


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
        raise DataError(f"{where}: not JSON in UTF-8: {error}", ALLOWED) from None
    kind = next((kind for name, kind in FIELDS if isinstance(told, dict) and name in told), None)
    if kind is None:
        has = ", ".join(list(told)[:8]) if isinstance(told, dict) else type(told).__name__
        raise DataError(f"{where}: found {has or 'an empty object'}", ALLOWED)
    if isinstance(told.get("prompt"), str):
        told["prompt"] = {"messages": [{"role": "user", "content": told["prompt"]}]}
    try:
        return kind.model_validate(told)  # type: ignore[attr-defined, no-any-return]
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(part) for part in fault["loc"])
        said = fault["msg"].removeprefix("Value error, ")
        raise DataError(f"{where}: {kind.__name__.lower()}: {place + ': ' if place else ''}{said}", ALLOWED) from None


def prioritised(items: list[Item], records: Sequence[Source]) -> list[Item]:
    """Items with the highest priority that a response to their prompt carries."""
    urgent: dict[str, float] = {}
    for record in records:
        priority = float(getattr(record, "priority", 0.0) or 0.0)
        if priority and not isinstance(record, Prompt):
            text = record.prompt.text
            urgent[text] = max(priority, urgent.get(text, priority))
    return [item.model_copy(update={"priority": urgent.get(item.prompt.text, item.priority)}) for item in items]


def answered(records: Sequence[Source], settings: TaskSettings) -> Items:
    """Items whose right answer is the one that the record carries."""
    found, left_out = [], Counter[str]()
    for record in records:
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
        found.append(Item(prompt=record.prompt, **content))
    return Items(found, left_out)


def gold_of(record: Ranking, settings: TaskSettings) -> Compared | Ranked:
    """The places of a ranking as an answer; 2, 4, 4 become 1, 2, 2."""
    order = sorted(set(record.places))
    places = tuple(order.index(place) + 1 for place in record.places)
    if settings.kind == "rank" or len(places) != 2:
        return Ranked(places=places)
    return Compared(better=None if places[0] == places[1] else places.index(1))
