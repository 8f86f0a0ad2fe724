"""Which sequences share a forward, how they stand in it, and where its output is read: index arithmetic without a model."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from handrail.batch import Sequences

GRAIN = 64  # rows are multiples of it: products are made ready, and kept, for each shape that they meet


def groups(lengths: Tensor, tokens: int) -> Iterator[Tensor]:
    """[n] indices, group by group, the longest sequences first.

    A group has at most `tokens` (one that is longer stands alone), and its rectangle, as wide as its longest, is at
    least half full.
    """
    order = torch.argsort(lengths, descending=True, stable=True)
    ordered, start, total = lengths[order].tolist(), 0, 0
    for i, length in enumerate(ordered):
        total += length
        if i > start and (total > tokens or 2 * total < (i - start + 1) * ordered[start]):
            yield order[start:i]
            start, total = i, length
    if start < len(ordered):
        yield order[start:]


@dataclass(frozen=True, slots=True)
class Group:
    """Sequences for one forward, and the N places that are read from its output."""

    ids: Tensor  # [1, M] one behind another, the last place empty; or [B, W] one a row, right-padded
    positions: Tensor  # the same shape, within each sequence
    layout: tuple[Tensor, Tensor] | None  # [B, W] where each token stands in the M, M - 1: none; [M'] each real one's place there
    at: Tensor  # [N] int64, places in the M or B * W tokens
    rows: Tensor  # [N] int64, sequence that each place belongs to, in order
    columns: Tensor  # [N] int64, token of that sequence, in order


def group(sequences: Sequences, members: Tensor, first: Tensor, stop: Tensor, joined: bool) -> Group:
    """These sequences together, of which the tokens first .. stop - 1 of each ([B] of all) are read.

    Nothing masks the padding at the end of a row: it stands behind what is real, and attention looks back only.
    """
    lengths = sequences.lengths[members]
    width = int(lengths.max())
    place = torch.arange(width, device=lengths.device)
    real = place < lengths[:, None]
    ids = sequences.ids[members, :width] * real
    starts = lengths.cumsum(0) - lengths if joined else torch.arange(len(members), device=lengths.device) * width
    reader, column = ranges(first[members], stop[members])
    at, rows = starts[reader] + column, members[reader]
    if not joined:
        return Group(ids, place.expand_as(ids), None, at, rows, column)
    total = int(lengths.sum())
    padded = -(-(total + 1) // GRAIN) * GRAIN
    in_row, positions = ids.new_zeros(2, 1, padded)
    in_row[0, :total] = ids[real]
    positions[0, :total] = place.expand_as(ids)[real]
    grid = torch.where(real, starts[:, None] + place, padded - 1)
    return Group(in_row, positions, (grid, real.flatten().nonzero()[:, 0]), at, rows, column)


def ranges(first: Tensor, stop: Tensor) -> tuple[Tensor, Tensor]:
    """first[i], .., stop[i] - 1 for every i, one after another: ([N] the i of each, [N] the number itself)."""
    sizes = stop - first
    owner = torch.repeat_interleave(torch.arange(len(sizes), device=sizes.device), sizes)
    start = sizes.cumsum(0) - sizes
    return owner, torch.arange(len(owner), device=sizes.device) - start[owner] + first[owner]
