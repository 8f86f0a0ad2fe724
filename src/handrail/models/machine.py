"""The machine: which device, and the fastest exact matrix product."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def device() -> torch.device:
    """CUDA where there is one, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def count_parameters(model: nn.Module, trainable: bool = False) -> int:
    """How many numbers the model holds; tied weights count once.  With `trainable`, those that are trained."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable)


def host_memory() -> tuple[int, int]:
    """Bytes that this machine has, or the container that this process is in; and that are free, as far as the system tells."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free = total
    try:
        known = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(known["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass
    try:
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
        total, free = min(total, limit), min(free, limit - used)
    except (OSError, ValueError):  # no container, or one without a limit
        pass
    return total, free


SHAPES = ((512, 192, 2048), (96, 512, 512), (1, 256, 1024), (512, 1365, 512))  # rows, inner, columns


def _products() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    pairs: list[tuple[Tensor, Tensor]] = []
    for rows, inner, columns in SHAPES:
        a = torch.randn(rows, inner, generator=generator)
        pairs.append((a, torch.randn(inner, columns, generator=generator)))
        pairs.append((a, torch.randn(columns, inner, generator=generator).T))  # as a linear layer has it
        pairs.append((a.T, torch.randn(rows, columns, generator=generator)))  # as the gradient of its weight
    return pairs


def _worst_error(pairs: list[tuple[Tensor, Tensor]]) -> float:
    """Largest error of a float32 product against float64, relative to the product's largest entry.

    Infinite where the same product twice differs in a bit.
    """
    worst = 0.0
    for a, b in pairs:
        exact, found = a.double() @ b.double(), a @ b
        if not torch.equal(found, a @ b):
            return float("inf")
        worst = max(worst, float((found - exact).abs().max() / exact.abs().max()))
    return worst


def best_matmul(limit: float = 1e-5) -> str:
    """Let oneDNN do float32 products on a CPU where it stays float32-accurate; returns what was done, for the log.

    oneDNN's mode named "bf16" permits bfloat16 products.  Some processors (AMD's) answer with float32 results at
    twice the speed of the default, others (with AMX) with bfloat16 ones: so the error is measured against float64
    first, and a second run must give the same bits.  Otherwise the default stays.
    """
    if device().type != "cpu" or not torch.backends.mkldnn.is_available():
        return "matrix products: the default"
    # A kernel is made for each shape that is met, and half a MiB of it kept: of oneDNN's own 1,024 of them, sampling alone,
    # whose rows become fewer one by one, fills most.  With 128 a run is a fifth smaller and no slower.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    settings: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before, settings.fp32_precision = settings.fp32_precision, "bf16"
    error = _worst_error(_products())
    if error < limit:
        return f"matrix products: oneDNN, largest error {error:.1e}"
    settings.fp32_precision = before
    return f"matrix products: the default; oneDNN's error would be {error:.1e}"
