"""Keys and values of the rows in flight, in buffers that are allocated once.

A slot holds one sequence from column 0 on, whatever its neighbours' lengths.  Columns beyond a row's length hold
zeros: they are masked, but attention still multiplies them by a weight of 0, and 0 × NaN would be NaN.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import Cache


@dataclass(frozen=True, slots=True)
class _Prompts:
    """Where a prefill's keys go: key `columns[j]` of prompt `prompts[j]` to column `targets[j]` of slot `slots[j]`."""

    start: int
    stop: int
    prompts: Tensor
    columns: Tensor
    slots: Tensor
    targets: Tensor


class SlotCache(Cache):
    """The cache a Hugging Face model is given.  `at_prompts` or `at_step` says before each forward what it will hold."""

    def __init__(self, slots: int, length: int, dtype: torch.dtype | None):
        """Room for `slots` rows of `length` tokens; `dtype` of what is kept, None for that of the keys themselves."""
        super().__init__(layers=[])
        self.slots, self.length, self.kept_as = slots, length, dtype
        self.buffers: list[tuple[Tensor, Tensor]] = []
        self._target: _Prompts | tuple[Tensor, Tensor, int] | None = None

    def at_prompts(self, start: int, prompt_of: list[int], lengths: list[int], width: int, device: torch.device) -> None:
        """The next forward is over left-padded prompts; slot start + i gets prompt `prompt_of[i]`, of `lengths[i]`."""
        counts = torch.tensor(lengths)
        row = torch.repeat_interleave(torch.arange(len(lengths)), counts)
        target = torch.arange(len(row)) - (counts.cumsum(0) - counts)[row]
        column = target + (width - counts)[row]
        prompt = torch.tensor(prompt_of)[row]
        moved = (x.to(device) for x in (prompt, column, row + start, target))
        self._target = _Prompts(start, start + len(lengths), *moved)

    def at_step(self, rows: Tensor, positions: Tensor, width: int) -> None:
        """The next forward is over one token of slots [0, n): written at `positions` [n], read up to `width`."""
        self._target = (rows, positions, width)

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Keep a layer's new keys and values [B, heads, tokens, dim]; returns all that the queries may look at."""
        if layer_idx == len(self.buffers):
            self.buffers.append((self._allocate(key_states), self._allocate(value_states)))
        new, kept = (key_states, value_states), self.buffers[layer_idx]
        target = self._target
        assert target is not None, "at_prompts or at_step comes before a forward"
        if isinstance(target, _Prompts):
            for states, buffer in zip(new, kept, strict=True):
                buffer[target.start : target.stop] = 0
                buffer[target.slots, :, target.targets] = states[target.prompts, :, target.columns].to(buffer.dtype)
            return new
        rows, positions, width = target
        for states, buffer in zip(new, kept, strict=True):
            buffer[rows, :, positions] = states[:, :, 0].to(buffer.dtype)
        keys, values = kept
        return keys[: len(rows), :, :width], values[: len(rows), :, :width]

    def move(self, source: list[int], target: list[int], width: int) -> None:
        """Copy rows `source` over rows `target`; no row is longer than `width`."""
        for kept in self.buffers:
            for buffer in kept:
                buffer[target, :, :width] = buffer[source, :, :width]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """0: positions and masks are always given explicitly."""
        return 0

    def _allocate(self, like: Tensor) -> Tensor:
        shape = (self.slots, like.shape[1], self.length, like.shape[3])
        return torch.zeros(shape, dtype=self.kept_as or like.dtype, device=like.device)
