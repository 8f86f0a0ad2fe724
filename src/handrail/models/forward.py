"""One way through a model for every role: pack, run the trunk, read what is needed.

What a model can do is tried out once, when it is wrapped: whether packed sequences leave each other alone and give
what single ones give, and whether the head on the trunk's output is the whole model.
"""

import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from handrail.batch import Sequences
from handrail.errors import ModelError
from handrail.models.adapters import lora_layers
from handrail.models.packing import Pack, pack

# Tokens in one forward.  Few: each operation's own cost shows, on a CPU below 1,000; many: fresh memory for large buffers.
CPU_TOKENS, DEVICE_TOKENS = 2048, 16384
NARROWEST = 128  # a row holds at least two of the longest: attention is quadratic in it, and what is left at its end is lost


@dataclass(frozen=True, slots=True)
class Read:
    """What one forward gave at N places."""

    output: Tensor  # [N, H] the trunk's last hidden states (or the whole model's logits)
    rows: Tensor  # [N] int64, sequence
    columns: Tensor  # [N] int64, token of the sequence


class Forward:
    """Runs a module over sequences and reads its output at chosen tokens.  A packed row has at most `row_tokens`."""

    def __init__(self, module: nn.Module, config: Any, autocast: bool, row_tokens: int, adapter: str = ""):
        self.module, self.config, self.autocast, self.row_tokens = module, config, autocast, row_tokens
        self.adapter = adapter
        self.adapted = list(lora_layers(module).values()) if adapter else []
        self.device = next(module.parameters()).device
        self.context: int = getattr(config, "max_position_embeddings", None) or 2**31
        self.windows = _windows(config)
        self.recomputed = [m for m in module.modules() if getattr(m, RECOMPUTED, False)]
        self.packs = False
        self.packs = self._packs()

    def __call__(self, sequences: Sequences, first: Tensor, stop: Tensor) -> Iterator[Read]:
        """The output at tokens first .. stop - 1 of each sequence ([B] each), pack by pack.  Raises ModelError."""
        self._fits(sequences)
        sequences, first, stop = sequences.to(self.device), first.to(self.device), stop.to(self.device)
        width = min(self.row_tokens, max(NARROWEST, 2 * int(sequences.lengths.max()))) if len(sequences) else self.row_tokens
        at_once = max(1, (CPU_TOKENS if self.device.type == "cpu" else DEVICE_TOKENS) // width)
        for packed in pack(sequences, first, stop, width, at_once, alone=not self.packs):
            yield Read(self.run(packed).flatten(0, 1)[packed.at], packed.rows, packed.columns)

    def precision(self) -> AbstractContextManager:
        """Products in bfloat16, where that was asked for."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast)

    @contextmanager
    def activated(self) -> Iterator[None]:
        """With several adapters on one trunk: this role's at work, and afterwards the one that was before.

        PEFT's own `set_adapter` would also decide anew which weights have a gradient.
        """
        before = [layer._active_adapter for layer in self.adapted]
        for layer in self.adapted:
            layer._active_adapter = [self.adapter]
        try:
            yield
        finally:
            for layer, adapter in zip(self.adapted, before, strict=True):
                layer._active_adapter = adapter

    def run(self, packed: Pack) -> Tensor:
        """[R, W, H] the module's output on every token of a pack."""
        given: dict[str, Any] = {}
        if not packed.alone:
            given = {"attention_mask": self._mask(packed), "position_ids": packed.positions}
        elif len(packed.ids) > 1:
            given = {"attention_mask": (packed.segments >= 0).long()}
        with self.precision(), self.activated(), self._checkpointed():
            output = self.module(input_ids=packed.ids, use_cache=False, **given)
        return output.logits if "logits" in output else output.last_hidden_state

    def _mask(self, packed: Pack) -> Tensor | dict[str, Tensor]:
        masks = {kind: packed.mask(window) for kind, window in self.windows.items()}
        if self.config._attn_implementation == "eager":  # which adds its mask to the scores
            dtype = next(self.module.parameters()).dtype
            low = torch.finfo(dtype).min
            masks = {kind: torch.zeros(m.shape, dtype=dtype, device=m.device).masked_fill(~m, low) for kind, m in masks.items()}
        return masks if len(masks) > 1 else next(iter(masks.values()))

    @contextmanager
    def _checkpointed(self) -> Iterator[None]:
        layers = self.recomputed if torch.is_grad_enabled() else []

        def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
            return nullcontext(), self.activated()  # by then another role may have been at work

        for layer in layers:
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, context_fn=contexts)  # type: ignore[method-assign]
        try:
            yield
        finally:
            for layer in layers:
                del layer.forward

    def _fits(self, sequences: Sequences) -> None:
        longest = int(sequences.lengths.max()) if len(sequences) else 0
        if longest > self.context:
            raise ModelError(
                f"a sequence of {longest} tokens (row {int(sequences.lengths.argmax())} of a batch)",
                f"the model's context is {self.context} tokens",
                "shorten or leave out long prompts, or generate fewer new tokens",
            )

    @torch.no_grad()
    def _packs(self) -> bool:
        """Whether packing changes nothing: another neighbour no bit, and no neighbour nothing beyond rounding."""
        takes = inspect.signature(self.module.forward).parameters
        if "position_ids" not in takes or not self.windows or self.config._attn_implementation not in ("sdpa", "eager"):
            return False
        if self.context < PROBE or self.config.vocab_size < 3:
            return False
        was_training = self.module.training
        self.module.eval()
        try:
            one, other, changed = probe(self.config.vocab_size, self.device)
            together, moved = (self._probe(x, one, joined=True) for x in (other, changed))
            alone = self._probe(other, one, joined=False)
        finally:
            self.module.train(was_training)
        limit = 1e-4 if together.dtype == torch.float32 and not self.autocast else 0.1
        return torch.equal(together, moved) and close(together, alone, limit)

    def _probe(self, neighbour: Tensor, one: Tensor, joined: bool) -> Tensor:
        """The output on `one`, behind a neighbour in its row or in a row of its own."""
        parts = Sequences.of([(neighbour.tolist(), []), (one.tolist(), [])]).to(self.device)
        stop = parts.lengths * torch.tensor([0, 1], device=self.device)
        packs = list(pack(parts, torch.zeros_like(stop), stop, 2 * PROBE, 1, alone=not joined))
        return torch.cat([self.run(p).flatten(0, 1)[p.at] for p in packs])


RECOMPUTED = "handrail_recomputed"


def recompute_layers(module: nn.Module) -> None:
    """Gradient checkpointing: keep only the input of each layer and run it again in the backward pass.

    Transformers' own works in training mode only, and reinforcement learning trains with dropout off.
    """
    layers = [m for m in module.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise ModelError(f"{type(module).__name__}: its layers cannot be checkpointed", "", "set model.gradient_checkpointing to false")
    for layer in layers:
        setattr(layer, RECOMPUTED, True)


PROBE = 8  # tokens of the longer of the two sequences that packing is tried out with


def probe(vocabulary: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Three sequences of token numbers: a short one, a longer one, and the longer one with every token changed."""
    one = torch.arange(PROBE - 2, device=device) * 7 % vocabulary
    other = torch.arange(PROBE, device=device) * 5 % vocabulary
    return one, other, (other + 1) % vocabulary


def close(a: Tensor, b: Tensor, limit: float) -> bool:
    """Whether the largest difference is below `limit` times the largest entry."""
    return bool((a.float() - b.float()).abs().max() <= limit * b.float().abs().max())


def _windows(config: Any) -> dict[str, int]:
    """Attention window of each kind of layer, 0: none; empty where a kind is not known, so that packing is not tried."""
    window = getattr(config, "sliding_window", None) or 0
    kinds = set(getattr(config, "layer_types", None) or ["sliding_attention" if window else "full_attention"])
    known = {"full_attention": 0, "sliding_attention": window}
    return {kind: known[kind] for kind in sorted(kinds)} if kinds <= known.keys() else {}
