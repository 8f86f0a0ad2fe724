"""Which tokens a reward model's scores come from, as its run has left it: pairs side by side, and words over all of them."""

import json
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from handrail.errors import DataError
from handrail.inspector.folders import finite
from handrail.inspector.replies import visible
from handrail.inspector.slide import shortened
from handrail.inspector.svg import tag
from handrail.inspector.words import decimal

FILE = "attributions.jsonl"
WHY = {"mistake": "Surest, and people say the opposite", "right": "Surest, and people agree", "drawn": "Drawn by chance"}
LEVELS = 10  # of a colour
MOST = 250  # tokens of a response that are shown
PROMPT = 1200  # characters of a prompt
WORDS = 10  # that gained most, and that lost most
WORD = re.compile(r"\w+|[^\w\s]", re.UNICODE)


@dataclass(frozen=True)
class Response:
    """A response token by token: what each adds to the score; None where a token only frames it."""

    tokens: list[str]
    added: list[float | None]
    score: float
    baseline: float

    @property
    def cells(self) -> list[tuple[str, float | None]]:
        """Each token with what it adds."""
        return list(zip(self.tokens, self.added, strict=True))

    @property
    def total(self) -> float:
        """What all tokens add."""
        return sum(x or 0.0 for x in self.added)

    @property
    def error(self) -> float:
        """By how much the score is missed: of the numbers of the integral, not of the model."""
        return self.total - (self.score - self.baseline)

    @property
    def largest(self) -> float:
        """What the token that counts most adds, without its sign."""
        return max((abs(x) for x in self.added if x is not None), default=0.0)


@dataclass(frozen=True)
class Pair:
    """Two responses that people put in an order."""

    why: str
    prompt: str
    criterion: str
    better: Response
    worse: Response


@dataclass(frozen=True)
class Word:
    """What a word has added in all places together."""

    word: str
    count: int
    total: float


def read_attributions(folder: Path) -> list[Pair]:
    """The pairs of a reward model's run, none where it left none.  Raises DataError."""
    path = folder / FILE
    if not path.is_file():
        return []
    try:
        return [_pair(json.loads(line)) for line in path.read_bytes().split(b"\n") if line.strip()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: lines that are no attributions: {error}", "what the reward stage writes") from error


def _pair(line: dict[str, Any]) -> Pair:
    return Pair(
        str(line["why"]), str(line["prompt"]), str(line.get("criterion") or ""), _response(line["better"]), _response(line["worse"])
    )


def _response(found: dict[str, Any]) -> Response:
    tokens, added = [str(token) for token in found["tokens"]], [finite(x) for x in found["attributions"]]
    if len(tokens) != len(added):
        raise ValueError(f"{len(tokens)} tokens with {len(added)} numbers")
    return Response(tokens, added, float(found["score"]), float(found["baseline"]))


def few(pairs: list[Pair], count: int) -> list[Pair]:
    """So many of them, of each kind the first in turn."""
    by_kind = [[pair for pair in pairs if pair.why == why] for why in WHY]
    turns = [kind[i] for i in range(len(pairs)) for kind in by_kind if i < len(kind)]
    return sorted(turns[:count], key=lambda pair: list(WHY).index(pair.why))


def words(pairs: list[Pair]) -> tuple[list[Word], list[Word]]:
    """The words and marks that gained most over all responses of these pairs, and those that lost most.

    Each response counts once by each criterion.
    """
    found: dict[str, list[float]] = defaultdict(list)
    responses = {(pair.criterion, pair.prompt, tuple(one.tokens)): one for pair in pairs for one in (pair.better, pair.worse)}
    for one in responses.values():
        for word, added in by_word(one):
            found[word.lower()].append(added)
    ranked = sorted((Word(word, len(every), sum(every)) for word, every in found.items()), key=lambda one: -one.total)
    return [one for one in ranked if one.total > 0][:WORDS], [one for one in reversed(ranked) if one.total < 0][:WORDS]


def by_word(response: Response) -> list[tuple[str, float]]:
    """Each word of a response with what its tokens add; a token over two words is shared by its letters."""
    share, waiting = list[float](), 0.0  # of each character that is no space
    for token, added in response.cells:
        waiting += added or 0.0
        size = sum(not c.isspace() for c in token)
        share += [waiting / size if size and not c.isspace() else 0.0 for c in token]
        waiting = 0.0 if size else waiting  # of a token without a letter of its own, such as half of one
    text, own = "".join(response.tokens), [added is not None for token, added in response.cells for _ in token]
    return [(found[0], sum(share[found.start() : found.end()])) for found in WORD.finditer(text) if own[found.start()]]


def signed(x: float) -> str:
    """The number with its sign."""
    return f"{'+' if x > 0 else ''}{decimal(x, 3)}"


def drawn(pair: Pair) -> Markup:
    """Both responses side by side, a cell a token, and the sums."""
    most = max(pair.better.largest, pair.worse.largest)
    said = WHY.get(pair.why, visible(pair.why)) + (f"; by {visible(pair.criterion)}" if pair.criterion else "")
    scale = f" −{decimal(most, 3)} to +{decimal(most, 3)}"
    return tag(
        "article",
        {"class": "attributed"},
        tag("p", {"class": "small soft"}, f"{said}. {margin(pair)}"),
        tag("div", {"class": "text small soft", "dir": "auto"}, shortened(pair.prompt, PROMPT)),
        tag("div", {"class": "pair"}, _column("People preferred", pair.better, most), _column("Over", pair.worse, most)),
        tag("p", {"class": "scale small soft"}, tag("span", {"class": "ramp signed"}), scale),
    )


def margin(pair: Pair) -> str:
    """By how much the model prefers what people preferred, and how much of it stands in the baselines."""
    whole, baselines, tokens = (
        after - before
        for after, before in (
            (pair.better.score, pair.worse.score),
            (pair.better.baseline, pair.worse.baseline),
            (pair.better.total, pair.worse.total),
        )
    )
    lengths = "" if len(pair.better.tokens) == len(pair.worse.tokens) else ", which differ in length"
    missed = f", missed by {decimal(abs(whole - baselines - tokens), 3)}"
    return f"Margin {signed(whole)} = {signed(baselines)} between the baselines{lengths}, {signed(tokens)} between the tokens{missed}."


def _column(title: str, response: Response, most: float) -> Markup:
    cells = response.cells[:MOST]
    left = len(response.tokens) - len(cells)
    return tag(
        "div",
        {"class": "card"},
        tag("h3", {"class": "small"}, title),
        tag("div", {"class": "tokens", "dir": "auto"}, *(_cell(token, added, most) for token, added in cells)),
        tag("p", {"class": "small soft"}, f"… and {left} tokens more") if left else Markup(""),
        tag("p", {"class": "small sums"}, *sums(response)),
        tag("details", {}, tag("summary", {}, "its numbers"), _table(cells)),
    )


def _table(cells: list[tuple[str, float | None]]) -> Markup:
    head = tag("tr", {}, tag("th", {}, "token"), tag("th", {"class": "number n"}, "adds"))
    rows = [tag("tr", {}, tag("td", {}, tag("code", {}, shown(token))), tag("td", {"class": "number n"}, told(x))) for token, x in cells]
    made = tag("table", {"class": "compact numbers traced"}, tag("thead", {}, head), tag("tbody", {}, *rows))
    return tag("div", {"class": "scroll", "tabindex": 0, "role": "region", "aria-label": "What each token adds"}, made)


def sums(response: Response) -> list[Markup]:
    """score = baseline + tokens, and what is missed."""
    error = f", missed by {decimal(abs(response.error), 3)}"
    return [
        tag("b", {}, f"score {signed(response.score)}"),
        Markup("{}").format(f" = baseline {signed(response.baseline)}, tokens {signed(response.total)}{error}"),
    ]


def _cell(token: str, added: float | None, most: float) -> Markup:
    if added is None:
        return tag("span", {"class": "tok frame", "title": "frames the response and stays as it is"}, shown(token))
    level = round(LEVELS * abs(added) / most) if most else 0
    return tag("span", {"class": f"tok {'up' if added >= 0 else 'down'} s{level}", "title": signed(added)}, shown(token))


def shown(token: str) -> str:
    """A token as a cell shows it: one that cannot be seen as a sign."""
    text = visible(token)
    if not text.strip():
        return text.replace("\n", "↵").replace(" ", "␣").replace("\t", "→") or "·"
    return text.replace("\n", "↵")


def told(added: float | None) -> str:
    return "–" if added is None else signed(added)
