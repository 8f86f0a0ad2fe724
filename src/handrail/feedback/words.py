"""Answers, figures and moments in words, for those who run the projects."""

from datetime import UTC, datetime
from string import ascii_uppercase
from typing import Any

from handrail.feedback.kinds import Chatted, Compared, Demonstrated, Ranked, Rated
from handrail.feedback.quality import Figure
from handrail.feedback.quality.figures import FEWEST


def letter(index: int) -> str:
    """A, B, C, ... for the responses of an item."""
    return ascii_uppercase[index] if index < 26 else str(index + 1)


def in_words(answer: Any) -> str:
    """What somebody answered, responses by their letters in the order of the item."""
    if isinstance(answer, Compared):
        if answer.better is None:
            return "a tie"
        return f"{letter(answer.better)} is {answer.strength + ' ' if answer.strength else ''}better"
    if isinstance(answer, Ranked):
        places = sorted(set(answer.places))
        return " > ".join(" = ".join(letter(i) for i, at in enumerate(answer.places) if at == place) for place in places)
    if isinstance(answer, Rated):
        rated = enumerate(answer.ratings)
        return "; ".join(f"{letter(i)}: " + ", ".join(f"{name} {value:g}" for name, value in given.items()) for i, given in rated)
    if isinstance(answer, Demonstrated):
        return answer.text
    assert isinstance(answer, Chatted)
    return f"a chat of {len(answer.turns)} turns"


def percent(value: float | None) -> str:
    """A share."""
    return "–" if value is None else f"{100 * value:.0f} %"


def measured(figure: Figure | None, *, share: bool = False) -> str:
    """A figure with its interval, or why there is none."""
    if figure is None or figure.value is None:
        if figure is None or not figure.n:
            return "–"
        return f"too few ({figure.n})" if figure.n < FEWEST else "not defined: all are alike"
    if share:
        return f"{percent(figure.value)} ({100 * (figure.low or 0):.0f} to {100 * (figure.high or 0):.0f})"
    return f"{figure.value:.2f} ({figure.low or 0:.2f} to {figure.high or 0:.2f})"


def moment(at: float | None) -> str:
    """A time of day, in UTC."""
    return "–" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
