"""What is trained, what a checkpoint holds, and folders that appear whole or not at all."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from handrail.errors import ModelError


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name belongs to a low-rank adapter."""
    return ".lora_" in name


def owned(module: nn.Module, adapter: str = "") -> dict[str, nn.Parameter]:
    """What a role may train and a checkpoint holds, by name.

    Every parameter; of a module with adapters, these and the scalar head; with `adapter`, only that one and the head.
    """
    named = dict(module.named_parameters())
    adapters = [name for name in named if is_adapter(name)]
    if not adapters and not adapter:
        return named
    mark = f".{adapter}." if adapter else ""
    return {name: p for name, p in named.items() if name.startswith("score.") or (is_adapter(name) and mark in name)}


def trainable(module: nn.Module, adapter: str = "") -> dict[str, nn.Parameter]:
    """Those of `owned` that have a gradient."""
    return {name: p for name, p in owned(module, adapter).items() if p.requires_grad}


def state_of(module: nn.Module, adapter: str = "") -> dict[str, Tensor]:
    """`owned`, detached, not copied."""
    return {name: p.detach() for name, p in owned(module, adapter).items()}


@torch.no_grad()
def load_owned(module: nn.Module, state: dict[str, Tensor], adapter: str = "") -> None:
    """Copy what `state_of` returned into the module.  Raises ModelError where a name or a shape differs."""
    own = state_of(module, adapter)
    wrong = sorted(own.keys() ^ state.keys()) or [n for n, p in own.items() if p.shape != state[n].shape]
    if wrong:
        raise ModelError(f"a state whose parameter '{wrong[0]}' does not fit this model", f"{len(own)} parameters of the same shapes")
    for name, parameter in own.items():
        parameter.copy_(state[name])


def freeze(module: nn.Module, adapter: str = "") -> None:
    """Evaluation mode, and nothing that the role owns has a gradient."""
    module.eval()
    for parameter in owned(module, adapter).values():
        parameter.requires_grad_(False)
    if not adapter:
        module.requires_grad_(False)


def check_finite(module: nn.Module, source: str) -> None:
    """Raises ModelError with the first parameter that holds NaN or infinity."""
    for name, parameter in module.named_parameters():
        if not torch.isfinite(parameter).all():
            raise ModelError(
                f"{source}: the weights '{name}' hold NaN or infinity", "finite weights", "take an earlier checkpoint of this model"
            )


def base_identity(trunk: nn.Module) -> str:
    """SHA-256 over the names and bytes of a trunk's parameters, adapters left out."""
    digest = hashlib.sha256()
    for name, parameter in sorted((n.replace(".base_layer", ""), p) for n, p in trunk.named_parameters() if not is_adapter(n)):
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode())
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextmanager
def write_folder(folder: str | Path) -> Iterator[Path]:
    """A folder beside the wanted one to write into; it takes the wanted one's place when all is written."""
    folder = Path(folder)
    fresh, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    for left in (fresh, old):
        shutil.rmtree(left, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        yield fresh
        if folder.exists():
            os.replace(folder, old)
        os.replace(fresh, folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
