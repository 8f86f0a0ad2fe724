"""What a reward model pays for, from its verdicts on the rankings that it was tested on."""

import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from handrail.errors import DataError
from handrail.feedback.quality.figures import wilson
from handrail.inspector.charts import Share

FILE = "verdicts.jsonl"
WORD = re.compile(r"\w+", re.UNICODE)
MISTAKES = 12
PARTS = 4  # of the margins
ALIKE = 0.1  # lengths that differ by less are alike, as a share of the longer
LEAST = 8  # responses with a word, and without it, before its price is told
WORDS = 8  # that are told, of those paid for and of those that cost


@dataclass(frozen=True)
class Pair:
    """Two responses that people put in an order, and what the model says."""

    prompt: str
    better: str
    worse: str
    gap: float  # score of the better less that of the worse
    sure: float  # how likely the model holds its own order to be
    labeller: str

    @property
    def right(self) -> float:
        return 0.5 if self.gap == 0 else float(self.gap > 0)


def read_verdicts(folder: Path) -> list[dict[str, Any]]:
    """The verdicts of a reward model's run, none where it left none.  Raises DataError."""
    path = folder / FILE
    if not path.is_file():
        return []
    try:
        found = [json.loads(line) for line in path.read_bytes().split(b"\n") if line.strip()]  # a text may hold other line ends
    except ValueError as error:
        raise DataError(f"{path}: not JSON lines: {error}", "what the reward stage writes") from error
    if not all(isinstance(one, dict) and one.keys() >= {"prompt", "responses", "places", "scores"} for one in found):
        raise DataError(f"{path}: lines that are no verdicts", "what the reward stage writes")
    return found


def pairs(verdicts: list[dict[str, Any]]) -> list[Pair]:
    """Every pair that people did not tie."""
    found = []
    for one in verdicts:
        texts, places, scores = one["responses"], one["places"], one["scores"]
        for i in range(len(texts)):
            for j in range(len(texts)):
                if places[i] < places[j]:
                    gap = scores[i] - scores[j]
                    sure = 1 / (1 + math.exp(-min(700.0, abs(gap) * one.get("unit", 1.0))))
                    found.append(Pair(one["prompt"], texts[i], texts[j], gap, sure, one.get("labeller", "")))
    return found


def share(name: str, chosen: list[Pair]) -> Share | None:
    """How many of these the model puts in the people's order, with Wilson's interval: pairs of one prompt hang together, so that it
    is somewhat narrow."""
    if not chosen:
        return None
    found = wilson(sum(pair.right for pair in chosen), len(chosen))
    return Share(f"{name}, {len(chosen)}", found.value or 0.0, found.low, found.high, "after")


def by_length(found: list[Pair]) -> list[Share]:
    """The accuracy where people preferred the shorter, one about as long, or the longer response."""
    named: dict[str, list[Pair]] = {"shorter preferred": [], "about as long": [], "longer preferred": []}
    names = list(named)
    for pair in found:
        a, b = len(pair.better), len(pair.worse)
        alike = abs(a - b) <= ALIKE * max(a, b, 1)
        named[names[1] if alike else names[2] if a > b else names[0]].append(pair)
    return [one for name, chosen in named.items() if (one := share(name, chosen))]


def by_margin(found: list[Pair]) -> list[Share]:
    """The accuracy from the least sure quarter of the pairs to the surest."""
    ordered = sorted(found, key=lambda pair: abs(pair.gap))
    cuts = [len(ordered) * i // PARTS for i in range(PARTS + 1)]
    quarters = [ordered[a:b] for a, b in pairwise(cuts)]
    spans = [f"margin {abs(q[0].gap):.2f} to {abs(q[-1].gap):.2f}" if q else "" for q in quarters]
    return [one for span, quarter in zip(spans, quarters, strict=True) if (one := share(span, quarter))]


def mistakes(found: list[Pair]) -> list[Pair]:
    """Where it is surest and people say the opposite."""
    return sorted((pair for pair in found if pair.gap < 0), key=lambda pair: pair.gap)[:MISTAKES]


def traits(text: str) -> dict[str, float]:
    """What can be counted in a response without understanding it."""
    words = [word.lower() for word in WORD.findall(text)]
    return {
        "length, in words": float(len(words)),
        "share of words said before": 1 - len(set(words)) / len(words) if words else 0.0,
        "exclamation marks": float(text.count("!")),
        "question marks": float(text.count("?")),
        "digits": float(sum(c.isdigit() for c in text)),
        "lines": float(text.count("\n")),
    }


def centred(verdicts: list[dict[str, Any]]) -> list[tuple[str, float, dict[str, float], float]]:
    """(response, score, traits, people's place) of each response, less the mean over its prompt's: what the prompt itself is worth
    falls out."""
    found = []
    for one in verdicts:
        rows = [traits(text) for text in one["responses"]]
        middle = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
        scores, places = np.array(one["scores"]), -np.array(one["places"], float)
        for text, score, row, place in zip(one["responses"], scores - scores.mean(), rows, places - places.mean(), strict=True):
            found.append((text, float(score), {name: row[name] - middle[name] for name in row}, float(place)))
    return found


def correlations(verdicts: list[dict[str, Any]]) -> list[tuple[str, float, float]]:
    """(trait, its correlation with the score, that with people's order) within prompts; traits that do not vary are left out."""
    rows = centred(verdicts)
    found = []
    for name in rows[0][2] if rows else ():
        values = np.array([row[2][name] for row in rows])
        if len(rows) > 2 and values.std() > 1e-9:
            with_score, with_people = (correlation(values, np.array([row[i] for row in rows])) for i in (1, 3))
            found.append((name, with_score, with_people))
    return sorted(found, key=lambda one: -abs(one[1]))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).mean() / (a.std() * b.std())) if a.std() > 1e-9 and b.std() > 1e-9 else 0.0


def words(verdicts: list[dict[str, Any]]) -> list[tuple[str, int, float, float]]:
    """(word, responses with it, score with less without it, 95 % half-width) within prompts: the dearest, then those that cost most.

    A word's price is also that of what comes with it.
    """
    rows = centred(verdicts)
    scores = np.array([row[1] for row in rows])
    held = [set(WORD.findall(row[0].lower())) for row in rows]
    counts = Counter(word for one in held for word in one)
    found = []
    for word, count in counts.items():
        if LEAST <= count <= len(rows) - LEAST:
            has = np.array([word in one for one in held])
            with_it, without = scores[has], scores[~has]
            half = 1.96 * math.sqrt(with_it.var(ddof=1) / len(with_it) + without.var(ddof=1) / len(without))
            found.append((word, count, float(with_it.mean() - without.mean()), half))
    sure = sorted((one for one in found if abs(one[2]) > one[3]), key=lambda one: -one[2])
    return [*[one for one in sure if one[2] > 0][:WORDS], *[one for one in sure if one[2] < 0][-WORDS:]]
