"""Hugging Face backbones, adapters, scalar heads, token log-probabilities, save and load.

Names are found on first use, so that the settings can be imported without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from handrail.models.settings import Combine, Lora, ModelSettings, NewModel

if TYPE_CHECKING:
    from handrail.models.attribution import mean_embedding, token_attributions
    from handrail.models.grouping import groups
    from handrail.models.heads import Heads
    from handrail.models.language import LanguageModel
    from handrail.models.load import load_causal, load_tokenizer, new_model, resolve
    from handrail.models.machine import best_matmul, count_parameters, device
    from handrail.models.relaxed import relaxed_score, token_logits
    from handrail.models.scalar import ScalarModel
    from handrail.models.tokenizer import new_tokenizer, same_vocabulary
    from handrail.models.trunk import OneTrunk

_HOME = {
    "LanguageModel": "language",
    "ScalarModel": "scalar",
    "OneTrunk": "trunk",
    "Heads": "heads",
    "groups": "grouping",
    "load_causal": "load",
    "load_context": "load",
    "load_tokenizer": "load",
    "new_model": "load",
    "resolve": "load",
    "mean_embedding": "attribution",
    "token_attributions": "attribution",
    "best_matmul": "machine",
    "count_parameters": "machine",
    "device": "machine",
    "new_tokenizer": "tokenizer",
    "relaxed_score": "relaxed",
    "token_logits": "relaxed",
    "same_vocabulary": "tokenizer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'handrail.models' has no attribute '{name}'")
    return getattr(import_module(f"handrail.models.{_HOME[name]}"), name)


__all__ = [
    "Combine",
    "Heads",
    "LanguageModel",
    "Lora",
    "ModelSettings",
    "NewModel",
    "OneTrunk",
    "ScalarModel",
    "best_matmul",
    "count_parameters",
    "device",
    "groups",
    "load_causal",
    "load_context",
    "load_tokenizer",
    "mean_embedding",
    "new_model",
    "new_tokenizer",
    "relaxed_score",
    "resolve",
    "same_vocabulary",
    "token_attributions",
    "token_logits",
]
