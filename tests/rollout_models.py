"""Tiny random models of every architecture, and what they say by Transformers' own means."""

from copy import deepcopy

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

V, CONTEXT, ENDS = 61, 64, [1, 5, 6]
SPECIALS = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
SIZES = {"vocab_size": V, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4} | SPECIALS
SIZES |= {"max_position_embeddings": CONTEXT}
GROUPED = SIZES | {"num_key_value_heads": 2}
CONFIGS = {
    "llama": LlamaConfig(**GROUPED),
    "qwen2": Qwen2Config(**GROUPED),
    "qwen2-window": Qwen2Config(**GROUPED, use_sliding_window=True, sliding_window=5, max_window_layers=1),
    "qwen3": Qwen3Config(**GROUPED, head_dim=8),
    "gpt2": GPT2Config(vocab_size=V, n_positions=CONTEXT, n_embd=16, n_layer=2, n_head=4, **SPECIALS),
    "gpt_neox": GPTNeoXConfig(**SIZES),
    "mistral": MistralConfig(**GROUPED, sliding_window=None),
    "mistral-window": MistralConfig(**GROUPED, sliding_window=5),
    "gemma": GemmaConfig(**GROUPED, head_dim=8),
    "gemma2": Gemma2Config(**GROUPED, head_dim=8, sliding_window=5),
    "gemma3": Gemma3TextConfig(**GROUPED, head_dim=8, sliding_window=5),
    "opt": OPTConfig(
        vocab_size=V, hidden_size=16, word_embed_proj_dim=16, ffn_dim=32, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=CONTEXT, **SPECIALS,
    ),
    "phi": PhiConfig(**SIZES),
    "phi3": Phi3Config(**GROUPED, sliding_window=5),
}  # fmt: skip


def random_model(name: str, dtype: torch.dtype = torch.float32, scale: float = 0.5) -> PreTrainedModel:
    """Weights so wide that a wrong position or a wrong neighbour changes the answer."""
    torch.manual_seed(0)
    hf = AutoModelForCausalLM.from_config(deepcopy(CONFIGS[name])).to(dtype).eval()
    for parameter in hf.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=scale)
    return hf


def random_prompts(count: int = 11, longest: int = 20, seed: int = 1) -> list[list[int]]:
    """Prompts of mixed lengths, two of them equal."""
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest, (count,), generator=g).tolist()
    prompts = [torch.randint(3, V, (length,), generator=g).tolist() for length in lengths]
    prompts[3 % count] = prompts[7 % count]
    return prompts


@torch.no_grad()
def greedy_by_transformers(hf: PreTrainedModel, prompt: list[int], tokens: int) -> list[int]:
    """One prompt alone, no padding, through `generate`."""
    out = hf.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=tokens, eos_token_id=ENDS, pad_token_id=0)
    return out[0, len(prompt) :].tolist()


@torch.no_grad()
def law_after(hf: PreTrainedModel, prompt: list[int], response: list[int]) -> Tensor:
    """[T, V] logits that each response token was drawn from, by one plain forward without a cache."""
    return hf(torch.tensor([prompt + response]), use_cache=False).logits[0, len(prompt) - 1 : -1]
