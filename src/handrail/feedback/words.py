"""Answers, figures and moments in words, for those who run the projects."""

from collections.abc import Sequence
from datetime import UTC, datetime
from string import ascii_uppercase
from typing import Any

from handrail.feedback.kinds import Chatted, Compared, Demonstrated, Ranked, Rated, as_shown
from handrail.feedback.kinds import blinded as blinded
from handrail.feedback.quality import Figure
from handrail.feedback.quality.figures import FEWEST


def letter(index: int) -> str:
    """A, B, C, ... for the responses of an item."""
    return ascii_uppercase[index] if index < 26 else str(index + 1)


def as_seen(order: Sequence[int], here: Sequence[int]) -> str:
    """What the letters on somebody's screen are called here, where they differ: their A is B here, their B is A.

    Args:
        order: order[i] is the response that stood at place i on their screen; `here` the same of this page.
    """
    places = [(place, here.index(response)) for place, response in enumerate(order)]
    moved = [f"{letter(theirs)} is {letter(ours)} here" for theirs, ours in places if theirs != ours]
    return "their " + ", their ".join(moved) if moved else ""


def in_words(answer: Any, order: tuple[int, ...] = ()) -> str:
    """What somebody answered, responses by their letters in the order in which they stand here; in that of the item without."""
    answer = as_shown(answer, order) if order else answer
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


def begins(responses: Sequence[str], index: int, most: int = 60) -> str:
    """How a response begins; where it begins like all the others, from a little before the first difference."""
    first, last = min(responses), max(responses)  # whatever stands between them begins as they both do
    differ = (at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    shared = next(differ, min(len(first), len(last))) if first != last else 0
    text = responses[index]
    if shared > most // 2:
        start = shared - most // 4
        text = "… " + text[max(start, text.find(" ", start, shared) + 1) :]
    text = " ".join(text[: 2 * most].split())
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def percent(value: float | None) -> str:
    """A share."""
    return "–" if value is None else f"{100 * value:.0f} %"


def measured(figure: Figure | None, *, share: bool = False) -> str:
    """A figure with its interval and how many items or answers it rests on, or why there is none."""
    if figure is None or figure.value is None:
        if figure is None or not figure.n:
            return "–"
        return f"too few ({figure.n})" if figure.n < FEWEST else "not defined: all are alike"
    n = f"n\u00a0=\u00a0{figure.n:,}"
    if share:
        return f"{percent(figure.value)} ({100 * (figure.low or 0):.0f} to {100 * (figure.high or 0):.0f}; {n})"
    return f"{figure.value:.2f} ({figure.low or 0:.2f} to {figure.high or 0:.2f}; {n})"


def moment(at: float | None) -> str:
    """A time of day, in UTC."""
    return "–" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
