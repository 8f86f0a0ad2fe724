"""Responses on their way: what was sampled so far, where one ends, and the record of all."""

import math
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedTokenizerBase

from handrail.batch import Rollout
from handrail.errors import InputError, NonFiniteError


@dataclass(slots=True)
class Row:
    """A response on its way."""

    index: int  # its place in the call
    prompt: list[int]
    room: int  # tokens it may have
    response: list[int] = field(default_factory=list)
    logp: list[float] = field(default_factory=list)
    ended: bool = False

    @property
    def length(self) -> int:
        """Tokens of the prompt and of the response so far."""
        return len(self.prompt) + len(self.response)

    def add(self, token: int, logp: float) -> None:
        """One more token.  Raises NonFiniteError where its log-probability is none."""
        if not math.isfinite(logp):
            raise NonFiniteError(
                f"the policy's logits are not finite at token {len(self.response)} of response {self.index}",
                "finite numbers",
                "the policy has diverged: go back to an earlier checkpoint with a lower learning rate",
            )
        self.response.append(token)
        self.logp.append(logp)


class End:
    """Where a response ends: at one of `end_ids`, at the token that completes a stop string, or where its room does."""

    def __init__(self, end_ids: frozenset[int], stop: list[str], tokenizer: PreTrainedTokenizerBase):
        self.end_ids, self.stop, self.tokenizer = end_ids, stop, tokenizer
        # Tokens that are sure to cover the longest stop string: each but specials adds a byte, and one may lose its space.
        self.tail = max((len(text.encode()) for text in stop), default=0) + 4

    def finishes(self, row: Row) -> bool:
        """Whether a row's newest token was its last; marks it as ended if it ended by itself."""
        row.ended = row.response[-1] in self.end_ids or (bool(self.stop) and self._stopped(row))
        return row.ended or len(row.response) == row.room

    def _stopped(self, row: Row) -> bool:
        tail = self.tokenizer.decode(row.response[-self.tail :], skip_special_tokens=False)
        return any(text in tail for text in self.stop)


def check_prompts(prompts: list[list[int]], seeds: list[int], context: int) -> None:
    """Raises InputError for a prompt that is empty or leaves no room in the context, or where seeds are missing."""
    if len(prompts) != len(seeds):
        raise InputError(f"{len(prompts)} prompts and {len(seeds)} seeds", "one seed a prompt")
    for index, prompt in enumerate(prompts):
        if not 0 < len(prompt) < context:
            raise InputError(
                f"prompt {index} has {len(prompt)} tokens",
                f"1 to {context - 1}, so that a response has room in a context of {context}",
                "shorten or drop this prompt",
            )


def distinct(prompts: list[list[int]]) -> tuple[list[list[int]], list[int]]:
    """The prompts without repetitions, and which of them each was; equal ones come one behind another."""
    found: list[list[int]] = []
    which = []
    for prompt in prompts:
        if not found or found[-1] != prompt:
            found.append(prompt)
        which.append(len(found) - 1)
    return found, which


def rollout_of(rows: list[Row]) -> Rollout:
    """The rows as tensors on the CPU."""
    ids = torch.zeros(len(rows), max((row.length for row in rows), default=0), dtype=torch.int64)
    logp = torch.zeros(len(rows), max((len(row.response) for row in rows), default=0))
    for i, row in enumerate(rows):
        ids[i, : row.length] = torch.tensor(row.prompt + row.response)
        logp[i, : len(row.logp)] = torch.tensor(row.logp)
    return Rollout(
        ids,
        torch.tensor([len(row.prompt) for row in rows], dtype=torch.int64),
        torch.tensor([row.length for row in rows], dtype=torch.int64),
        torch.tensor([row.ended for row in rows], dtype=torch.bool),
        logp,
    )
