"""Reading arbitrary text: words, sentences, and whether it is well-formed English at all."""

import re
from itertools import pairwise

_WORD = re.compile(r"[a-z']+")
_END = re.compile(r"(?<=[.!?])\s+")
_FUNCTION_WORD = re.compile(
    r"a|about|all|an|and|are|at|be|because|but|by|can|could|do|for|from|good|had|has|have|hope|how|i|if|in|is|it|its|"
    r"just|like|me|my|no|not|of|on|one|or|please|see|set|so|that|the|there|this|to|us|was|we|will|with|would|you|your"
)


def words(text: str) -> list[str]:
    """The words of a text, in lower case, without punctuation."""
    return _WORD.findall(text.lower())


def sentences(text: str) -> list[str]:
    """The sentences of a text, parted after '.', '!' and '?'."""
    return [part for part in _END.split(text.strip()) if part]


def malformed(text: str) -> float:
    """How far a text is from a well-formed one, 0 to 1.

    A quarter each: no capital at the start, no end mark, hardly any function words (a bare list of words), and
    repetition of a word, a sentence or many word triples.  Text without a word is 1.
    """
    said = words(text)
    if not said:
        return 1.0
    text = text.strip()
    triples = list(zip(said, said[1:], said[2:], strict=False))
    whole = [" ".join(words(sentence)) for sentence in sentences(text)]
    echoes = any(first == second for first, second in pairwise(said))
    faults = (
        not text[0].isupper(),
        text[-1] not in ".!?",
        len(said) >= 5 and sum(map(bool, map(_FUNCTION_WORD.fullmatch, said))) < 0.2 * len(said),
        len(set(whole)) < len(whole) or len(set(triples)) < 0.85 * len(triples) or echoes,
    )
    return sum(faults) / 4
