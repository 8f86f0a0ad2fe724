"""Train and test by prompt: the same prompt never stands on both sides."""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

from handrail.errors import ConfigError, DataError
from handrail.records import Demonstration, Prompt, Ranking, Rating, Response

R = TypeVar("R", Prompt, Demonstration, Response, Ranking, Rating)


def prompt_of(record: Prompt | Demonstration | Response | Ranking | Rating) -> Prompt:
    """The prompt of a record; a prompt is its own."""
    return record if isinstance(record, Prompt) else record.prompt


def split_by_prompt(records: Sequence[R], held_out: float | int, seed: int) -> tuple[list[R], list[R]]:
    """(train, test): all records of a prompt go to the same side.

    A whole number holds out so many distinct prompts, a fraction between 0 and 1 that share of them (at least one).
    Which ones follows from a hash of `seed` and the prompt's text alone, not from the order of the rows.
    """
    texts = {prompt_of(record).text for record in records}
    count = held_out if isinstance(held_out, int) else max(1, round(held_out * len(texts))) if held_out else 0
    if held_out < 0 or (isinstance(held_out, float) and not held_out < 1):
        raise ConfigError(f"held out: found {held_out}", "a fraction from 0 up to below 1, or a whole number of prompts from 0")
    if count and count >= len(texts):
        raise DataError(
            f"{count} prompts are to be held out, and the data has {len(texts)} distinct ones",
            "at least one prompt remains to train on",
            "hold out fewer, or give more data",
        )
    ranked = sorted(texts, key=lambda text: hashlib.sha256(f"{seed}\n{text}".encode("utf-8", "surrogatepass")).digest())
    held = set(ranked[:count])
    train = [record for record in records if prompt_of(record).text not in held]
    return train, [record for record in records if prompt_of(record).text in held]
