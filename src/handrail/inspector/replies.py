"""Which replies are shown, and what differs between two of them."""

import difflib
import re
import unicodedata
from typing import Any

from markupsafe import Markup

from handrail.inspector.folders import finite
from handrail.inspector.svg import tag

PIECE = re.compile(r"\s+|\w+|[^\w\s]")
ALIKE = 0.15  # below this similarity nothing is marked: all would be
CHARACTERS = 20_000  # of a text that is compared word by word; longer ones are shown unmarked


def visible(text: str) -> str:
    """The text with control, formatting and broken characters written out, so that none acts on the page unseen."""
    return "".join(_shown(c) for c in text.replace("\r\n", "\n"))


def _shown(c: str) -> str:
    if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn"):
        return c
    return f"⟨U+{ord(c):04X}⟩"


def differences(before: str, after: str) -> tuple[Markup, Markup, bool]:
    """Both texts with the words that only one of them has marked, and whether they were alike enough to mark at all."""
    left, right = PIECE.findall(before), PIECE.findall(after)
    if max(len(before), len(after)) > CHARACTERS:
        return Markup("{}").format(before), Markup("{}").format(after), False
    match = difflib.SequenceMatcher(None, left, right, autojunk=False)
    gone, come = [True] * len(left), [True] * len(right)
    for i, j, size in match.get_matching_blocks():
        gone[i : i + size] = [False] * size
        come[j : j + size] = [False] * size
    words = sum(not piece.isspace() for piece in (*left, *right))
    common = 2 * sum(not piece.isspace() and not flag for piece, flag in zip(left, gone, strict=True))
    if common < ALIKE * words:
        return Markup("{}").format(before), Markup("{}").format(after), False
    return _marked(left, gone, "del"), _marked(right, come, "ins"), True


def _marked(pieces: list[str], mark: list[bool], name: str) -> Markup:
    """Runs of marked pieces in one element each; a lone space between two marked words belongs to them."""
    flags = list(mark)
    for i in range(1, len(pieces) - 1):
        if pieces[i].isspace() and flags[i - 1] and flags[i + 1]:
            flags[i] = True
    parts: list[Any] = []
    start = 0
    for i in range(1, len(pieces) + 1):
        if i == len(pieces) or flags[i] != flags[start]:
            run = "".join(pieces[start:i])
            core = run.strip()
            if flags[start] and core:
                before, _, after = run.partition(core)
                parts += [before, tag(name, {}, core), after]
            else:
                parts.append(run)
            start = i
    return Markup("").join(parts)


def gain(sample: dict[str, Any]) -> float | None:
    """Gold after minus before; of the reward where there is no gold."""
    for name in ("gold", "reward"):
        before, after = finite(sample.get(f"{name}_before")), finite(sample.get(f"{name}_after"))
        if before is not None and after is not None:
            return after - before
    return None


def chosen(samples: list[dict[str, Any]], count: int = 8) -> list[tuple[str, dict[str, Any]]]:
    """(why it is shown, sample): half from around the median gain, a quarter the largest gains, a quarter the least."""
    known = [(g, i) for i, s in enumerate(samples) if (g := gain(s)) is not None]
    if len(known) < len(samples) or len(samples) <= count:
        return [("", s) for s in samples[:count]]
    order = [samples[i] for _, i in sorted(known)]
    side = count // 4
    middle = (len(order) - (count - 2 * side)) // 2
    typical = order[middle : middle + count - 2 * side]
    return (
        [("around the median", s) for s in typical]
        + [("largest gain", s) for s in reversed(order[-side:])]
        + [("largest loss" if (gain(s) or 0) < 0 else "least gain", s) for s in order[:side]]
    )
