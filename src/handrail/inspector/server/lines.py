"""A derivation as on a blackboard: steps of lines, each a formula, the same with numbers, and what comes out.

Formulas are in a small notation that the page sets: `x_t`, `x_{t+1}` and `x^2` are what they look like.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

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

    row: dict[str, Any]
    heading: str
    figures: list[tuple[str, str]]  # what it is, and how much


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
