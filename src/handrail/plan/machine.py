"""What a machine holds and how fast it is: this one, measured; or a GPU by its maker's data sheet."""

import difflib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from handrail.errors import ConfigError
from handrail.models import best_matmul
from handrail.models.forward import CPU_TOKENS, DEVICE_TOKENS
from handrail.models.machine import host_memory

MIB = 2**20


@dataclass(frozen=True)
class Machine:
    """Bytes and rates."""

    name: str
    memory: int  # bytes
    free: int  # bytes that nothing else uses now
    fixed: int  # bytes of a process before it holds a tensor
    kept: float  # bytes that the allocator has taken for each that is held at the peak
    holes: float  # and more for each that comes and goes, where sampling comes between the updates
    products: dict[torch.dtype, float]  # floating-point operations a second in matrix products
    bandwidth: float  # bytes a second
    call: float  # seconds that an operation takes at least
    tokens: int  # in one forward
    measured: bool

    def memory_of(self, peak: int, moving: int) -> int:
        """Bytes of a process whose tensors take `peak` at once, of which `moving` come and go between calls to the engine."""
        return self.fixed + round(self.kept * peak + self.holes * moving)

    def price(self, flops: float, moved: int, precision: torch.dtype) -> float:
        """Seconds of one operation."""
        return max(self.call, flops / self.products[precision], moved / self.bandwidth)


@dataclass(frozen=True)
class Sheet:
    """A GPU: memory in MiB as its driver lists it; by its maker dense TFLOP/s in bfloat16 and in float32, memory in GB/s."""

    name: str
    memory: int
    bfloat16: float
    float32: float
    bandwidth: float


# NVIDIA's data sheets; dense products, without sparsity.  The T4 has no bfloat16: its float16 figure stands there.
GPUS = {
    "h200": Sheet("NVIDIA H200 SXM", 143_771, 989, 67, 4800),
    "h100": Sheet("NVIDIA H100 SXM", 81_559, 989, 67, 3350),
    "a100": Sheet("NVIDIA A100 80GB SXM", 81_920, 312, 19.5, 2039),
    "a100-40": Sheet("NVIDIA A100 40GB", 40_960, 312, 19.5, 1555),
    "l40s": Sheet("NVIDIA L40S", 46_068, 362, 91.6, 864),
    "a10": Sheet("NVIDIA A10", 23_028, 125, 31.2, 600),
    "l4": Sheet("NVIDIA L4", 23_034, 121, 30.3, 300),
    "t4": Sheet("NVIDIA T4", 15_360, 65, 8.1, 320),
    "rtx4090": Sheet("NVIDIA GeForce RTX 4090", 24_564, 165, 82.6, 1008),
    "rtx3090": Sheet("NVIDIA GeForce RTX 3090", 24_576, 71, 35.6, 936),
}
REACHED = {"products": 0.4, "bandwidth": 0.7}  # of a sheet's figures, by programs that call one operation after another
GPU_CALL = 1e-5  # seconds
GPU_FIXED, GPU_KEPT = 600 * 2**20, 1.1  # CUDA's context and libraries; what its caching allocator rounds up

# The kernels that oneDNN keeps for the shapes that it has met and small holes in the heap; and what lies fallow there where
# updates and sampling, whose rows become fewer one by one, take turns.  Set by `benchmarks/plan_memory.py --calibrate`.
CPU_FIXED, CPU_HOLES = 290 * 2**20, 0.5


def gpu(name: str) -> Machine:
    """A GPU by its name.  Raises ConfigError for one that is not known."""
    key = name.lower().replace(" ", "").replace("_", "-").removeprefix("nvidia").strip("-")
    if key not in GPUS:
        near = difflib.get_close_matches(key, GPUS, n=1)
        raise ConfigError(f"--gpu {name}: not known", f"one of {', '.join(GPUS)}", f"did you mean {near[0]}?" if near else "")
    sheet, of = GPUS[key], REACHED["products"] * 1e12
    return Machine(
        name=sheet.name,
        memory=sheet.memory * MIB,
        free=sheet.memory * MIB,
        fixed=GPU_FIXED,
        kept=GPU_KEPT,
        holes=0.0,
        products={torch.bfloat16: sheet.bfloat16 * of, torch.float32: sheet.float32 * of},
        bandwidth=sheet.bandwidth * 1e9 * REACHED["bandwidth"],
        call=GPU_CALL,
        tokens=DEVICE_TOKENS,
        measured=False,
    )


def here() -> Machine:
    """This machine's processors, measured for about two seconds; its own memory, and what is free of it."""
    best_matmul()
    memory, free = host_memory()
    return Machine(
        name=f"this machine, {torch.get_num_threads()} threads",
        memory=memory,
        free=free,
        fixed=CPU_FIXED,
        kept=1.0,
        holes=CPU_HOLES,
        products={torch.float32: products(torch.float32), torch.bfloat16: products(torch.bfloat16)},
        bandwidth=bandwidth(),
        call=call(),
        tokens=CPU_TOKENS,
        measured=True,
    )


def started(machine: Machine) -> Machine:
    """The machine once more, when a run's libraries are loaded and its data read: this process then is as large as a run's."""
    return replace(machine, fixed=resident() + CPU_FIXED) if machine.measured else machine


def resident() -> int:
    """Bytes of this process in memory: torch, transformers and all else that a run has loaded too."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 450 * 2**20


def products(precision: torch.dtype) -> float:
    """Operations a second in products of the size that a small model has."""
    a, b = torch.randn(1280, 512).to(precision), torch.randn(512, 2048).to(precision)
    return 2 * 1280 * 512 * 2048 / fastest(lambda: a @ b)


def bandwidth() -> float:
    """Bytes a second, read and written, of an addition that no cache holds."""
    a, b = torch.randn(2, 2**23)
    return 2 * a.nbytes / fastest(lambda: torch.add(a, 1.0, out=b))


def call() -> float:
    """Seconds that an operation of a small model takes, where nothing has to be computed, with all of Python around it."""
    config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=2)
    model, ids = LlamaForCausalLM(config), torch.zeros(1, 8, dtype=torch.int64)

    def step() -> Tensor:
        loss: Tensor = model(input_ids=ids, use_cache=False).logits.sum()
        loss.backward()
        return loss

    with _Count() as count:
        step()
    return fastest(step) / count.operations


class _Count(TorchDispatchMode):
    """How many operations were carried out inside."""

    operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.operations += 1
        return func(*args, **(kwargs or {}))


def fastest(work: Callable[[], Any], budget: float = 0.4) -> float:
    """Seconds of the quickest of several calls: what else the machine does only slows one down."""
    best, begun = float("inf"), time.perf_counter()
    while time.perf_counter() - begun < budget:
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best
