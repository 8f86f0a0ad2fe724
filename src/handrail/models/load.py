"""Models from a run folder, a folder or the hub, and new ones."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from handrail.config import is_local, nearby
from handrail.errors import ModelError
from handrail.models.adapters import add_adapter, lora_config
from handrail.models.forward import context_of, recompute_layers
from handrail.models.machine import device
from handrail.models.settings import ModelSettings, NewModel
from handrail.models.weights import check_finite

logging.disable_progress_bar()  # ours tell more


def resolve(path: str | Path) -> str:
    """A run folder becomes its model's folder; another folder stays; anything else is a name on the hub."""
    folder = Path(path).expanduser()
    if (folder / "model" / "config.json").is_file():
        return str(folder / "model")
    return str(folder) if folder.exists() else str(path)


def load_tokenizer(settings: ModelSettings) -> PreTrainedTokenizerBase:
    """The tokenizer of a model; as `is_encoder_decoder` it knows whether that has an encoder.  Raises ModelError."""
    name = check_origin(settings)
    config = reading(settings, lambda: AutoConfig.from_pretrained(name, **origin(settings)))
    tokenizer = reading(settings, lambda: AutoTokenizer.from_pretrained(name, **origin(settings)))
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ModelError(f"{settings.path}: there is no tokenizer", "a tokenizer beside the model")
    tokenizer.is_encoder_decoder = bool(config.is_encoder_decoder)  # type: ignore[attr-defined]
    return tokenizer


def load_context(settings: ModelSettings) -> int:
    """How many tokens a model takes, without reading a weight.  Raises ModelError."""
    name = check_origin(settings)
    return context_of(reading(settings, lambda: AutoConfig.from_pretrained(name, **origin(settings))))


def load_causal(settings: ModelSettings) -> PreTrainedModel:
    """A language model on the device, with a fresh adapter where `lora` is given.  Raises ModelError."""
    name = check_origin(settings)
    config = reading(settings, lambda: AutoConfig.from_pretrained(name, **origin(settings)))
    kinds = config.architectures or []
    if any("Classification" in kind for kind in kinds):
        raise ModelError(
            f"{settings.path}: a model that gives scores ({kinds[0]})",
            "a model that writes text",
            "reward models belong under reward.model",
        )
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    hf, info = reading(
        settings,
        lambda: auto.from_pretrained(
            name, dtype=getattr(torch, settings.dtype), use_safetensors=True, output_loading_info=True, **origin(settings)
        ),
    )
    complete(settings, info)
    return prepared(hf, settings)


def new_config(settings: NewModel, tokenizer: PreTrainedTokenizerBase) -> LlamaConfig:
    """What a new model for a tokenizer is."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden,
        intermediate_size=settings.feed_forward,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        max_position_embeddings=settings.context,
        tie_word_embeddings=settings.tie_embeddings,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def new_model(settings: NewModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A model of random weights for a tokenizer.  Torch's random state decides them: seed it before."""
    return LlamaForCausalLM(new_config(settings, tokenizer)).to(device()).eval()  # type: ignore[arg-type]


def prepared(hf: PreTrainedModel, settings: ModelSettings) -> PreTrainedModel:
    """Checked for NaN, on the device, in evaluation mode, with adapter and checkpointing as asked for."""
    check_finite(hf, settings.path)
    hf = hf.to(device()).eval()  # type: ignore[arg-type]
    if settings.lora:
        add_adapter(hf, lora_config(settings.lora, settings.path), "default")
    if settings.gradient_checkpointing:
        recompute_layers(hf)
    return hf


def origin(settings: ModelSettings) -> dict[str, Any]:
    """Which revision, and whether its code may run."""
    return {"revision": settings.revision or None, "trust_remote_code": settings.trust_remote_code}


def check_origin(settings: ModelSettings) -> str:
    """The folder or hub name to load from.  Raises ModelError for what can be seen without reading a weight."""
    if not settings.path:
        raise ModelError("no model: path is empty", "a run folder, a folder with a model, or a hub name", "set model.path")
    if settings.trust_remote_code and not settings.revision:
        raise ModelError(
            f"{settings.path}: trust_remote_code without a revision",
            "code of others runs only at a fixed revision",
            "set model.revision to a commit, or trust_remote_code to false",
        )
    name = resolve(settings.path)
    folder = Path(name)
    if not folder.exists():
        if is_local(settings.path):
            found = f"{settings.path}: there is no such folder"
            raise ModelError(found, "a run folder, a folder with a model, or a hub name", nearby(settings.path))
        return name
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{settings.path}: no config.json, so no model is in this folder",
            "a run folder with model/ inside, or a folder that holds config.json and *.safetensors",
            "did the run that should write it finish?" if (folder / "config.yaml").exists() else _inside(folder),
        )
    if not list(folder.glob("*.safetensors")):
        pickles = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in folder.glob(pattern))
        raise ModelError(
            f"{settings.path}: the weights are {'pickles (' + pickles[0] + ')' if pickles else 'missing'}",
            "weights in *.safetensors; a pickle can run any code when it is opened",
            "convert them with safetensors in a place that you trust" if pickles else "",
        )
    return name


def _inside(folder: Path) -> str:
    """The models that write, of a round whose folder was given instead of theirs."""
    configs = [config for config in folder.glob("round-*/*/model/config.json") if "Classification" not in config.read_text()]
    found = sorted(str(config.parents[1]) for config in configs if ".before-" not in config.parents[1].name)
    return f"this is a round; its models are {', '.join(found)}" if found else ""


def reading(settings: ModelSettings, read: Callable[[], Any]) -> Any:
    """What `read` returns, with the library's faults as ModelError."""
    try:
        return read()
    except SafetensorError as error:
        raise ModelError(
            f"{settings.path}: a weights file is damaged or cut off: {error}", "complete *.safetensors files", "copy the model again"
        ) from None
    except (OSError, ValueError, KeyError, HFValidationError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "trust_remote_code" in str(error):
            remedy = "set model.trust_remote_code and model.revision, if you have read that code"
        elif Path(resolve(settings.path)).exists():
            remedy = "check that the folder is complete"
        else:
            offline = os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0")
            remedy = "HF_HUB_OFFLINE is set: use a local folder" if offline else "check the name and the network, or use a local folder"
        raise ModelError(
            f"{settings.path}: cannot be loaded: {first}", "a run folder, a folder with a model, or a hub name", remedy
        ) from None


def complete(settings: ModelSettings, info: dict[str, Any]) -> None:
    """Raises ModelError where weights are missing or have another shape than the config says."""
    for fault in ("missing_keys", "mismatched_keys"):
        names = sorted(str(k) for k in info.get(fault, ()))
        if names:
            raise ModelError(
                f"{settings.path}: {len(names)} weights are {fault.split('_')[0]}, the first is {names[0]}",
                "all weights that the config asks for",
                "copy the model again",
            )
