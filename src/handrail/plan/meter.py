"""What operations hold and cost, counted while they are carried out on tensors that have a shape and no numbers."""

import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from handrail.plan.machine import Machine


class Meter(TorchDispatchMode):
    """Inside, every new storage counts as held until nothing refers to it, and every operation has its price.

    `peak` is the largest sum of bytes that was held at once; `seconds` are by the phase that they fell into.  An
    operation takes as long as its products, or as moving its bytes, or as calling it, whichever is longest: Williams et
    al. 2009, the roofline.
    """

    def __init__(self, machine: Machine):
        super().__init__()
        self.machine = machine
        self.live = self.peak = 0
        self.seconds: dict[str, float] = defaultdict(float)
        self._held: dict[int, int] = {}
        self._phase, self._times = "", 0.0

    @contextmanager
    def phase(self, name: str, times: float) -> Iterator[None]:
        """What happens inside happens `times` times in all; memory does not care."""
        before, (self._phase, self._times) = (self._phase, self._times), (name, times)
        try:
            yield
        finally:
            self._phase, self._times = before

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        made = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        fresh = [self._hold(x) for x in made]
        if scratch := SCRATCH.get(func._overloadpacket):
            self.peak = max(self.peak, self.live + scratch(*args))
        if self._times:
            writes = func._schema.name[-1:] == "_" or any(fresh)
            moved = sum(x.nbytes for x in (*given, *made)) if writes else 0  # a view moves nothing
            self.seconds[self._phase] += self._times * self.machine.price(_flops(func, args, kwargs or {}, out), moved, _precision(given))
        return out

    def _hold(self, x: Tensor) -> bool:
        """Count the storage of `x`, unless it is known; returns whether it is new."""
        storage = x.untyped_storage()
        key = storage._cdata
        if key in self._held:
            return False
        self._held[key] = storage.nbytes()
        self.live += self._held[key]
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._let_go, key).atexit = False
        return True

    def _let_go(self, key: int) -> None:
        self.live -= self._held.pop(key)


def _flops(func: Any, args: tuple, kwargs: dict, out: Any) -> float:
    packet = func._overloadpacket
    if packet in FLOPS:
        return FLOPS[packet](*args)
    return float(flop_registry[packet](*args, **kwargs, out_val=out)) if packet in flop_registry else 0.0


def _precision(given: list[Tensor]) -> torch.dtype:
    """In what the products of an operation are made."""
    return torch.bfloat16 if any(x.dtype in (torch.bfloat16, torch.float16) for x in given) else torch.float32


def _attention(query: Tensor, key: Tensor, value: Tensor, grid: Tensor | None, *_: Any) -> tuple[float, float]:
    """Rows times heads, and the cells of a row's square."""
    rows, width = (query.shape[0], key.shape[2]) if grid is None else grid.shape
    return rows * query.shape[1], float(width * (query.shape[2] if grid is None else width))


def _attended(query: Tensor, key: Tensor, value: Tensor, grid: Tensor | None, *rest: Any) -> float:
    lanes, cells = _attention(query, key, value, grid)
    return 2 * lanes * cells * query.shape[3]  # two products, of which half looks back


def _attended_back(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, divisor: Tensor, grid: Tensor | None, *_: Any
) -> float:
    return 2.5 * _attended(query, key, value, grid)


def _rectangles(query: Tensor, key: Tensor, value: Tensor, grid: Tensor | None, *_: Any) -> int:
    """Bytes of query, key, value and output laid out as rectangles."""
    if grid is None:
        return query.nbytes
    return 4 * grid.numel() * query.shape[1] * query.shape[3] * query.element_size()


def _rectangles_back(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, divisor: Tensor, grid: Tensor | None, *_: Any
) -> int:
    return 2 * _rectangles(query, key, value, grid)


_OURS = torch.ops.handrail
FLOPS: dict[Any, Callable[..., float]] = {_OURS.attention: _attended, _OURS.attention_backward: _attended_back}
SCRATCH: dict[Any, Callable[..., int]] = {_OURS.attention: _rectangles, _OURS.attention_backward: _rectangles_back}
