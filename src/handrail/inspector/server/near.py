"""Responses that are nearly the same: by the word triples that they share."""

import re

WORD = re.compile(r"\w+|[^\w\s]")
CHARACTERS = 20_000  # of a text that are compared


def triples(text: str) -> frozenset[tuple[str, ...]]:
    """Every three words in a row, small letters; of a shorter text all its words as one."""
    words = WORD.findall(text[:CHARACTERS].lower())
    return frozenset(zip(words, words[1:], words[2:], strict=False)) if len(words) > 2 else frozenset({tuple(words)})


def nearest(texts: list[str], of: int, count: int = 5, least: float = 0.05) -> list[tuple[int, float]]:
    """(which, share) of the texts nearest to one of them: triples in common, of all that either has; the nearest first."""
    own = triples(texts[of])
    shares = []
    for number, text in enumerate(texts):
        if number != of:
            other = triples(text)
            shares.append((number, len(own & other) / len(own | other)))
    return sorted((one for one in shares if one[1] >= least), key=lambda one: -one[1])[:count]
