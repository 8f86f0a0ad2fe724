"""Labels for the tests of quality: made by hand, or by simulated labellers from a hidden truth of real texts."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from handrail.feedback.kinds import Compared, Label, Ranked, Rated
from handrail.records import Prompt
from handrail.tasks import Labeller

ROOT = Path(os.environ.get("HANDRAIL_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
QUESTION = Prompt.of("?")


def label(item: object, labeller: str, answer: object, **more: object) -> Label:
    """A label with what the tests do not ask about filled in."""
    shown = 2 if isinstance(answer, Compared) else len(answer.places if isinstance(answer, Ranked) else answer.ratings)
    told = {"prompt": QUESTION, "responses": tuple("abcdefghi"[:shown]), "order": tuple(range(shown)), "at": 0.0, "seconds": 0.0}
    return Label.model_validate(
        {"id": "", "project": "project-1", "task": "task-1", "item": str(item), "labeller": labeller, "answer": answer, **told, **more}
    )


def compared(verdict: int) -> Compared:
    """1: the first is better; -1: the second; 0: a tie."""
    return Compared(better={1: 0, -1: 1, 0: None}[verdict])


def rated(*ratings: float) -> Rated:
    return Rated(ratings=tuple({"overall": rating} for rating in ratings))


def crew(rng: np.random.Generator, n: int = 20) -> list[Labeller]:
    """Labellers who differ: sharp and dull, careful and careless, some with a liking for what stands first."""
    return [
        Labeller(
            temperature=float(np.exp(rng.uniform(np.log(0.15), np.log(1.5)))),
            reliability=0.0 if number == 5 else float(rng.uniform(0.6, 1)),
            position_bias=float(rng.choice([0, 0, 0, 0.5, 1])),
            tie_width=float(rng.uniform(0, 0.15)),
            id=f"labeller-{number}",
        )
        for number in range(n)
    ]


def ranked(labeller: Labeller, item: object, utility: Sequence[float], rng: np.random.Generator, backwards: bool = False) -> Label:
    """What a simulated labeller says of responses with these utilities, with the order in which they were shown."""
    texts = tuple("abcdefghi"[: len(utility)])
    worth = dict(zip(texts, (-u if backwards else u for u in utility), strict=True))
    seed = int(rng.integers(2**31))
    peek = np.random.default_rng(seed)  # the labeller's own draws: whether it looks, then the order
    peek.random()
    order = tuple(peek.permutation(len(texts)).tolist())
    said = labeller.rank(QUESTION, texts, lambda _, text: worth[text], np.random.default_rng(seed))
    answer = Compared(better=None if said.places == (1, 1) else said.places.index(1)) if len(texts) == 2 else Ranked(places=said.places)
    return label(item, labeller.id, answer, order=order)


def features(question: str, text: str) -> list[float]:
    """Length, variety, echo of the question, line breaks, length of words."""
    said, asked = text.split(), set(question.lower().split())
    n = max(1, len(said))
    echo, long = sum(word.lower() in asked for word in said) / n, float(np.mean([len(word) for word in said])) if said else 0.0
    return [float(np.log1p(len(said))), len(set(said)) / n, echo, text.count("\n") / n, float(np.log1p(long))]


def candidates() -> list[np.ndarray]:
    """[K, 5] standardised features of each prompt's different answers by eight models, where there are three or more."""
    path = ROOT / "self_instruct" / "candidates.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not here; set HANDRAIL_TEST_DATA to the folder with the data")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    found = [
        np.array([features(row["instruction"] + row["input"], text) for text in dict.fromkeys(row["responses"].values())]) for row in rows
    ]
    every = np.concatenate(found)
    return [(each - every.mean(0)) / every.std(0) for each in found if len(each) > 2]
