"""Records as items: what people are to be asked about.  Nothing is left out without being counted."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from handrail.errors import DataError, InputError
from handrail.feedback.formats.folder import write_file
from handrail.feedback.formats.lines import json_line, parsed
from handrail.feedback.kinds import SHOWN, Item, Kind
from handrail.records import Demonstration, Prompt, Ranking, Rating, Response

Source = Prompt | Demonstration | Response | Ranking | Rating

AGAIN = "the same item again"
SAME_TEXT = "the same text again, to the same prompt"


@dataclass(frozen=True, slots=True)
class Items:
    """Items in order, and how much was left out, by reason."""

    items: list[Item]
    left_out: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class _Group:
    """A prompt with the distinct responses to it, each with the model that wrote it, "" if that is not known."""

    prompt: Prompt
    models: dict[str, str] = field(default_factory=dict)


def items_of(records: Iterable[Source], kind: Kind, most: int = 0) -> Items:
    """Items for a task of this kind.

    demonstrate  a demonstration or a response is shown to be edited; of anything else the prompt alone is taken
    chat         the prompts
    compare      responses, demonstrations and ratings of one prompt by two; a ranking by itself, two of its responses at a time
    rank, rate   those of one prompt together, or a ranking by itself, at most `most`, by default and at most 9

    The same text twice to a prompt is one response, with the model that is met first.  Raises InputError for a `most` that
    the kind cannot show.
    """
    low, high, shows = SHOWN[kind]
    most = most or high
    if not low <= most <= high:
        raise InputError(f"at most {most} responses an item", f"a task of kind {kind} shows {shows}")
    left_out: Counter[str] = Counter()
    if kind in ("demonstrate", "chat"):
        made = [_single(record, kind) for record in records]
    else:
        made = [item for group in _groups(records, left_out) for item in _shown(group, low, most, kind == "compare", left_out)]
    return Items(_distinct(made, left_out), +left_out)


def read_items(path: Path) -> Items:
    """Native items, one JSON object a line with any of Item's fields, gold and practice too.

    Raises DataError with file and line for what is not one, and for a file with none.
    """
    try:
        raw = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}", "a file of items", "check the name and the rights") from error
    lines = [(number, line) for number, line in enumerate(raw.split(b"\n"), start=1) if line.strip()]
    left_out: Counter[str] = Counter()
    found = _distinct([parsed(Item, line, f"{path}, line {number}") for number, line in lines], left_out)
    if not found:
        raise DataError(f"{path}: it has no items", "at least one", "give another file")
    return Items(found, left_out)


def write_items(path: Path, items: Iterable[Item]) -> None:
    """One item a line, as `read_items` reads them, whole or not at all.  Raises DataError, StorageError."""
    lines = []
    for number, item in enumerate(items, start=1):
        try:
            lines.append(json_line(item.model_dump(exclude_defaults=True) | _gold(item)))
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}, item {number}: {error}", "what JSON in UTF-8 can hold", "correct the item") from None
    write_file(path, b"".join(lines))


def _gold(item: Item) -> dict:
    """The right answer in full: its kind is a default, by which it is told."""
    return {} if item.gold is None else {"gold": item.gold.model_dump()}


def _single(record: Source, kind: Kind) -> Item:
    prompt = record if isinstance(record, Prompt) else record.prompt
    if kind == "demonstrate" and isinstance(record, Demonstration):
        return Item(prompt=prompt, responses=(record.response,))
    if kind == "demonstrate" and isinstance(record, Response):
        return Item(prompt=prompt, responses=(record.text,), models=(record.model,) if record.model else ())
    return Item(prompt=prompt)


def _groups(records: Iterable[Source], left_out: Counter[str]) -> list[_Group]:
    """Responses by prompt, in the order of the first of each; a ranking is a group of its own."""
    groups: list[_Group] = []
    by_prompt: dict[str, _Group] = {}
    for record in records:
        if isinstance(record, Prompt):
            left_out["a prompt without a response"] += 1
            continue
        if isinstance(record, Ranking):
            group = _Group(record.prompt)
            groups.append(group)
            some: Sequence[tuple[str, str]] = list(zip(record.responses, record.models or [""] * len(record.responses), strict=True))
        else:
            if record.prompt.text not in by_prompt:
                groups.append(by_prompt.setdefault(record.prompt.text, _Group(record.prompt)))
            group = by_prompt[record.prompt.text]
            some = [(record.text, record.model)] if isinstance(record, Response) else [(record.response, "")]
        for text, model in some:
            left_out[SAME_TEXT] += text in group.models
            group.models.setdefault(text, model)
    return groups


def _shown(group: _Group, low: int, most: int, in_pairs: bool, left_out: Counter[str]) -> list[Item]:
    texts = list(group.models)
    kept = texts[: len(texts) // 2 * 2] if in_pairs else texts[:most]
    if len(kept) < low:
        left_out["a prompt with one response"] += 1
        return []
    over = "a response left over when the others are in pairs" if in_pairs else f"a response beyond {most} to a prompt"
    left_out[over] += len(texts) - len(kept)
    step = 2 if in_pairs else len(kept)
    return [_item(group, kept[i : i + step]) for i in range(0, len(kept), step)]


def _item(group: _Group, texts: list[str]) -> Item:
    models = tuple(group.models[text] for text in texts)
    return Item(prompt=group.prompt, responses=tuple(texts), models=models if any(models) else ())


def _distinct(items: Iterable[Item], left_out: Counter[str]) -> list[Item]:
    """Items without those that show what an earlier one shows, in whatever order; a practice or gold item is one by itself."""
    found: dict[tuple, Item] = {}
    for item in items:
        key = (item.prompt.text, tuple(sorted(item.responses)), item.practice, item.gold is not None)
        left_out[AGAIN] += key in found
        found.setdefault(key, item)
    return list(found.values())
