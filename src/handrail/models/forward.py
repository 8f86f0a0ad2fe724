"""One way through a model for every role: put sequences together, run the trunk, read what is needed.

Whether a model leaves sequences that stand in one row alone, and gives what single ones give, is tried out when it is
wrapped; where not, each has a row of its own.
"""

import inspect
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from handrail.batch import Sequences
from handrail.errors import ModelError
from handrail.models.adapters import lora_layers
from handrail.models.attention import take_layouts
from handrail.models.grouping import Group, families, groups, joined, padded

# Tokens in one forward.  Few: each operation's own cost shows, on a CPU below 1,000; many: fresh memory for large buffers.
CPU_TOKENS, DEVICE_TOKENS = 1280, 16384


@dataclass(frozen=True, slots=True)
class Read:
    """What one forward gave at N places."""

    output: Tensor  # [N, H] the trunk's last hidden states (or the whole model's logits)
    rows: Tensor  # [N] int64, sequence
    columns: Tensor  # [N] int64, token of the sequence


def context_of(config: Any) -> int:
    """How many tokens a model of this config takes; one with relative positions has no bound."""
    return getattr(config, "max_position_embeddings", None) or 2**31


class Forward:
    """Runs a module over sequences and reads its output at chosen tokens.

    Args:
        module: takes `input_ids` and gives hidden states or logits; a token's output depends on no later token.
        config: of the model that the module is part of.
        autocast: products in bfloat16.
        compiled: fuse its operations with `torch.compile`, at the first forward of each kind.
        adapter: of several on one trunk, this role's.
    """

    def __init__(self, module: nn.Module, config: Any, autocast: bool = False, compiled: bool = False, adapter: str = ""):
        self.module, self.config, self.autocast, self.adapter = module, config, autocast, adapter
        self.adapted = list(lora_layers(module).values()) if adapter else []
        self.device = next(module.parameters()).device
        self.context = context_of(config)
        self.recomputed = [m for m in module.modules() if getattr(m, RECOMPUTED, False)]
        take_layouts()
        self.call: Callable[..., Any] = compile_for_all_shapes(module, self.device) if compiled else module
        self.joins = False
        self.joins = self._may_join() and (without_numbers(module) or self._joins())

    @property
    def tokens(self) -> int:
        """How many tokens one forward takes."""
        return CPU_TOKENS if self.device.type == "cpu" else DEVICE_TOKENS

    def __call__(self, sequences: Sequences, first: Tensor, stop: Tensor) -> Iterator[Read]:
        """The output at tokens first .. stop - 1 of each sequence ([B] each), group by group.  Raises ModelError."""
        self._fits(sequences)
        found = families(sequences, self.tokens) if self.shares else groups(sequences.lengths.cpu(), self.tokens)
        members = [m.to(self.device) for m in found]
        sequences, first, stop = sequences.to(self.device), first.to(self.device), stop.to(self.device)
        for some in members:
            yield self.read(sequences, some, first, stop)

    @property
    def shares(self) -> bool:
        """Whether a prompt is computed once for all its responses; off the CPU, sums of their gradients have no fixed order."""
        return self.joins and self.device.type == "cpu"

    def read(self, sequences: Sequences, members: Tensor, first: Tensor, stop: Tensor) -> Read:
        """One forward over some of the sequences, read at the tokens first .. stop - 1 of each ([B] of all)."""
        return self.through(self.place(sequences, members, first, stop))

    def place(self, sequences: Sequences, members: Tensor, first: Tensor, stop: Tensor) -> Any:
        """How these sequences stand in a forward: index arithmetic, which asks the model nothing."""
        where = (sequences, members, first, stop)
        return joined(*where, share=self.shares) if self.joins else padded(*where)

    def through(self, together: Any) -> Read:
        """One forward over what `place` returned."""
        flat = self.run(self.call, together).flatten(0, 1)
        # A prompt's last token is read once for each response; unlike [at], this sums their gradients in a fixed order.
        return Read(flat.index_select(0, together.at), together.rows, together.columns)

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

    def run(self, module: Callable[..., Any], together: Group) -> Tensor:
        """[R, W, H] what the module, or what was compiled of it, gives on every token of a group."""
        given: dict[str, Any] = {}
        if together.layout:  # the mask only keeps the model from making one of its own
            everything = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.device)
            kinds = set(getattr(self.config, "layer_types", None) or ())
            mask = {kind: everything for kind in sorted(kinds)} if len(kinds) > 1 else everything
            given = {"attention_mask": mask, "position_ids": together.positions, "layout": together.layout.tensors()}
        with self.precision(), self.activated(), self.checkpointed():
            output = module(input_ids=together.ids, use_cache=False, **given)
        return output.logits if "logits" in output else output.last_hidden_state

    @contextmanager
    def checkpointed(self) -> Iterator[None]:
        """Layers that were marked keep their input alone, where gradients are enabled."""
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

    def _may_join(self) -> bool:
        """Whether the model is of the kind that can be asked."""
        takes = inspect.signature(self.module.forward).parameters
        return "position_ids" in takes and self.config._attn_implementation == "sdpa" and min(self.context, self.config.vocab_size) >= PROBE

    @torch.no_grad()
    def _joins(self) -> bool:
        """Whether sequences in one row change nothing: another neighbour no bit, and no neighbour nothing beyond rounding."""
        one, other = torch.arange(PROBE - 2) * 7 % self.config.vocab_size, torch.arange(PROBE) * 5 % self.config.vocab_size
        was_training = self.module.training
        self.module.eval()
        try:
            with self._narrow():
                together, moved = (self._probe(x, one, joined) for x in (other, (other + 1) % self.config.vocab_size))
                alone = self._probe(other, one, padded)
        except (TypeError, ValueError, NotImplementedError):  # a model that takes no layout, in one way or another
            return False
        finally:
            self.module.train(was_training)
        limit = 1e-4 if together.dtype == torch.float32 and not self.autocast else 0.1
        return torch.equal(together, moved) and close(together, alone, limit)

    @contextmanager
    def _narrow(self) -> Iterator[None]:
        """Attention windows so small that the two sequences meet them: one that a mask alone makes is lost in a layout."""
        holders = [(self.config, "attention_chunk_size"), *((x, "sliding_window") for x in (self.config, *self.module.modules()))]
        found = [(holder, name, getattr(holder, name)) for holder, name in holders if isinstance(getattr(holder, name, None), int)]
        for holder, name, _ in found:
            setattr(holder, name, PROBE // 2)
        try:
            yield
        finally:
            for holder, name, window in found:
                setattr(holder, name, window)

    def _probe(self, neighbour: Tensor, one: Tensor, place: Callable[..., Group]) -> Tensor:
        """The output on `one`, behind a neighbour in its row or in a row of its own."""
        both = Sequences.of([(neighbour.tolist(), []), (one.tolist(), [])]).to(self.device)
        stop = both.lengths * torch.tensor([0, 1], device=self.device)
        members = torch.arange(2, device=self.device)
        together = place(both, members, torch.zeros_like(stop), stop)
        return self.run(self.module, together).flatten(0, 1)[together.at]


PROBE = 8  # tokens of the longer of the two sequences that are tried out

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


def compile_for_all_shapes(module: nn.Module, device: torch.device) -> Callable[..., Any]:
    """The module through `torch.compile`.  Raises ModelError where there is no compiler that it could use."""
    compilers = (os.environ.get("CXX", ""), "g++", "clang++", "c++")
    if device.type == "cpu" and not any(shutil.which(name) for name in compilers if name):
        raise ModelError("compile: there is no C++ compiler here", "g++ or clang++", "install one, or set compile to false")
    settings: Any = torch._dynamo.config
    settings.recompile_limit = max(settings.recompile_limit, 64)  # roles, with and without gradients; beyond it nothing is fused
    return torch.compile(module, dynamic=True)


def without_numbers(module: nn.Module) -> bool:
    """Whether the weights are shapes alone, as `handrail plan` has them: then nothing can be tried out, and the best is taken on trust."""
    return isinstance(next(module.parameters()), FakeTensor)


def close(a: Tensor, b: Tensor, limit: float) -> bool:
    """Whether the largest difference is below `limit` times the largest entry."""
    return bool((a.float() - b.float()).abs().max() <= limit * b.float().abs().max())
