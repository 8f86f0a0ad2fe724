"""Sampling from an encoder-decoder: waves of rows that take each token together.

The prompts are in the encoder, so all rows of a wave stand at the same token of their responses: nothing is padded but
prompts, and the distances that T5's attention knows are the same for all.  Each different prompt is encoded once, and what
the decoder looks up in it is made once, in the first step; then the rows that answer it get their copies.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from handrail.rollout.rows import End, Row, distinct
from handrail.rollout.sampling import draw, row_uniforms
from handrail.rollout.settings import Sampling

if TYPE_CHECKING:
    from handrail.models import LanguageModel

ENCODE_TOKENS = 8192  # at most so many prompt tokens, padding included, in one forward of the encoder


class Waves:
    """The rows of one call to `generate`, at most `slots` at a time."""

    def __init__(self, policy: "LanguageModel", slots: int, sampling: Sampling, end: End):
        self.model, self.device = cast(Any, policy.causal), policy.device
        self.slots, self.sampling, self.end = slots, sampling, end

    def run(self, rows: list[Row], seeds: list[int], progress: Callable[[int], None] | None) -> None:
        """Fill every row's response."""
        # Similar lengths and equal prompts stand together; the widest wave comes first.
        waiting = sorted(rows, key=lambda row: (len(row.prompt), row.prompt), reverse=True)
        finished = 0
        for begin in range(0, len(waiting), self.slots):
            for done in self._wave(waiting[begin : begin + self.slots], seeds):
                finished += done
                if done and progress is not None:
                    progress(finished)

    def _wave(self, rows: list[Row], seeds: list[int]) -> Iterator[int]:
        """Fill the responses of some rows; after each token, how many of them it finished."""
        count = self.sampling.max_new_tokens
        uniforms = torch.stack([row_uniforms(seeds[row.index], count) for row in rows]).to(self.device)
        prompts, prompt_of = distinct([row.prompt for row in rows])
        decoder = Decoder(self.model, *self._encode(prompts))
        logits = decoder.step(torch.full((len(prompts),), self.model.config.decoder_start_token_id, device=self.device))
        logits = logits[prompt_of]
        decoder.keep(prompt_of)
        newest = torch.zeros(len(rows), dtype=torch.int64, device=self.device)
        live = list(range(len(rows)))
        for place in range(count):
            newest[live], logp = draw(logits[live], uniforms[live, place], self.sampling)
            for i, token, value in zip(live, newest[live].tolist(), logp.tolist(), strict=True):
                rows[i].add(token, value)
            left = [i for i in live if not self.end.finishes(rows[i])]
            yield len(live) - len(left)
            if not left:
                return
            if 4 * len(left) <= 3 * len(rows):  # copying what is kept costs more than a few rows that nobody reads
                decoder.keep(left)
                rows, uniforms, newest, left = [rows[i] for i in left], uniforms[left], newest[left], list(range(len(left)))
            live = left
            logits = decoder.step(newest)

    def _encode(self, prompts: list[list[int]]) -> tuple[Tensor, Tensor]:
        """[P, S, H] encoder states of prompts that come longest first, and [P, S] 1 where a token stands."""
        width = len(prompts[0])
        states, seen = [], []
        while prompts:
            widest = len(prompts[0])
            some = prompts[: max(1, ENCODE_TOKENS // widest)]
            prompts = prompts[len(some) :]
            ids = torch.tensor([prompt + [0] * (widest - len(prompt)) for prompt in some], device=self.device)
            mask = torch.tensor([[1] * len(prompt) + [0] * (widest - len(prompt)) for prompt in some], device=self.device)
            hidden = self.model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
            states.append(pad(hidden, (0, 0, 0, width - widest)))
            seen.append(pad(mask, (0, width - widest)))
        return torch.cat(states), torch.cat(seen)


class Decoder:
    """The decoder's steps over n rows, and the keys and values that they leave behind."""

    def __init__(self, model: Any, states: Tensor, seen: Tensor):
        self.model, self.states, self.seen = model, states, seen
        self.cache = EncoderDecoderCache(DynamicCache(), DynamicCache())

    def step(self, tokens: Tensor) -> Tensor:
        """[n, V] logits after one more token of each row, at least float32."""
        return self.read(tokens[:, None])

    def read(self, tokens: Tensor) -> Tensor:
        """[n, V] logits after several more tokens of each row, [n, Q]."""
        out: Tensor = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=self.states),
            attention_mask=self.seen,
            decoder_input_ids=tokens,
            past_key_values=self.cache,
            use_cache=True,
        ).logits[:, -1]
        return out.to(torch.promote_types(out.dtype, torch.float32))

    def keep(self, rows: list[int]) -> None:
        """Go on with these rows, which may repeat."""
        index = torch.tensor(rows, device=self.seen.device)
        self.states, self.seen = self.states[index], self.seen[index]
        self.cache.batch_select_indices(index)
