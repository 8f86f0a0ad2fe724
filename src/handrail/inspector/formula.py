"""Formulas in a small notation as HTML: x_t, x_{t+1} and x^2 are set as they look, letters of variables in italics."""

import re

from markupsafe import Markup

from handrail.inspector.svg import tag

PIECES = re.compile(r"([_^])(?:\{([^}]*)\}|(−?[^\W_]))|([^\W\d_](?:[^\W\d_]|\u0302)*)|((?:(?![_^])[\W\d])+|.)", re.DOTALL)
UPRIGHT = frozenset(["log", "exp", "min", "max", "clip", "KL", "old", "ref", "near", "within", "reward", "token"])
LOWERED = {"_": "sub", "^": "sup"}


def formula(text: str) -> Markup:
    """The formula, escaped."""
    return tag("span", {"class": "formula"}, *pieces(text))


def pieces(text: str) -> list[Markup]:
    """Its parts one after another."""
    found = []
    for how, inside, short, word, other in PIECES.findall(text):
        if how:
            found.append(tag(LOWERED[how], {}, *pieces(inside or short)))
        elif word and word not in UPRIGHT:
            found.append(tag("i", {}, word))
        else:
            found.append(Markup("{}").format(word or other))
    return found
