"""What a loss is written out with: steps of lines as on a blackboard, each a formula, the same with numbers, and what comes out.

Formulas are in a small notation that the page sets: `x_t`, `x_{t+1}` and `x^2` are what they look like.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

Row = dict[str, Any]  # a response as its trace has it

SPELT = 16  # terms of a sum that are all written


@dataclass(frozen=True)
class Line:
    """formula = numbers = value."""

    formula: str
    numbers: str
    value: str
    named: str = ""  # what the value is, for whoever looks for it by name


@dataclass(frozen=True)
class Block:
    """A step of the derivation."""

    title: str
    lines: list[Line]
    note: str = ""
    table: dict[str, Any] | None = field(default=None)


@dataclass(frozen=True)
class Beside:
    """A response among those that it is weighed against."""

    row: Row
    heading: str
    figures: list[tuple[str, str]]  # what it is, and how much


class Method:
    """How the loss of a step comes about, from its run's settings and its traced responses.

    `group` are the responses that are learned from together with one, itself among them, and `in_step` says where each stands.
    """

    logged: ClassVar[tuple[str, ...]]  # what the run logs of a step that `sums` says again
    needs: ClassVar[tuple[str, ...]]  # the columns of a trace that `sums` and `beside` are made from

    def missing(self, row: Row) -> str:
        """Why this response's loss cannot be written out; "" where it can."""
        return ""

    def passes(self, row: Row) -> list[dict[str, Any]]:
        """Of each pass over the response, or each member of an ensemble, what there is to know; none where there is but one."""
        return []

    def coloured(self, row: Row) -> dict[str, list[Any]]:
        """Numbers of each token by name, a list a pass, beside those that the trace has."""
        return {}

    def beside(self, row: Row, group: list[Row]) -> list[Beside]:
        """The responses that this one is weighed against, itself among them; none where it stands alone."""
        return []

    def written(self, row: Row, group: list[Row], at: int, number: int) -> list[Block]:
        """How the loss comes about, for token `at` in pass `number`."""
        raise NotImplementedError

    def sums(self, rows: list[Row]) -> dict[str, Any]:
        """What the run logs, added up over the step's traced responses; `whole` where none is missing, `updates` how many there were."""
        raise NotImplementedError


def n(x: float) -> str:
    """A number with six digits that count, enough to go on calculating with."""
    return f"{x:.6g}".replace("-", "−")


def p(x: float) -> str:
    """The same within a product or after an operator: in brackets where it is negative."""
    return f"({n(x)})" if x < 0 else n(x)


def total(terms: Sequence[float]) -> str:
    """A sum over tokens; of a long one the page's table has the terms."""
    if len(terms) > SPELT:
        return f"{n(terms[0])} + {p(terms[1])} + … + {p(terms[-1])}"
    return " + ".join(p(x) if number else n(x) for number, x in enumerate(terms))
