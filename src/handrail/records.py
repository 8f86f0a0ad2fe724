"""What people and models said, as frozen records that go to and from JSON.

A prompt is a list of messages that ends with the user's turn.  A ranking orders K responses to one prompt;
a comparison is a ranking of two.  Place 1 is the best, equal places are ties.
"""

import hashlib
import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

Role = Literal["system", "user", "assistant"]


MARGIN = {"": 0.0, "slightly": 0.0, "clearly": 1.0}  # of the Bradley-Terry loss, in reward, by how much better


class Record(BaseModel):
    """A frozen record.  Unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def to_json(self) -> str:
        """One line of JSON without the fields that hold their default."""
        return json.dumps(self.model_dump(mode="json", exclude_defaults=True), ensure_ascii=False)


class Message(Record):
    """One turn of a conversation."""

    role: Role
    content: str


class Prompt(Record):
    """A conversation that waits for the assistant."""

    messages: tuple[Message, ...] = Field(min_length=1)
    meta: dict[str, Any] = {}

    @model_validator(mode="after")
    def _roles_in_order(self) -> "Prompt":
        turns = [m.role for m in self.messages]
        if "system" in turns[1:]:
            raise ValueError("a system message can only be the first")
        turns = turns[1:] if turns[0] == "system" else turns
        if not turns or turns[-1] != "user":
            raise ValueError("a prompt ends with a user's message")
        if any(a == b for a, b in pairwise(turns)) or turns[0] != "user":
            raise ValueError("user and assistant take turns, the user first")
        return self

    @classmethod
    def of(cls, text: str, **meta: Any) -> "Prompt":
        """A prompt of one user's message."""
        return cls(messages=(Message(role="user", content=text),), meta=meta)

    @property
    def text(self) -> str:
        """The conversation as plain text: what tells one prompt from another."""
        if len(self.messages) == 1:
            return self.messages[0].content
        return "\n\n".join(f"{m.role}: {m.content}" for m in self.messages)

    @property
    def id(self) -> str:
        """The first 16 hex digits of the SHA-256 of `text`."""
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


class Demonstration(Record):
    """A response that somebody wrote as an example to follow.  `label` as in `Ranking`."""

    prompt: Prompt
    response: str
    author: str = ""
    label: str = ""


class Response(Record):
    """What a model answered to a prompt, and how it was sampled.

    `priority` says how much is to be learned from the people's word on the responses to this prompt: those of a higher
    one are asked about first.  Responses that were sampled together have the same.
    """

    prompt: Prompt
    text: str
    model: str = ""
    finish: Literal["stop", "length", ""] = ""
    seed: int | None = None
    priority: FiniteFloat = 0.0


class Pair(Record):
    """Two responses to one prompt that wait to be compared, and the models that wrote them."""

    prompt: Prompt
    responses: tuple[str, str]
    models: tuple[str, str]


class Ranking(Record):
    """K responses to one prompt with their places.  1 is the best; equal places are ties.

    `criterion` says by what they were judged, "" where that is left open.  `scores` are the ratings that the places
    come from, where they come from ratings.  `label` is the id of the label in the feedback store that it comes from.
    """

    prompt: Prompt
    responses: tuple[str, ...] = Field(min_length=2)
    places: tuple[int, ...]
    labeller: str = ""
    criterion: str = ""
    margin: float = 0.0
    weight: float = 1.0
    models: tuple[str, ...] = ()
    scores: tuple[FiniteFloat, ...] = ()
    label: str = ""

    @model_validator(mode="after")
    def _one_place_each(self) -> "Ranking":
        if len(self.places) != len(self.responses):
            raise ValueError(f"{len(self.responses)} responses have {len(self.places)} places")
        if min(self.places) < 1:
            raise ValueError("places count from 1")
        if self.models and len(self.models) != len(self.responses):
            raise ValueError(f"{len(self.responses)} responses have {len(self.models)} models")
        if self.scores and len(self.scores) != len(self.responses):
            raise ValueError(f"{len(self.responses)} responses have {len(self.scores)} scores")
        if self.scores and places_of(self.scores) != places_of([-place for place in self.places]):
            raise ValueError(f"the scores {list(self.scores)} do not give the places {list(self.places)}")
        return self

    @property
    def id(self) -> str:
        """The first 16 hex digits of a SHA-256 of who ranked what by what, and how; margin, weight and label are not in it."""
        told = [self.prompt.text, self.responses, self.places, self.labeller, self.criterion]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]

    def pairs(self) -> list[tuple[int, int]]:
        """(better, worse) for every pair that is not tied, as indices into `responses`."""
        k = range(len(self.places))
        return [(i, j) for i in k for j in k if self.places[i] < self.places[j]]


def places_of(scores: Sequence[float]) -> tuple[int, ...]:
    """The places that scores give: 1 for the highest, equal ones for equal scores."""
    order = sorted(set(scores), reverse=True)
    return tuple(order.index(score) + 1 for score in scores)


class Rating(Record):
    """A number that somebody gave to one response.  `label` as in `Ranking`."""

    prompt: Prompt
    response: str
    score: float = Field(allow_inf_nan=False)
    criterion: str = ""
    labeller: str = ""
    label: str = ""
