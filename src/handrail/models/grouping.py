"""Which sequences share a forward, how they stand in it, and where its output is read: index arithmetic without a model."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from handrail.batch import Sequences

CELLS = 4  # of a rectangle, for each token that a forward may have
GRAIN = 64  # rows are multiples of it: products are made ready, and kept, for each shape that they meet


def groups(lengths: Tensor, tokens: int) -> Iterator[Tensor]:
    """[n] indices, group by group, the longest sequences first.

    A group has at most `tokens` (one that is longer stands alone), and its rectangle, as wide as its longest, is at
    least half full and has at most `CELLS` times as many cells.
    """
    order = torch.argsort(lengths, descending=True, stable=True)
    alone = [(length, length, [item]) for item, length in zip(order.tolist(), lengths[order].tolist(), strict=True)]
    return _close(alone, tokens)


def families(sequences: Sequences, tokens: int) -> Iterator[Tensor]:
    """The same, for sequences that may have a prompt in common: those stand together, and it is counted once."""
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    ids, prompts, lengths = (x.tolist() for x in (sequences.ids, sequences.prompt_lengths, sequences.lengths))
    for item in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        by_prompt.setdefault(tuple(ids[item][: prompts[item]]), []).append(item)
    units: list[tuple[int, int, list[int]]] = []
    for prompt, members in by_prompt.items():
        longest = lengths[members[0]]
        most = max(1, min((tokens - len(prompt)) // max(1, longest - len(prompt)), CELLS * tokens // max(1, longest)))
        for start in range(0, len(members), most):
            part = members[start : start + most]
            units.append((len(prompt) + sum(lengths[i] - len(prompt) for i in part), lengths[part[0]], part))
    return _close(sorted(units, key=lambda unit: -unit[1]), tokens)


def _close(units: list[tuple[int, int, list[int]]], tokens: int) -> Iterator[Tensor]:
    """Groups of (tokens, longest, members), which come in the order of the longest."""
    group: list[int] = []
    total, cells, width = 0, 0, 0
    for size, longest, members in units:
        area = (len(group) + len(members)) * width
        if group and (total + size > tokens or area > CELLS * tokens or 2 * (cells + len(members) * longest) < area):
            yield torch.tensor(group)
            group, total, cells = [], 0, 0
        width = longest if not group else width
        group, total, cells = [*group, *members], total + size, cells + len(members) * longest
    if group:
        yield torch.tensor(group)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the tokens of R sequences stand among M places in a row, of which the last is empty."""

    grid: Tensor  # [R, W] int64, the place of each token; M - 1 beyond each sequence
    own: Tensor | None  # [R, W] int64, M - 1 also on a prompt that an earlier sequence has brought; None: there is none
    back: Tensor  # [M'] int64, which of the R * W cells fills each place that is not empty

    def tensors(self) -> tuple[Tensor, Tensor | None, Tensor]:
        """grid, own, back."""
        return self.grid, self.own, self.back


@dataclass(frozen=True, slots=True)
class Group:
    """Sequences for one forward, and the N places that are read from its output."""

    ids: Tensor  # [1, M] one behind another; or [R, W] one a row, right-padded
    positions: Tensor  # the same shape, within each sequence
    layout: Layout | None  # where they stand one behind another
    at: Tensor  # [N] int64, places in the M or R * W tokens
    rows: Tensor  # [N] int64, sequence that each place belongs to, in order
    columns: Tensor  # [N] int64, token of that sequence, in order

    def placed(self, inputs: Tensor) -> Tensor:
        """[1, M, D] or [R, W, D] what stands at the tokens of the sequences, [R, L, D], where they stand; 0 where none does."""
        if self.layout is None:
            return inputs[:, : self.ids.shape[1]]
        cells = inputs[:, : self.layout.grid.shape[1]].flatten(0, 1).index_select(0, self.layout.back)
        return torch.nn.functional.pad(cells, (0, 0, 0, self.ids.shape[1] - len(cells)))[None]


def padded(sequences: Sequences, members: Tensor, first: Tensor, stop: Tensor) -> Group:
    """One sequence a row, of which the tokens first .. stop - 1 of each ([B] of all) are read.

    Nothing masks the padding: it stands behind what is real, and attention looks back only.
    """
    real, place = _real(sequences, members)
    ids = sequences.ids[members, : len(place)] * real
    reader, columns = ranges(first[members], stop[members])
    return Group(ids, place.expand_as(ids), None, reader * len(place) + columns, members[reader], columns)


def joined(sequences: Sequences, members: Tensor, first: Tensor, stop: Tensor, share: bool = True) -> Group:
    """One sequence behind another, of which the tokens first .. stop - 1 of each ([B] of all) are read.

    Neighbours with the same prompt `share` it: what a model says of a prompt does not depend on what follows.
    """
    real, place = _real(sequences, members)
    ids = sequences.ids[members, : len(place)] * real
    prompts = sequences.prompt_lengths[members]
    answer = place >= prompts[:, None]
    same = (prompts[1:] == prompts[:-1]) & ((ids[1:] == ids[:-1]) | answer[1:]).all(1) & (prompts[1:] > 0)
    brings = torch.cat([same.new_ones(1), ~(same & share)])  # the prompt with it
    own = real & (answer | brings[:, None])
    sizes = own.sum(1)
    total = int(sizes.sum())
    places = -(-(total + 1) // GRAIN) * GRAIN
    before = (sizes.cumsum(0) - sizes)[:, None]
    prompt_at = before[brings][brings.cumsum(0) - 1]
    grid = torch.where(answer, before + place - prompts[:, None] * ~brings[:, None], prompt_at + place)
    grid = grid.masked_fill(~real, places - 1)
    in_row, positions = ids.new_zeros(2, 1, places)
    in_row[0, :total], positions[0, :total] = ids[own], place.expand_as(ids)[own]
    shared = None if bool(brings.all()) else grid.masked_fill(~own, places - 1)
    reader, columns = ranges(first[members], stop[members])
    return Group(in_row, positions, Layout(grid, shared, own.flatten().nonzero()[:, 0]), grid[reader, columns], members[reader], columns)


def _real(sequences: Sequences, members: Tensor) -> tuple[Tensor, Tensor]:
    """[R, W] bool: True on tokens; and [W] the columns' numbers."""
    lengths = sequences.lengths[members]
    place = torch.arange(int(lengths.max()), device=lengths.device)
    return place < lengths[:, None], place


def ranges(first: Tensor, stop: Tensor) -> tuple[Tensor, Tensor]:
    """first[i], .., stop[i] - 1 for every i, one after another: ([N] the i of each, [N] the number itself)."""
    sizes = stop - first
    owner = torch.repeat_interleave(torch.arange(len(sizes), device=sizes.device), sizes)
    start = sizes.cumsum(0) - sizes
    return owner, torch.arange(len(owner), device=sizes.device) - start[owner] + first[owner]
