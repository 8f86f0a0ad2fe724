"""A real model so small that its responses can be counted: a transformer over five tokens, its tokenizer, two prompts.

Nothing in it is a stand-in: files on disk, Transformers, the engine and the recipe as they are for any model.
"""

import hashlib
from itertools import product
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from handrail.data import write_records
from handrail.models import NewModel, new_model
from handrail.recipes.ppo_parts import PPO
from handrail.records import Prompt

VOCABULARY = ["</s>", "<s>", "a", "b", "c"]
END = 0
PROMPTS = ["a", "b c a"]
SIZES = NewModel(hidden=32, layers=1, heads=2, context=16, tie_embeddings=False)


def score(prompts: list[list[dict[str, str]]], responses: list[str]) -> list[float]:
    """What a response is worth: a number in [0, 2) that looks random and depends on prompt and response alone."""

    def one(prompt: str, response: str) -> float:
        return hashlib.sha256(f"{prompt}|{response}".encode()).digest()[0] / 128

    return [one(messages[-1]["content"], response) for messages, response in zip(prompts, responses, strict=True)]


def tokenizer() -> PreTrainedTokenizerFast:
    """A token a word; the token that ends a response also pads, as in many models."""
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(VOCABULARY)}, unk_token="a"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", pad_token="</s>")


def make(folder: Path) -> None:
    """`model/` with weights so wide that no two places are alike, and `prompts.jsonl`."""
    words = tokenizer()
    torch.manual_seed(0)
    model = new_model(SIZES, words)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.25)
    model.save_pretrained(folder / "model")
    words.save_pretrained(folder / "model")
    write_records(folder / "prompts.jsonl", [Prompt.of(text) for text in PROMPTS])


def responses(longest: int) -> list[tuple[int, ...]]:
    """Every response of at most so many tokens."""
    words = range(1, len(VOCABULARY))
    ended = [(*words_before, END) for length in range(longest) for words_before in product(words, repeat=length)]
    return ended + list(product(words, repeat=longest))


def settings(folder: Path, out: Path, **over: Any) -> PPO:
    """PPO on the files of `make`, in the way in which it comes close to the best policy."""
    base: dict[str, Any] = {"out": str(out), "policy": {"path": str(folder / "model")}, "prompts": {"path": str(folder / "prompts.jsonl")}}
    base |= {"template": "plain", "reward": {"function": f"{__name__}:score", "end_penalty": 0.5}, "sampling": {"max_new_tokens": 2}}
    base |= {"kl": {"beta": 0.5}, "batch_size": 512, "steps": 150, "epochs": 2, "warmup": 0, "lr": 3e-4, "critic_lr": 1e-3}
    return PPO.model_validate(base | {"run": {"trace_every": 0}} | over)
