"""The kinds of feedback: what a task asks, what a labeller answers, and what stands as a label in the end.

An answer is given in the order in which the responses were shown.  `restored` turns it into the order of the item, in
which it is stored; places count from 1 and equal places are ties.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, TypeAdapter, model_validator

from handrail.errors import InputError
from handrail.records import MARGIN as MARGIN
from handrail.records import Message, Prompt, Record

Kind = Literal["demonstrate", "compare", "rank", "rate", "chat"]
Purpose = Literal["work", "gold", "repeat", "practice", "adjudication"]
Strength = Literal["slightly", "clearly", ""]


class Criterion(Record):
    """One scale on which responses are rated."""

    name: str = Field("overall", pattern=r"^[A-Za-z0-9][A-Za-z0-9 _-]{0,63}$")
    question: str = ""
    low: int = 1
    high: int = 5
    low_label: str = ""
    high_label: str = ""

    @model_validator(mode="after")
    def _a_scale(self) -> "Criterion":
        if not 2 <= self.high - self.low + 1 <= 11:
            raise ValueError(f"criterion {self.name!r} goes from {self.low} to {self.high}: a scale has 2 to 11 steps")
        return self


class TaskSettings(Record):
    """What a task asks for and how its items are given out."""

    kind: Kind
    title: str = ""
    instructions: str = Field("", description="markdown, always at hand")
    examples: tuple[str, ...] = Field((), description="markdown, one card each")
    overlap: int = Field(1, ge=1, le=100, description="labellers an item")
    lease: float = Field(1800.0, gt=0, description="seconds for which an item is kept for a labeller")
    gold: float = Field(0.0, ge=0, le=0.5, description="share of gold items slipped in")
    repeats: float = Field(0.0, ge=0, le=0.5, description="share of a labeller's own items shown again")
    ties: bool = True
    strength: bool = Field(True, description="compare: slightly or clearly")
    criteria: tuple[Criterion, ...] = Field((Criterion(),), min_length=1, description="rate: the scales")
    ask_reason: bool = Field(False, description="ask for a reason in words")
    turns: int = Field(4, ge=1, le=50, description="chat: turns at most")
    models: tuple[str, ...] = Field((), description="chat: the two models that answer")
    paused: bool = False

    @model_validator(mode="after")
    def _two_models(self) -> "TaskSettings":
        if self.kind == "chat" and len(self.models) != 2:
            raise ValueError(f"a chat is between two models; models has {len(self.models)}")
        if len({c.name for c in self.criteria}) < len(self.criteria):
            raise ValueError("two criteria have the same name")
        return self


class Compared(Record):
    """Which of two responses is better; None is a tie."""

    kind: Literal["compare"] = "compare"
    better: int | None = Field(ge=0, le=1)
    strength: Strength = ""

    @property
    def places(self) -> tuple[int, ...]:
        return (1, 1) if self.better is None else (1, 2) if self.better == 0 else (2, 1)


class Ranked(Record):
    """The place of each response."""

    kind: Literal["rank"] = "rank"
    places: tuple[Annotated[int, Field(ge=1, le=64)], ...] = Field(min_length=2, max_length=64)


class Rated(Record):
    """For each response a number on each criterion."""

    kind: Literal["rate"] = "rate"
    ratings: tuple[dict[str, FiniteFloat], ...] = Field(min_length=1, max_length=64)


class Demonstrated(Record):
    """The ideal response."""

    kind: Literal["demonstrate"] = "demonstrate"
    text: str = Field(min_length=1, max_length=200_000)


class Turn(Record):
    """One turn of a chat: what was said, what two models answered, and which of the answers the chat went on from."""

    message: str
    responses: tuple[str, str]
    better: int = Field(ge=0, le=1)
    tie: bool = False
    order: tuple[int, int] = Field((0, 1), description="order[i]: which response stood at place i on the screen")

    @property
    def places(self) -> tuple[int, ...]:
        return (1, 1) if self.tie else (1, 2) if self.better == 0 else (2, 1)


class Chatted(Record):
    """A conversation with two models; `responses` of a turn stand in the order of the task's models."""

    kind: Literal["chat"] = "chat"
    turns: tuple[Turn, ...] = Field(min_length=1, max_length=50)


Answer = Annotated[Compared | Ranked | Rated | Demonstrated | Chatted, Field(discriminator="kind")]
ANSWER: TypeAdapter = TypeAdapter(Answer)


class Whole(Record):
    """A record that holds an answer: its line of JSON keeps every field, since `kind` tells which answer it is."""

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(self.model_dump(mode="json"), ensure_ascii=False)


class Item(Whole):
    """What is asked about: a prompt, and for most kinds responses with the models that wrote them.

    `gold` is the right answer, in the order of `responses`; an item with one is slipped in to check labellers, or, with
    `practice`, is part of the practice round, where `explanation` is shown after the answer.
    """

    prompt: Prompt
    responses: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    meta: dict[str, Any] = {}
    priority: float = Field(0.0, allow_inf_nan=False, description="items of a higher one are given out first")
    gold: Answer | None = None
    explanation: str = ""
    practice: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> "Item":
        if self.models and len(self.models) != len(self.responses):
            raise ValueError(f"{len(self.responses)} responses have {len(self.models)} models")
        if self.practice and self.gold is None:
            raise ValueError("a practice item needs gold, the right answer")
        return self


class Label(Whole):
    """What somebody said of an item, as it stands now; with all that was shown."""

    id: str
    project: str
    task: str
    item: str
    prompt: Prompt
    responses: tuple[str, ...]
    models: tuple[str, ...] = ()
    answer: Answer
    order: tuple[int, ...] = Field(description="order[i]: which response stood at place i on the screen")
    labeller: str
    purpose: Purpose = "work"
    repetition: int = 0
    at: float = Field(description="when the server wrote it, seconds since 1970")
    seconds: float = Field(description="that were spent on it")
    reason: str = ""
    flagged: bool = False
    extra: bool = Field(False, description="came after its lease had ended and the item had enough labels")
    gold: Answer | None = None
    revision: int = Field(1, description="of the task's settings and instructions that were shown")
    shown: str = Field("", description="SHA-256 of the bytes that were shown")


def fits(settings: TaskSettings, item: Item) -> None:
    """Whether an item can be asked about in a task of these settings.  Raises InputError."""
    n, (low, high, what) = len(item.responses), SHOWN[settings.kind]
    if not low <= n <= high:
        raise InputError(f"an item with {n} responses", f"a task of kind {settings.kind} shows {what}")
    if item.gold is not None:
        check(settings, item.gold, n)


SHOWN = {
    "demonstrate": (0, 1, "none, or one to be edited"),
    "compare": (2, 2, "two"),
    "rank": (2, 9, "2 to 9"),
    "rate": (1, 9, "1 to 9"),
    "chat": (0, 0, "none: they are made while it goes on"),
}


def check(settings: TaskSettings, answer: Any, shown: int) -> None:
    """Whether an answer is one to this task, for so many responses.  Raises InputError."""
    if answer.kind != settings.kind:
        raise InputError(f"an answer of kind {answer.kind}", f"the task asks for {settings.kind}")
    if isinstance(answer, Compared):
        if answer.better is None and not settings.ties:
            raise InputError("a tie", "this task has none: one response or the other")
        if answer.strength and (answer.better is None or not settings.strength):
            raise InputError(f"a strength, {answer.strength!r}", "none with a tie, nor where the task asks for none")
    if isinstance(answer, Ranked):
        if len(answer.places) != shown:
            raise InputError(f"{len(answer.places)} places for {shown} responses", "one each")
        if set(answer.places) != set(range(1, len(set(answer.places)) + 1)):
            raise InputError(f"places {list(answer.places)}", "1 to the number of places, none left out; equal ones are ties")
        if not settings.ties and len(set(answer.places)) < shown:
            raise InputError(f"places {list(answer.places)}", "this task has no ties: each response a place of its own")
    if isinstance(answer, Rated):
        if len(answer.ratings) != shown:
            raise InputError(f"ratings of {len(answer.ratings)} responses", f"of all {shown}")
        for rating in answer.ratings:
            if rating.keys() != {c.name for c in settings.criteria}:
                raise InputError(f"ratings on {', '.join(rating) or 'nothing'}", f"on {', '.join(c.name for c in settings.criteria)}")
            for scale in settings.criteria:
                value = rating[scale.name]
                if not scale.low <= value <= scale.high or value != int(value):
                    raise InputError(f"{scale.name}: {value:g}", f"a whole number from {scale.low} to {scale.high}")
    if isinstance(answer, Chatted) and len(answer.turns) > settings.turns:
        raise InputError(f"a chat of {len(answer.turns)} turns", f"at most {settings.turns}")


def question_of(item: Item) -> tuple[str, frozenset[str]]:
    """What is asked, whichever order the responses stand in and whoever wrote them: one question has one right answer."""
    return item.prompt.text, frozenset(item.responses)


def right_of(item: Item) -> dict[str, Any] | None:
    """What the right answer says of each text; None where there is none, or where several texts may be right."""
    said: Any = getattr(item.gold, "ratings", None) or getattr(item.gold, "places", None)
    return dict(zip(item.responses, said, strict=True)) if said and len(said) == len(item.responses) else None


def restored(answer: Any, order: tuple[int, ...]) -> Any:
    """An answer given in the order shown, in the order of the item.  order[i] is the response that stood at place i."""
    if isinstance(answer, Compared) and answer.better is not None:
        return answer.model_copy(update={"better": order[answer.better]})
    if isinstance(answer, Ranked):
        return answer.model_copy(update={"places": scattered(answer.places, order)})
    if isinstance(answer, Rated):
        return answer.model_copy(update={"ratings": scattered(answer.ratings, order)})
    return answer


def as_shown(answer: Any, order: tuple[int, ...]) -> Any:
    """The inverse of `restored`."""
    inverse = tuple(order.index(i) for i in range(len(order)))
    return restored(answer, inverse)


def scattered(values: tuple, order: tuple[int, ...]) -> tuple:
    """values[i] put at order[i]."""
    found = list(values)
    for value, place in zip(values, order, strict=True):
        found[place] = value
    return tuple(found)


def conversation(label: Label) -> list[tuple[Prompt, tuple[str, str], tuple[int, ...]]]:
    """A chat as comparisons: what was said so far, the two answers, their places.

    The item's prompt tells the labeller what to talk about; only its system message is part of the conversation.
    """
    assert isinstance(label.answer, Chatted)
    said, found = [m for m in label.prompt.messages if m.role == "system"], []
    for turn in label.answer.turns:
        said.append(Message(role="user", content=turn.message))
        found.append((Prompt(messages=tuple(said)), turn.responses, turn.places))
        said.append(Message(role="assistant", content=turn.responses[turn.better]))
    return found
