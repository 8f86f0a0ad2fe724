"""The settings of a task as a form: what stands in its fields, and back."""

from dataclasses import dataclass, field
from typing import Any, cast

from pydantic import ValidationError
from starlette.datastructures import FormData

from handrail.feedback.kinds import Criterion, Kind, TaskSettings

KINDS: dict[Kind, tuple[str, str]] = {
    "compare": ("Compare two", "Which of two responses is better: the plainest question, for a reward model or DPO."),
    "rank": ("Rank several", "Put 2 to 9 responses in order, ties allowed: more is learned from each reading of a prompt."),
    "rate": ("Rate", "Give each response a number on one scale or several: for several rewards, or where nothing stands beside it."),
    "demonstrate": ("Demonstrate", "Write the ideal response, or edit one: examples to imitate, for SFT."),
    "chat": ("Chat with two models", "Talk to two models at once and choose at every turn the answer that the chat goes on from."),
}
NUMBERS = {  # field of the form: (setting, how many of its units the form's unit has, what the form calls it)
    "overlap": ("overlap", 1, "Labellers an item"),
    "lease_minutes": ("lease", 60, "Minutes that an item is kept"),
    "gold_percent": ("gold", 0.01, "Gold items"),
    "repeats_percent": ("repeats", 0.01, "Repeats"),
    "turns": ("turns", 1, "Turns at most"),
}
CALLED = {setting: name for setting, _, name in NUMBERS.values()} | {"criteria": "Scales", "models": "Models", "title": "Title"}
SCALE = ("name", "question", "low", "high", "low_label", "high_label")


@dataclass
class Draft:
    """What stands in the fields, right or not yet."""

    kind: Kind
    title: str = ""
    instructions: str = ""
    examples: list[str] = field(default_factory=list)
    numbers: dict[str, str] = field(default_factory=dict)
    ties: bool = True
    strength: bool = True
    ask_reason: bool = False
    paused: bool = False
    criteria: list[dict[str, str]] = field(default_factory=list)
    models: list[str] = field(default_factory=list)


class Unfit(ValueError):
    """The fields give no task; `faults` says in words what is wrong with which."""

    def __init__(self, faults: list[str]):
        self.faults = faults
        super().__init__("; ".join(faults))


def draft_of(settings: TaskSettings) -> Draft:
    """The fields for settings that there are."""
    numbers = {name: f"{getattr(settings, setting) / unit:.10g}" for name, (setting, unit, _) in NUMBERS.items()}
    return Draft(
        kind=settings.kind,
        title=settings.title,
        instructions=settings.instructions,
        examples=list(settings.examples),
        numbers=numbers,
        ties=settings.ties,
        strength=settings.strength,
        ask_reason=settings.ask_reason,
        paused=settings.paused,
        criteria=[{key: str(getattr(scale, key)) for key in SCALE} for scale in settings.criteria],
        models=list(settings.models),
    )


def fresh(kind: Kind) -> Draft:
    """The fields of a new task."""
    models = ("first", "second") if kind == "chat" else ()
    made = draft_of(TaskSettings(kind=kind, models=models))
    made.models = []
    return made


def read(form: FormData, kind: Kind) -> Draft:
    """The fields as they came."""

    def text(name: str) -> str:
        return str(form.get(name, "")).replace("\r\n", "\n")

    rows = [{key: text(f"scale-{n}-{key}") for key in SCALE} for n in range(count(form, "scales"))]
    return Draft(
        kind=kind,
        title=text("title").strip(),
        instructions=text("instructions"),
        examples=[text(f"example-{n}") for n in range(count(form, "examples"))],
        numbers={name: text(name).strip() for name in NUMBERS},
        ties="ties" in form,
        strength="strength" in form,
        ask_reason="ask_reason" in form,
        paused="paused" in form,
        criteria=rows,
        models=[name for name in (text("model-0").strip(), text("model-1").strip()) if name],
    )


def count(form: FormData, name: str) -> int:
    """How many rows the form has of something."""
    told = str(form.get(name, "0"))
    return min(int(told), 50) if told.isdecimal() else 0


def settings_of(draft: Draft) -> TaskSettings:
    """The settings that the fields give.  Raises Unfit."""
    faults: list[str] = []
    values: dict[str, Any] = {key: getattr(draft, key) for key in ("kind", "title", "instructions", "ties", "strength")}
    values |= {"ask_reason": draft.ask_reason, "paused": draft.paused, "models": tuple(draft.models)}
    values["examples"] = tuple(text for text in draft.examples if text.strip())
    for name, (setting, unit, called) in NUMBERS.items():
        if not (said := draft.numbers.get(name, "")):
            continue  # a field that this kind of task does not show
        try:
            number = float(said.replace(",", "."))
            values[setting] = number * unit if setting in ("lease", "gold", "repeats") else whole(number)
        except ValueError:
            faults.append(f"{called}: found {said!r}, a number is wanted")
    if draft.kind == "rate":
        values["criteria"] = tuple(scale for row in draft.criteria if (scale := scale_of(row, faults)) is not None)
    if faults:
        raise Unfit(faults)
    try:
        return TaskSettings(**values)
    except ValidationError as error:
        raise Unfit([told(fault) for fault in error.errors()]) from error


def scale_of(row: dict[str, str], faults: list[str]) -> Criterion | None:
    """A scale; None for a row without a name."""
    if not row["name"].strip():
        return None
    try:
        values = row | {"name": row["name"].strip(), "low": row["low"] or "1", "high": row["high"] or "5"}
        return Criterion(**cast(Any, values))
    except ValidationError as error:
        faults += [f"Scale {row['name']!r}: {told(fault)}" for fault in error.errors()]
        return None


def told(fault: Any) -> str:
    """What pydantic found, as a sentence."""
    place = CALLED.get(str(fault["loc"][0]), str(fault["loc"][0])) if fault["loc"] else ""
    message = fault["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


def whole(number: float) -> int:
    """A whole number.  Raises ValueError."""
    if number != int(number):
        raise ValueError(number)
    return int(number)
