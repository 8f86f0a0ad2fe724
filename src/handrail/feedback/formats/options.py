"""What an export may be told, and what a format makes of labels."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from handrail.feedback.formats.lines import json_line
from handrail.feedback.kinds import Label, TaskSettings
from handrail.records import Record


class Options(Record):
    """What an export may be told besides its format."""

    weights: dict[str, float] = Field({}, description="labeller: weight of their rankings; 1 for the others")
    threshold: float | None = Field(None, allow_inf_nan=False, description="trl: a rating above it is wanted; None: the scale's middle")
    users: dict[str, str] = Field({}, description="labeller: e-mail in Label Studio, user id in Argilla")
    tasks: dict[str, dict[int, TaskSettings]] = Field({}, description="id of a task: its settings by revision, for scales and instructions")
    licence: str = Field("", description="datasets: of the card, as the hub spells it")

    def asked(self, label: Label) -> TaskSettings | None:
        """The settings under which a label was given; None where they are not told."""
        return self.tasks.get(label.task, {}).get(label.revision)


@dataclass(frozen=True, slots=True)
class Made:
    """The content of files by name, a note on them for a reader, and records that the format cannot hold, by reason."""

    files: dict[str, bytes]
    note: str = ""
    left_out: Counter[str] = field(default_factory=Counter)


def jsonl(tables: Mapping[str, Iterable[Any]]) -> dict[str, bytes]:
    """A file of JSON lines for each table that has rows."""
    files = {f"{name}.jsonl": b"".join(map(json_line, rows)) for name, rows in tables.items()}
    return {name: content for name, content in files.items() if content}
