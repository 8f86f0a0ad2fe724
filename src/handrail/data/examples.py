"""Records as tokens, ready for a model.  Nothing is ever cut to fit: what is longer than the context is left out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from handrail.batch import RankingBatch, Sequences
from handrail.data.codec import Codec
from handrail.data.split import prompt_of
from handrail.errors import DataError
from handrail.records import Demonstration, Prompt, Ranking, Rating, Response

_ENDLESS = 1_000_000  # characters

R = TypeVar("R", Prompt, Demonstration, Response, Ranking, Rating)


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and the response to learn, as tokens.  The loss is taken on `response_ids`, its end token included."""

    prompt_ids: list[int]
    response_ids: list[int]

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.response_ids)


def demonstration_example(codec: Codec, demonstration: Demonstration, context: int) -> Example:
    """The tokens of a demonstration.  Raises DataError if they are more than `context`; see `within_context`."""
    example = Example(codec.encode_prompt(demonstration.prompt), codec.encode_response(demonstration.response, end=True))
    if len(example) > context:
        raise _too_long(demonstration.prompt, len(example), context)
    return example


def ranking_batch(codec: Codec, rankings: Sequence[Ranking], context: int) -> RankingBatch:
    """N rankings as one batch, each response with its prompt and its end token.

    Raises DataError if a sequence has more than `context` tokens; see `within_context`.
    """
    pairs: list[tuple[list[int], list[int]]] = []
    width = max((len(ranking.responses) for ranking in rankings), default=0)
    index = torch.zeros(len(rankings), width, dtype=torch.int64)
    places = torch.ones(len(rankings), width, dtype=torch.int64)
    ratings = torch.zeros(len(rankings), width)
    mask = torch.zeros(len(rankings), width, dtype=torch.bool)
    for row, ranking in enumerate(rankings):
        prompt_ids, count = codec.encode_prompt(ranking.prompt), len(ranking.responses)
        index[row, :count] = torch.arange(len(pairs), len(pairs) + count)
        places[row, :count] = torch.tensor(ranking.places)
        ratings[row, :count] = torch.tensor(ranking.scores or [0.0] * count)
        mask[row, :count] = True
        pairs += [(prompt_ids, codec.encode_response(text, end=True)) for text in ranking.responses]
        longest = max(len(prompt) + len(response) for prompt, response in pairs[-count:])
        if longest > context:
            raise _too_long(ranking.prompt, longest, context)
    margin = torch.tensor([ranking.margin for ranking in rankings], dtype=torch.float32)
    weight = torch.tensor([ranking.weight for ranking in rankings], dtype=torch.float32)
    return RankingBatch(Sequences.of(pairs), index, mask, places, ratings, margin, weight)


def within_context(codec: Codec, records: Sequence[R], context: int) -> tuple[list[R], dict[str, int]]:
    """The records whose tokens fit into `context`, and the count of the others by reason.

    For prompts, give the context less the new tokens that are to follow.  Raises DataError when none remains.
    """
    kept = [record for record in records if _fits(codec, record, context)]
    left_out = len(records) - len(kept)
    if left_out and not kept:
        raise DataError(
            f"all {left_out} records are longer than the context",
            f"at most {context} tokens in a prompt and its response",
            "use shorter records, or a model with a longer context",
        )
    return kept, {f"longer than {context} tokens": left_out} if left_out else {}


def _fits(codec: Codec, record: Prompt | Demonstration | Response | Ranking | Rating, context: int) -> bool:
    prompt, responses = prompt_of(record), _responses(record)
    characters = sum(len(m.content) for m in prompt.messages) + max(map(len, responses), default=0)
    if characters > max(_ENDLESS, context * codec.longest_token):  # far too long: not worth the tokenizer's time
        return False
    longest = max((len(codec.encode_response(text, end=True)) for text in responses), default=0)
    return len(codec.encode_prompt(prompt)) + longest <= context


def _responses(record: Prompt | Demonstration | Response | Ranking | Rating) -> tuple[str, ...]:
    match record:
        case Demonstration() | Rating():
            return (record.response,)
        case Response():
            return (record.text,)
        case Ranking():
            return record.responses
    return ()


def _too_long(prompt: Prompt, found: int, context: int) -> DataError:
    start = prompt.messages[-1].content[:60]
    return DataError(
        f"prompt {prompt.id} ({start!r}) and its response have {found} tokens",
        f"at most {context}, the context of the model",
        "leave it out with `within_context`, or use a model with a longer context",
    )
