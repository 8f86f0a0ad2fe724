"""Which replies are shown, what differs between two of them, and one response token by token."""

import difflib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any

from markupsafe import Markup

from handrail.inspector.folders import RunFolder, finite, read_trace
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


@dataclass(frozen=True)
class TokenRow:
    """One token of a traced response with its quantities, as numbers or None."""

    text: str
    quantities: list[float | None]
    shade: float  # the advantage as a share of the largest in this response, -1 to 1


@dataclass(frozen=True)
class Traced:
    """One response, token by token."""

    step: int
    prompt: str
    score: float | None
    gold: float | None
    weight: float | None
    ended: bool | None
    columns: list[str]
    tokens: list[TokenRow]


COLUMNS = ("logp", "logp_old", "logp_ref", "kl", "reward", "value", "return", "advantage", "entropy")


def traced(run: RunFolder) -> list[Traced]:
    """A response of the last traced step, and one of the first, to the same prompt if it was traced there."""
    if not run.traces:
        return []
    last = _middle(read_trace(run.traces[-1]))
    if last is None:
        return []
    found = [_traced(last, run.traces[-1].stem)]
    if len(run.traces) > 1:
        rows = read_trace(run.traces[0])
        same = [r for r in rows if r.get("prompt_id") is not None and r.get("prompt_id") == last.get("prompt_id")]
        first = _middle(same) or _middle(rows)
        if first is not None:
            found.append(_traced(first, run.traces[0].stem))
    return found


def _middle(rows: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """The response whose length is nearest to the median."""
    real = [r for r in rows if r.get("tokens")]
    if not real:
        return None
    usual = median(len(r["tokens"]) for r in real)
    return min(real, key=lambda r: abs(len(r["tokens"]) - usual))


def _traced(row: dict[str, Any], stem: str) -> Traced:
    columns = [c for c in COLUMNS if isinstance(row.get(c), list)]
    advantage = [finite(x) or 0.0 for x in row.get("advantage") or []]
    largest = max((abs(a) for a in advantage), default=0.0) or 1.0
    tokens = [
        TokenRow(
            text=visible(str(token)).replace("\n", "↵"),
            quantities=[finite(row[c][i]) if i < len(row[c]) else None for c in columns],
            shade=advantage[i] / largest if i < len(advantage) else 0.0,
        )
        for i, token in enumerate(row["tokens"])
    ]
    number = stem.removeprefix("step-")
    ended = row.get("ended")
    return Traced(
        step=int(number) if number.isdigit() else 0,
        prompt=visible(str(row.get("prompt") or "")),
        score=finite(row.get("score")),
        gold=finite(row.get("gold")),
        weight=finite(row.get("weight")),
        ended=ended if isinstance(ended, bool) else None,
        columns=columns,
        tokens=tokens,
    )
