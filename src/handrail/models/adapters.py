"""Low-rank adapters through PEFT, inside the model itself: its modules keep their names."""

import copy
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from handrail.errors import ModelError
from handrail.models.settings import Lora

if TYPE_CHECKING:
    from peft import LoraConfig

PREFIX = "base_model.model."  # before every name in PEFT's own files


def base_of(hf: Any) -> PreTrainedModel:
    """The Transformers model itself, out of PEFT's wrapper where it has one."""
    return hf if isinstance(hf, PreTrainedModel) else hf.get_base_model()


def lora_layers(module: nn.Module) -> dict[str, Any]:
    """The layers that carry adapters, by name."""
    if not any(hasattr(m, "lora_A") for m in module.modules()):
        return {}  # and PEFT need not be imported
    from peft.tuners.lora import LoraLayer

    return {name: m for name, m in module.named_modules() if isinstance(m, LoraLayer)}


def adapter_of(module: nn.Module) -> str:
    """The name of the adapter that is active, or nothing."""
    layers = lora_layers(module)
    return next(iter(layers.values())).active_adapters[0] if layers else ""


def lora_config(lora: Lora, base: str | None) -> "LoraConfig":
    """PEFT's config for our settings."""
    from peft import LoraConfig

    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=lora.targets,
        base_model_name_or_path=base,
    )


def add_adapter(model: PreTrainedModel, config: "LoraConfig", name: str) -> None:
    """Put a fresh adapter, of no effect yet, into the model; everything else of it is frozen."""
    from peft import inject_adapter_in_model

    config = copy.deepcopy(config)
    config.fan_in_fan_out = any(isinstance(m, Conv1D) for m in model.modules())  # GPT-2 keeps its weights transposed
    config.task_type = "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several roles on one trunk are meant
            inject_adapter_in_model(config, model, name)
    except ValueError as error:
        raise ModelError(f"lora.targets: {config.target_modules}: {error}", "names of linear layers, or all-linear") from None


def adapter_tensors(module: nn.Module, adapter: str) -> dict[str, Tensor]:
    """The weights of one adapter, by their names without its own name in them."""
    mark = f".{adapter}."
    return {n.replace(mark, "."): p.detach() for n, p in module.named_parameters() if ".lora_" in n and mark in n}


@torch.no_grad()
def fill_adapter(module: nn.Module, adapter: str, tensors: dict[str, Tensor]) -> None:
    """Copy weights into an adapter.  Raises ModelError where names or shapes differ."""
    own = adapter_tensors(module, adapter)
    if own.keys() != tensors.keys() or any(own[n].shape != tensors[n].shape for n in own):
        raise ModelError("an adapter for other layers or of another rank", f"the {len(own)} weights of this model's adapter")
    for name, weight in own.items():
        weight.copy_(tensors[name])


def save_adapter(module: PreTrainedModel, name: str, folder: Path) -> None:
    """One adapter as PEFT keeps it: `PeftModel.from_pretrained` reads the folder."""
    folder.mkdir(parents=True)
    config = copy.deepcopy(module.peft_config[name])
    config.inference_mode = True
    config.save_pretrained(str(folder))
    tensors = {PREFIX + n: p.cpu().contiguous() for n, p in adapter_tensors(module, name).items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def read_adapter(folder: Path) -> tuple["LoraConfig", dict[str, Tensor]]:
    """What `save_adapter` wrote."""
    from peft import LoraConfig

    config = LoraConfig.from_pretrained(str(folder))
    config.inference_mode = False
    tensors = load_file(folder / "adapter_model.safetensors")
    return config, {n.removeprefix(PREFIX): p for n, p in tensors.items()}


def merged(model: PreTrainedModel, adapter: str) -> PreTrainedModel:
    """The model itself where it has no adapter; else a copy in which this one is part of the weights, without any other."""
    if not lora_layers(model):
        return model
    model = copy.deepcopy(model)
    for name, layer in lora_layers(model).items():
        layer.merge(adapter_names=[adapter])
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())
    del model.peft_config
    return model.requires_grad_(True)
