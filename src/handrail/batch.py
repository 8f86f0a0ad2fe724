"""Complete, immutable, sliceable tensor records.

B sequences, P prompt tokens, T response tokens, L = P + T tokens, K responses to one prompt.  Lengths are the
truth and masks follow from them; what stands beyond a length is never read.

An example of a `Rollout` with two rows, prompts of 3 and 1 tokens and responses of 2 and 3:

    ids            a b c X Y .        lengths  5    prompt_lengths  3     mask   1 1 0
                   d U V W . .                 4                    1            1 1 1
"""

from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows of tensors that are taken, split and moved together."""

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def __getitem__(self, index: Tensor | slice) -> Self:
        return type(self)(*(getattr(self, f.name)[index] for f in fields(self)))

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def to(self, device: torch.device | str) -> Self:
        return type(self)(*(getattr(self, f.name).to(device) for f in fields(self)))


@dataclass(frozen=True, slots=True)
class Sequences(_Rows):
    """Token sequences: a prompt and what follows it."""

    ids: Tensor  # [B, L] int64, the prompt at the left edge, right-padded
    prompt_lengths: Tensor  # [B] int64, tokens of the prompt
    lengths: Tensor  # [B] int64, tokens in all

    @property
    def response_lengths(self) -> Tensor:
        return self.lengths - self.prompt_lengths

    @property
    def mask(self) -> Tensor:
        """[B, T] bool: True on the response's tokens, counted from its first."""
        longest = int(self.response_lengths.max()) if len(self.lengths) else 0
        return torch.arange(longest, device=self.lengths.device) < self.response_lengths[:, None]

    @property
    def tokens(self) -> Tensor:
        """[B, T] int64: the response's tokens, counted from its first; token 0 beyond it."""
        place = self.prompt_lengths[:, None] + torch.arange(self.mask.shape[1], device=self.ids.device)
        return torch.where(self.mask, self.ids.gather(1, place.clamp(max=self.ids.shape[1] - 1)), 0)

    @classmethod
    def of(cls, pairs: list[tuple[list[int], list[int]]]) -> "Sequences":
        """From (prompt ids, response ids) pairs."""
        longest = max((len(p) + len(r) for p, r in pairs), default=0)
        ids = torch.zeros(len(pairs), longest, dtype=torch.int64)
        for row, (prompt, response) in zip(ids, pairs, strict=True):
            row[: len(prompt) + len(response)] = torch.tensor(prompt + response, dtype=torch.int64)
        prompt_lengths = torch.tensor([len(p) for p, _ in pairs], dtype=torch.int64)
        return cls(ids, prompt_lengths, prompt_lengths + torch.tensor([len(r) for _, r in pairs], dtype=torch.int64))


@dataclass(frozen=True, slots=True)
class Rollout(_Rows):
    """Responses that an engine sampled."""

    ids: Tensor  # [B, L] int64, prompt then response, right-padded
    prompt_lengths: Tensor  # [B] int64
    lengths: Tensor  # [B] int64, end-of-sequence included where it was sampled
    ended: Tensor  # [B] bool, True where the response ended by itself, False where it was cut
    logp: Tensor  # [B, T] float32, log-probability under the law that was sampled from; the engine's own

    @property
    def sequences(self) -> Sequences:
        return Sequences(self.ids, self.prompt_lengths, self.lengths)

    @property
    def response_lengths(self) -> Tensor:
        return self.lengths - self.prompt_lengths

    @property
    def mask(self) -> Tensor:
        """[B, T] bool, as wide as `logp`: True on sampled tokens, end-of-sequence included."""
        return torch.arange(self.logp.shape[1], device=self.lengths.device) < self.response_lengths[:, None]

    def responses(self) -> list[list[int]]:
        """The response ids of each row, without padding."""
        rows = zip(self.ids.tolist(), self.prompt_lengths.tolist(), self.lengths.tolist(), strict=True)
        return [row[start:stop] for row, start, stop in rows]


@dataclass(frozen=True, slots=True)
class Experience(_Rows):
    """A rollout with everything that an update needs.  All but `rollout` are [B, T] float32."""

    rollout: Rollout
    logp_old: Tensor
    logp_ref: Tensor
    values_old: Tensor
    advantage: Tensor
    returns: Tensor

    @property
    def mask(self) -> Tensor:
        return self.rollout.mask


@dataclass(frozen=True, slots=True)
class RankingBatch:
    """N rankings of up to K responses; the responses stand one after another in `sequences`."""

    sequences: Sequences  # M rows
    index: Tensor  # [N, K] int64, row of `sequences` for each response; 0 under a False mask
    mask: Tensor  # [N, K] bool
    places: Tensor  # [N, K] int64, 1 is the best
    ratings: Tensor  # [N, K] float32, the scores that the places come from; 0 where there are none
    margin: Tensor  # [N] float32
    weight: Tensor  # [N] float32


@dataclass(frozen=True, slots=True)
class Labels(_Rows):
    """What is said of the responses to N prompts, up to K each; 0 where nothing is."""

    wins: Tensor  # [N, K, K] float32, weight of "i is better than j"; a tie is half a win for each
    desirable: Tensor  # [N, K] float32, weight of "good": of a comparison, the wins
    undesirable: Tensor  # [N, K] float32, weight of "bad": of a comparison, the losses

    @classmethod
    def of_wins(cls, wins: Tensor) -> "Labels":
        """Of comparisons alone: each is also taken apart."""
        return cls(wins, wins.sum(2), wins.sum(1))


@dataclass(frozen=True, slots=True)
class PreferenceBatch:
    """N prompts with up to K labelled responses; the responses stand one after another in `sequences`."""

    sequences: Sequences  # M rows
    logp_ref: Tensor  # [M, T] float32, nats under the reference; 0 where there is none
    index: Tensor  # [N, K] int64, row of `sequences` for each response; 0 under a False mask
    mask: Tensor  # [N, K] bool, True on responses of which something is said
    labels: Labels

    def __len__(self) -> int:
        return len(self.index)

    def to(self, device: torch.device | str) -> "PreferenceBatch":
        return PreferenceBatch(*(getattr(self, f.name).to(device) for f in fields(self)))
