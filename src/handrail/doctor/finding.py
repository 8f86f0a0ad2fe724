"""What the doctor says: a finding with its evidence, its likely cause and what to do."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["sick", "warning", "notice", "note"]

SEVERITIES: tuple[Severity, ...] = ("sick", "warning", "notice", "note")
"""sick: the run teaches the wrong thing or nothing; stop it.  warning: it will not go well like this.
notice: look at it.  note: worth knowing, nothing to do."""

UPPER = SEVERITIES[:2]
DOCUMENT = "docs/doctor.md"


@dataclass(frozen=True, slots=True)
class Held:
    """What a check has seen: where it held, with which figures, why that happens and what to do."""

    severity: Severity
    steps: Sequence[int]  # where it held, in order
    evidence: str  # a sentence with figures
    cause: str
    remedy: str
    change: str = ""  # the remedy as a setting, key=value, where there is one


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a run, or worth knowing of it."""

    name: str
    severity: Severity
    stage: str
    first: int  # the step at which it began to hold
    spans: tuple[tuple[int, int], ...]  # where it held, from step to step
    evidence: str
    cause: str
    remedy: str
    change: str = ""  # the remedy as a setting; of a stage of a round with the stage's name before it, as `handrail run` takes it
    because: str = ""  # the finding that this one follows from

    @property
    def page(self) -> str:
        """Where the documentation tells of it."""
        return f"{DOCUMENT}#{self.name}"

    @property
    def title(self) -> str:
        """The name in words."""
        return self.name.replace("_", " ")

    @property
    def where(self) -> str:
        """The steps in words."""
        spans = [str(a) if a == b else f"{a} to {b}" for a, b in self.spans]
        shown = ", ".join(spans[:3]) + (f" and {len(spans) - 3} more stretches" if spans[3:] else "")
        return f"step {shown}" if len(spans) == 1 and self.spans[0][0] == self.spans[0][1] else f"steps {shown}"

    def json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self) | {"spans": [list(span) for span in self.spans], "page": self.page}


def figure(x: float, digits: int = 3) -> str:
    """A number to so many significant figures and with no exponent where it is large: 0.0421, 3.26, 240, 12000."""
    rounded = f"{x:.{digits}g}"
    return f"{float(rounded):.0f}" if abs(x) >= 1 and "e" in rounded else rounded


def spans(steps: Sequence[int], known: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Consecutive ones of the `known` steps among `steps`, as (first, last)."""
    place = {step: number for number, step in enumerate(known)}
    found: list[list[int]] = []
    for step in steps:
        if found and place.get(step, step) - place.get(found[-1][1], found[-1][1]) == 1:
            found[-1][1] = step
        else:
            found.append([step, step])
    return tuple((a, b) for a, b in found)
