"""Sequences packed into rows: index arithmetic without a model.

Two sequences `a b c` and `d e` in one row, each with its own positions, attending to itself only:

    ids        a b c d e .
    positions  0 1 2 0 1 0
    segments   0 0 0 1 1 -1
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from handrail.batch import Sequences

GRAIN = 32  # widths are multiples of it: kernels are made, and kept, for each shape that they meet


@dataclass(frozen=True, slots=True)
class Pack:
    """R rows of up to W tokens for one forward, and the N places that are read from its output."""

    ids: Tensor  # [R, W] int64, 0 where nothing stands
    positions: Tensor  # [R, W] int64, within each sequence
    segments: Tensor  # [R, W] int64, which sequence; -1 where nothing stands
    alone: bool  # at most one sequence a row
    at: Tensor  # [N] int64, places in the R * W tokens
    rows: Tensor  # [N] int64, sequence that each place belongs to, in order
    columns: Tensor  # [N] int64, token of that sequence, in order

    def mask(self, window: int = 0) -> Tensor:
        """[R, 1, W, W] bool: which tokens (last) each token may attend to: those of its own sequence up to itself.

        With a window, the last `window` of them.  Empty places attend to each other, so that no row is all False.
        """
        width = self.ids.shape[1]
        place = torch.arange(width, device=self.ids.device)
        distance = place[:, None] - place
        allowed = (distance >= 0) & (distance < window) if window else distance >= 0
        return ((self.segments[:, :, None] == self.segments[:, None, :]) & allowed)[:, None]


def first_fit(lengths: list[int], size: int) -> list[list[int]]:
    """Items in rows of at most `size` tokens: the longest first, each into the first row with room for it."""
    rows: list[list[int]] = []
    room: list[int] = []
    for item in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        row = next((r for r, free in enumerate(room) if free >= lengths[item]), None)
        if row is None:
            row = len(rows)
            rows.append([])
            room.append(max(size, lengths[item]))
        rows[row].append(item)
        room[row] -= lengths[item]
    return rows


def pack(sequences: Sequences, first: Tensor, stop: Tensor, row_tokens: int, rows_at_once: int, alone: bool) -> Iterator[Pack]:
    """The sequences in packs of at most `rows_at_once` rows of at most `row_tokens` (or the longest sequence).

    Args:
        sequences: B of them; only tokens before each length are used.
        first, stop: [B] the tokens first, first + 1, .., stop - 1 of each sequence are read.
        row_tokens, rows_at_once: the size of one forward.
        alone: one sequence a row.
    """
    lengths = sequences.lengths.tolist()
    by_length = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    rows = [[item] for item in by_length] if alone else first_fit(lengths, row_tokens)
    for start in range(0, len(rows), rows_at_once):
        yield _pack(sequences, first, stop, rows[start : start + rows_at_once])


def _pack(sequences: Sequences, first: Tensor, stop: Tensor, rows: list[list[int]]) -> Pack:
    device = sequences.ids.device
    members = torch.tensor([item for row in rows for item in row], device=device)
    counts = torch.tensor([len(row) for row in rows], device=device)
    row_of = torch.repeat_interleave(torch.arange(len(rows), device=device), counts)
    lengths = sequences.lengths[members]
    before = lengths.cumsum(0) - lengths  # tokens of all earlier members
    row_starts = before[counts.cumsum(0) - counts]
    offset = before - row_starts[row_of]  # where each member begins in its row
    alone = len(members) == len(rows)
    grain = 1 if alone else GRAIN  # learned positions end with the context, which need not be a multiple
    width = -(-int((offset + lengths).max()) // grain) * grain

    member, position = ranges(torch.zeros_like(lengths), lengths)
    place = row_of[member] * width + offset[member] + position
    ids, positions, segments = (torch.full((len(rows) * width,), fill, device=device) for fill in (0, 0, -1))
    ids[place] = sequences.ids[members[member], position]
    positions[place] = position
    segments[place] = member

    reader, column = ranges(first[members], stop[members])
    shape = (len(rows), width)
    return Pack(
        ids.view(shape),
        positions.view(shape),
        segments.view(shape),
        alone=alone,
        at=row_of[reader] * width + offset[reader] + column,
        rows=members[reader],
        columns=column,
    )


def ranges(first: Tensor, stop: Tensor) -> tuple[Tensor, Tensor]:
    """first[i], .., stop[i] - 1 for every i, one after another: ([N] the i of each, [N] the number itself)."""
    sizes = stop - first
    owner = torch.repeat_interleave(torch.arange(len(sizes), device=sizes.device), sizes)
    start = sizes.cumsum(0) - sizes
    return owner, torch.arange(len(owner), device=sizes.device) - start[owner] + first[owner]
