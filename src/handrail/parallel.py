"""How many processes there are and what they share.  On one process everything is the identity.

Each process holds the models whole and the batch of a step whole, and works on its share of the rows.  What is asked
without a gradient comes back as all rows from `each`; gradients are added up where they are clipped.  So every number that
follows from a batch is the same in all processes, and so is every decision that follows from a number.
"""

import atexit
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from handrail.errors import ConfigError, HandrailError, RunError

T = TypeVar("T")
PATIENCE = timedelta(hours=1)  # with a process that hangs, as one does in a slow reward function; one that died is noticed at once


@dataclass(frozen=True, slots=True)
class Parallel:
    """This process among its peers."""

    rank: int = 0
    world: int = 1

    @classmethod
    def joined(cls) -> "Parallel":
        """This process among those that torchrun started; alone without it.  Raises ConfigError where they cannot work together."""
        if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        if not dist.is_initialized():
            _meet()
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def apart(self) -> tuple[str | int, ...]:
        """What a seed is derived from beside the rest, where each process is to draw for itself; nothing in the first."""
        return ("process", self.rank) if self.rank else ()

    @property
    def turn(self) -> slice:
        """Every `world`-th row, beginning with this process's own."""
        return slice(self.rank, None, self.world)

    def share(self, groups: Callable[[Tensor, int], Iterator[Tensor]], lengths: Tensor, tokens: int) -> Iterator[Tensor]:
        """Indices of this process's sequences, [n] at a time, as `groups(lengths, tokens)` puts them together.

        The processes take the longest sequences in turn, so that all have about as many tokens.
        """
        mine = torch.argsort(lengths, descending=True, stable=True)[self.turn]
        for index in groups(lengths[mine], tokens):
            yield mine[index]

    def each(self, of: Callable[..., T], *rows: Any) -> T:
        """What `of` says of all rows, while every process asks it of a few of them.

        Args: of, takes what `rows` are, records or lists of one length, and returns tensors [B, ...], records of rows, or
        tuples and dicts of those; it says of a row what does not depend on the others.

        Returns: that for all rows in their order, on this process's device; columns that some have not are zeros.

        Raises: what `of` raises in any of the processes, where that is an error of Handrail's.
        """
        count = len(rows[0])
        if self.world == 1 or not count:
            return of(*rows)
        start, stop = (count * rank // self.world for rank in (self.rank, self.rank + 1))

        def mine() -> T | None:
            return _through(lambda x: x[0].detach().cpu(), [of(*(x[start:stop] for x in rows))]) if start < stop else None

        return _through(_stacked, [found for found in self._all(mine) if found is not None])

    def first(self, work: Callable[[], T]) -> T:
        """What `work` gives in the first process, which alone does it, for all of them; so does its error, if Handrail's."""
        return self._all(work if self.rank == 0 else lambda: None)[0]  # type: ignore[return-value]

    def highest(self, number: int) -> int:
        """The highest number over processes."""
        return max(self._all(lambda: number))

    def gather(self, found: T) -> list[T]:
        """What each process has found, in their order."""
        return self._all(lambda: found)

    def totals(self, sums: dict[str, Any]) -> dict[str, float]:
        """Each number, or tensor of one, added up over processes; those that a process has none of are 0 there."""
        total: dict[str, float] = {}
        for found in self._all(lambda: {name: float(value) for name, value in sums.items()}):
            total |= {name: total[name] + value if name in total else value for name, value in found.items()}
        return total

    def clip_grad(self, parameters: Iterable[torch.nn.Parameter], max_norm: float) -> Tensor:
        """Add gradients up over processes and scale them so that their joint norm is at most `max_norm`; returns the norm before."""
        parameters = list(parameters)
        self.sum_gradients(parameters)
        return torch.nn.utils.clip_grad_norm_(parameters, max_norm)

    def sum_gradients(self, parameters: list[torch.nn.Parameter]) -> None:
        """Each gradient becomes its sum over processes.  One that no process has is not made."""
        if self.world == 1:
            return
        with self._living():
            there = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32)
            dist.all_reduce(there)
            for parameter in (p for p, some in zip(parameters, there.tolist(), strict=True) if some):
                total = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.contiguous()
                dist.all_reduce(total)
                parameter.grad = total

    def _all(self, work: Callable[[], T]) -> list[T]:
        """What `work` gives in each process.  An error of Handrail's in one is raised in all, so that none waits for it."""
        if self.world == 1:
            return [work()]
        try:
            own: Any = work()
        except HandrailError as error:
            own = error
        found: list[Any] = [None] * self.world
        with self._living():
            dist.all_gather_object(found, own)
        for one in (own, *found):
            if isinstance(one, HandrailError):
                raise one
        return found

    @contextmanager
    def _living(self) -> Iterator[None]:
        """Raises RunError where a process that is waited for has died.  This one's own want of memory is told as it is."""
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0].split("] ", 1)[-1].partition(". ")[0]  # without where in whose source
            raise RunError(
                f"process {self.rank} of {self.world} has lost the others: {reason}",
                "all processes of a run live as long as it does",
                "see what the other one said, if it had time to; the same command goes on from the last checkpoint",
            ) from error


def _meet() -> None:
    """Bring this process together with the others, each on a GPU of its own where there are some."""
    if torch.cuda.is_available():
        own, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if own >= there:
            raise ConfigError(
                f"process {own} of this machine, which has {there} GPUs", "a GPU for each process", f"--nproc-per-node {there}"
            )
        torch.cuda.set_device(own)
    elif torch.backends.mps.is_available():
        raise ConfigError("several processes on Apple's MPS", "several processes on CUDA or on CPUs", "start it without torchrun")
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    atexit.register(dist.destroy_process_group)


def _through(join: Callable[[list[Tensor]], Tensor], parts: list[Any]) -> Any:
    """Tuples, dicts and records of one form as one of that form: `join` makes one tensor of those in the same place."""
    one = parts[0]
    if isinstance(one, Tensor):
        return join(parts)
    if isinstance(one, dict):
        return {name: _through(join, [part[name] for part in parts]) for name in one}
    if is_dataclass(one):
        return type(one)(*(_through(join, [getattr(part, f.name) for part in parts]) for f in fields(one)))  # type: ignore[misc]
    return tuple(_through(join, list(same)) for same in zip(*parts, strict=True))


def _stacked(parts: list[Tensor]) -> Tensor:
    """Rows [B, T, ...] of all, as wide as the widest."""
    if parts[0].ndim > 1:
        width = max(x.shape[1] for x in parts)
        parts = [torch.nn.functional.pad(x, (0, 0) * (x.ndim - 2) + (0, width - x.shape[1])) for x in parts]
    return torch.cat(parts).to("cuda" if torch.cuda.is_available() else "cpu")
