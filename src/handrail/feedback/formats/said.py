"""Labels as training records: what somebody said, in the form that training reads."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from handrail.errors import InputError
from handrail.feedback.kinds import MARGIN, Chatted, Compared, Demonstrated, Label, Ranked, Rated, conversation
from handrail.records import Demonstration, Ranking, Rating

Kept = Ranking | Rating | Demonstration
R = TypeVar("R", Ranking, Rating, Demonstration)

HALF = "a lone surrogate, half a character, which no file in UTF-8 can hold"
NOT_JSON = "a meta that JSON cannot hold"


@dataclass(frozen=True, slots=True)
class Said(Generic[R]):
    """A training record and the label that it comes from."""

    record: R
    label: Label


@dataclass(frozen=True, slots=True)
class Sayings:
    """What labels say, by type of record and in the labels' order, and what was left out, by reason."""

    rankings: list[Said[Ranking]] = field(default_factory=list)
    ratings: list[Said[Rating]] = field(default_factory=list)
    demonstrations: list[Said[Demonstration]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def tables(self) -> dict[str, Sequence[Said[Any]]]:
        return {"rankings": self.rankings, "ratings": self.ratings, "demonstrations": self.demonstrations}

    @property
    def counts(self) -> dict[str, int]:
        return {name: len(some) for name, some in self.tables.items()}


def records_of(labels: Iterable[Label], weights: Mapping[str, float] | None = None) -> list[Kept]:
    """Rankings, ratings and demonstrations, in the labels' order.

    `weights` gives labellers a weight, which becomes that of their rankings; who is not in it has 1.  Raises InputError
    for a negative weight.
    """
    weights = _checked(weights or {})
    return [record for label in labels for record in _records(label, weights.get(label.labeller, 1.0))]


def said(labels: Sequence[Label], weights: Mapping[str, float] | None = None) -> Sayings:
    """The records of `records_of` that a file can hold, each with its label.  Raises InputError as it does."""
    weights = _checked(weights or {})
    found = Sayings()
    homes: dict[type, list[Any]] = {Ranking: found.rankings, Rating: found.ratings, Demonstration: found.demonstrations}
    for label in labels:
        for record in _records(label, weights.get(label.labeller, 1.0)):
            reason = _unwritable(record)
            if reason:
                found.left_out[reason] += 1
            else:
                homes[type(record)].append(Said(record, label))
    return found


def _records(label: Label, weight: float) -> list[Kept]:
    answer, about = label.answer, {"labeller": label.labeller, "label": label.id}
    if isinstance(answer, Demonstrated):
        return [Demonstration(prompt=label.prompt, response=answer.text, author=label.labeller, label=label.id)]
    if isinstance(answer, Rated):
        pairs = zip(label.responses, answer.ratings, strict=True)
        return [
            Rating(prompt=label.prompt, response=response, score=score, criterion=criterion, labeller=label.labeller, label=label.id)
            for response, scores in pairs
            for criterion, score in scores.items()
        ]
    if isinstance(answer, Chatted):
        return [
            Ranking(prompt=prompt, responses=responses, places=places, weight=weight, models=label.models, **about)
            for prompt, responses, places in conversation(label)
        ]
    assert isinstance(answer, Compared | Ranked)
    margin = MARGIN[answer.strength] if isinstance(answer, Compared) else 0.0
    ranking = Ranking(
        prompt=label.prompt,
        responses=label.responses,
        places=answer.places,
        margin=margin,
        weight=weight,
        models=label.models,
        **about,
    )
    return [ranking]


def _checked(weights: Mapping[str, float]) -> Mapping[str, float]:
    for labeller, weight in weights.items():
        if not 0 <= weight < float("inf"):
            raise InputError(f"the weight of {labeller} is {weight}", "a number from 0", "correct it, or leave the labeller out")
    return weights


def _unwritable(record: Kept) -> str:
    try:
        json.dumps(record.model_dump(), ensure_ascii=False, allow_nan=False).encode("utf-8")
    except UnicodeEncodeError:
        return HALF
    except (ValueError, TypeError):
        return NOT_JSON
    return ""
