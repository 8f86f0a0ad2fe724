"""The engine in this process: the policy's own Hugging Face model, with rows that come and go.

Rows in flight stand in slots [0, n).  A finished row's slot is taken by the last one, so that a decode step works on
plain views, and new prompts are prefilled behind the others as soon as enough slots are free.  An encoder-decoder has
its own way (`rollout/encoder_decoder.py`).
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from handrail.batch import Rollout
from handrail.errors import ModelError, RunError
from handrail.rollout.cache import SlotCache
from handrail.rollout.encoder_decoder import Waves
from handrail.rollout.rows import End, Row, check_prompts, distinct, rollout_of
from handrail.rollout.sampling import draw, row_uniforms
from handrail.rollout.settings import Sampling

if TYPE_CHECKING:
    from handrail.models import LanguageModel

SLOTS = 128  # rows in flight, unless an engine is told otherwise
PREFILL_TOKENS = 8192  # at most so many prompt tokens, padding included, in one forward


class NativeEngine:
    """`Engine` over the live weights of a `LanguageModel`; nothing is copied, so nothing can be stale."""

    def __init__(self, codec: Any, end_ids: list[int], slots: int = SLOTS):
        """Args: codec, a Codec or a tokenizer (decodes for stop strings); end_ids, tokens that end a response;
        slots, the most rows in flight."""
        self.tokenizer: PreTrainedTokenizerBase = getattr(codec, "tokenizer", codec)
        self.end_ids, self.slots = frozenset(end_ids), slots
        self.policy: LanguageModel | None = None
        self._cache: SlotCache | None = None
        self._cache_key: tuple[object, ...] = ()

    def sync(self, policy: "LanguageModel") -> None:
        """Sample from `policy` from now on, as its weights are when `generate` is called."""
        if self.policy is not None and self.policy.hf is not policy.hf:
            self._cache = None  # another model has buffers of another shape
        self.policy = policy

    def generate(
        self,
        prompts: list[list[int]],
        seeds: list[int],
        sampling: Sampling,
        progress: Callable[[int], None] | None = None,
    ) -> Rollout:
        """One response to each prompt; see `Engine.generate`.

        Raises InputError for a prompt that is empty or leaves no room in the context, ModelError for a model whose
        attention this engine cannot drive, NonFiniteError when the policy's logits are not finite.
        """
        policy = self.policy
        if policy is None:
            raise RunError("generate was called on an engine that has no policy", "sync(policy) comes first")
        check_prompts(prompts, seeds, policy.context)
        rows = [Row(i, prompt, min(sampling.max_new_tokens, policy.context - len(prompt))) for i, prompt in enumerate(prompts)]
        end = End(self.end_ids, sampling.stop, self.tokenizer)
        if rows:
            with policy.activated(), _evaluating(policy.hf), torch.inference_mode(), _autocast(policy):
                if policy.causal.config.is_encoder_decoder:
                    Waves(policy, self.slots, sampling, end).run(rows, seeds, progress)
                else:
                    _Flight(Decoder(policy), self._room_for(rows), sampling, end).run(rows, seeds, progress)
        return rollout_of(rows)

    def _room_for(self, rows: list[Row]) -> SlotCache:
        """The cache of the last call if this one fits into it, else a new one."""
        assert self.policy is not None
        slots = min(self.slots, len(rows))
        length = -(-max(len(row.prompt) + row.room for row in rows) // 8) * 8
        kept_as = torch.bfloat16 if self.policy.autocast else None
        key = (self.policy.device, self.policy.causal.dtype, kept_as)
        cache = self._cache
        if cache is None or key != self._cache_key or cache.slots < slots or cache.length < length:
            self._cache = None  # the old buffers go before the new ones come
            self._cache, self._cache_key = SlotCache(slots, length, kept_as), key
        assert self._cache is not None
        return self._cache


class Decoder:
    """Forwards of one model over slots of a cache, with every mask and position explicit."""

    def __init__(self, policy: "LanguageModel"):
        self.model = cast(Any, policy.causal)
        self.device = policy.device
        config = self.model.config.get_text_config()
        if config._attn_implementation not in ("sdpa", "eager"):
            raise ModelError(
                f"the model's attention is '{config._attn_implementation}'",
                "sampling in this process works with 'sdpa' and 'eager'",
                "load the model with attn_implementation='sdpa'",
            )
        self.dtype: torch.dtype = self.model.get_input_embeddings().weight.dtype
        self.window: int | None = getattr(config, "sliding_window", None)
        self.kinds = frozenset(getattr(config, "layer_types", None) or ())
        if self.kinds - {"full_attention", "sliding_attention"}:
            raise ModelError(
                f"the model has layers of the kinds {', '.join(sorted(self.kinds))}",
                "sampling in this process knows full_attention and sliding_attention",
            )
        known = inspect.signature(self.model.forward).parameters
        if "position_ids" not in known:
            raise ModelError(f"{type(self.model).__name__} takes no position_ids", "a model whose forward takes position_ids")
        self.last_only = {"logits_to_keep": 1} if "logits_to_keep" in known else {}

    def logits(self, ids: Tensor, positions: Tensor, seen: Tensor, far: Tensor, cache: SlotCache) -> Tensor:
        """[B, V] at the last column, at least float32.

        Args: ids, positions [B, Q]; seen [B, 1, Q, K] bool, keys that a query may look at; far [B, 1, Q, K] int64,
        how many tokens back a key stands; cache, which knows where the new keys go.
        """
        out: Tensor = self.model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=self._masks(seen, far),
            past_key_values=cache,
            use_cache=True,
            **self.last_only,
        ).logits[:, -1]
        return out.to(torch.promote_types(out.dtype, torch.float32))

    def _masks(self, seen: Tensor, far: Tensor) -> Tensor | dict[str, Tensor]:
        """Additive masks; one for each kind of layer where a model mixes kinds."""
        if self.window is None or self.kinds == {"full_attention"}:
            return self._additive(seen)
        near = self._additive(seen & (far < self.window))
        return {"full_attention": self._additive(seen), "sliding_attention": near} if self.kinds else near

    def _additive(self, seen: Tensor) -> Tensor:
        return torch.zeros(seen.shape, dtype=self.dtype, device=seen.device).masked_fill_(~seen, -torch.inf)


class _Flight:
    """The rows of one call to `generate`, from the first prompt to the last response."""

    def __init__(
        self,
        decoder: Decoder,
        cache: SlotCache,
        sampling: Sampling,
        end: End,
    ):
        self.decoder, self.cache, self.sampling, self.end = decoder, cache, sampling, end
        self.flying: list[Row] = []
        device, slots = decoder.device, cache.slots
        self.columns = torch.arange(cache.length, device=device)
        self.slot = torch.arange(slots, device=device)
        # What a step needs of each slot: its newest token, where that stands, how many were sampled; and its draws.
        self.state = torch.zeros(3, slots, dtype=torch.int64, device=device)
        self.uniforms = torch.zeros(slots, sampling.max_new_tokens, device=device)

    def run(self, rows: list[Row], seeds: list[int], progress: Callable[[int], None] | None) -> None:
        """Fill every row's response."""
        # Similar lengths and equal prompts stand together; the widest forward comes first.
        waiting = sorted(rows, key=lambda row: (len(row.prompt), row.prompt))
        finished = 0
        while waiting or self.flying:
            free = self.cache.slots - len(self.flying)
            if waiting and (free == self.cache.slots or free * 8 >= self.cache.slots):
                self._prefill(self._next_prompts(waiting, free), seeds)
            else:
                self._step()
            done = self._retire()
            finished += done
            if done and progress is not None:
                progress(finished)

    def _next_prompts(self, waiting: list[Row], free: int) -> list[Row]:
        """Take up to `free` rows from the end of `waiting`, within the budget of a prefill."""
        width, different = len(waiting[-1].prompt), 0
        taken: list[Row] = []
        while waiting and len(taken) < free:
            different += not taken or waiting[-1].prompt != taken[-1].prompt
            if taken and different * width > PREFILL_TOKENS:
                break
            taken.append(waiting.pop())
        return taken

    def _prefill(self, rows: list[Row], seeds: list[int]) -> None:
        """Run the prompts of new rows, equal prompts once, and sample each row's first token."""
        prompts, prompt_of = distinct([row.prompt for row in rows])
        device, start, stop = self.decoder.device, len(self.flying), len(self.flying) + len(rows)
        width = len(prompts[0])
        ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts], device=device)
        column = self.columns[:width]
        first = torch.tensor([width - len(prompt) for prompt in prompts], device=device)[:, None]
        far = (column[:, None] - column)[None, None]
        # A padding position sees itself: a softmax over nothing would be NaN.
        seen = (far >= 0) & (column >= first)[:, None, None] | (far == 0)
        lengths = [len(row.prompt) for row in rows]
        self.cache.at_prompts(start, prompt_of, lengths, width, device)
        logits = self.decoder.logits(ids, (column - first).clamp(min=0), seen, far, self.cache)
        self.flying += rows
        self.state[1, start:stop] = torch.tensor(lengths, device=device) - 1
        self.state[2, start:stop] = 0
        count = self.sampling.max_new_tokens
        self.uniforms[start:stop] = torch.stack([row_uniforms(seeds[row.index], count) for row in rows]).to(device)
        self._sample(logits if len(prompts) == len(rows) else logits[prompt_of], start, stop)

    def _step(self) -> None:
        """One more token for every row in flight."""
        n = len(self.flying)
        tokens, positions = self.state[0, :n], self.state[1, :n]
        width = self._width()
        far = (positions[:, None] - self.columns[:width])[:, None, None]
        self.cache.at_step(self.slot[:n], positions, width)
        logits = self.decoder.logits(tokens[:, None], positions[:, None], far >= 0, far, self.cache)
        self._sample(logits, 0, n)

    def _sample(self, logits: Tensor, start: int, stop: int) -> None:
        """Draw the next token of slots [start, stop)."""
        state = self.state[:, start:stop]
        uniform = self.uniforms[start:stop].gather(1, state[2:].T)[:, 0]
        tokens, logp = draw(logits, uniform, self.sampling)
        state[0] = tokens
        state[1:] += 1
        for row, token, value in zip(self.flying[start:stop], tokens.tolist(), logp.tolist(), strict=True):
            row.add(token, value)

    def _retire(self) -> int:
        """Take finished rows out and close the gaps; returns how many."""
        stays = [not self.end.finishes(row) for row in self.flying]
        n, left = len(stays), sum(stays)
        if left == n:
            return 0
        holes = [i for i in range(left) if not stays[i]]
        movers = [i for i in range(left, n) if stays[i]]
        if holes:
            self.cache.move(movers, holes, self._width())
            self.state[:, holes] = self.state[:, movers]
            self.uniforms[holes] = self.uniforms[movers]
            for hole, mover in zip(holes, movers, strict=True):
                self.flying[hole] = self.flying[mover]
        del self.flying[left:]
        return n - left

    def _width(self) -> int:
        """Columns that hold the longest row in flight, rounded up to what attention kernels like."""
        return -(-max(row.length for row in self.flying) // 8) * 8


def _autocast(policy: "LanguageModel") -> torch.autocast:
    return torch.autocast(policy.device.type, torch.bfloat16, enabled=policy.autocast)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout off inside; every module's mode is as it was afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
