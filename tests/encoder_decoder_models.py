"""Tiny random encoder-decoders with their tokenizers, and what they say by Transformers' own means."""

from copy import deepcopy
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import (
    AutoModelForSeq2SeqLM,
    BartConfig,
    MarianConfig,
    MBartConfig,
    MT5Config,
    PegasusConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    UMT5Config,
)

from handrail.batch import Sequences

PAD, END, UNKNOWN, BEGIN = range(4)
V, CONTEXT = 300, 64
SPECIALS = {"pad_token_id": PAD, "eos_token_id": END}
T5 = SPECIALS | {"vocab_size": V, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": PAD}
BART = SPECIALS | {
    "vocab_size": V, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": CONTEXT, "bos_token_id": BEGIN, "decoder_start_token_id": END,
}  # fmt: skip
CONFIGS = {
    "t5": T5Config(**T5),
    "flan-t5": T5Config(**T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "mt5": MT5Config(**T5),
    "umt5": UMT5Config(**T5),
    "bart": BartConfig(**BART),
    "mbart": MBartConfig(**BART),
    "pegasus": PegasusConfig(**{**BART, "decoder_start_token_id": PAD}),
    "marian": MarianConfig(**{**BART, "decoder_start_token_id": PAD}),
}


def random_model(name: str, dtype: torch.dtype = torch.float32, scale: float = 0.2, attention: str = "sdpa") -> PreTrainedModel:
    """Weights so wide that a wrong position or a wrong neighbour changes the answer."""
    torch.manual_seed(0)
    hf = AutoModelForSeq2SeqLM.from_config(deepcopy(CONFIGS[name]), attn_implementation=attention).to(dtype).eval()
    for parameter in hf.parameters():
        if parameter.ndim > 1 and parameter.requires_grad:  # sinusoids stay what they are
            torch.nn.init.normal_(parameter, std=scale)
    if getattr(hf, "final_logits_bias", None) is not None:
        torch.nn.init.normal_(hf.final_logits_bias)
    return hf


def by_definition(hf: PreTrainedModel) -> PreTrainedModel:
    """The same model with attention as plain products, which none of our own code touches."""
    other = deepcopy(hf)
    other.set_attn_implementation("eager")
    assert {m.config._attn_implementation for m in (other, other.get_encoder(), other.get_decoder())} == {"eager"}
    return other


def law_of(hf: PreTrainedModel, prompt: list[int], response: list[int]) -> Tensor:
    """[T, V] logits of a response, by the library's forward of one sequence without padding."""
    fed = [hf.config.decoder_start_token_id, *response[:-1]]
    return hf(input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([fed]), use_cache=False).logits[0]


def some(pairs: list[tuple[int, int]], seed: int = 0) -> Sequences:
    """Random sequences of so many tokens in (prompt, response)."""
    g = torch.Generator().manual_seed(seed)
    return Sequences.of([tuple(torch.randint(4, V, (n,), generator=g).tolist() for n in pair) for pair in pairs])  # type: ignore[misc]


def new_tokenizer(kind: str, texts: list[str], vocabulary: int = V) -> PreTrainedTokenizerFast:
    """A byte-level BPE that frames a text as T5's tokenizer does (text </s>) or as BART's (<s> text </s>)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = ["<pad>", "</s>", "<unk>", "<s>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=names, initial_alphabet=alphabet, show_progress=False)
    )
    frame = "<s> $A </s>" if kind == "bart" else "$A </s>"
    tokenizer.post_processor = processors.TemplateProcessing(single=frame, special_tokens=[("<s>", BEGIN), ("</s>", END)])
    beginning = {"bos_token": "<s>"} if kind == "bart" else {}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", **beginning)


def write_model(kind: str, folder: Path, texts: list[str], vocabulary: int = V, context: int = CONTEXT) -> Path:
    """A folder such as the hub has, with a generation config full of other people's wishes."""
    torch.manual_seed(0)
    config = deepcopy(CONFIGS[kind])
    config.vocab_size = vocabulary
    if hasattr(config, "max_position_embeddings"):
        config.max_position_embeddings = context
    hf = AutoModelForSeq2SeqLM.from_config(config).eval()
    wishes = {"num_beams": 4, "no_repeat_ngram_size": 2, "min_length": 6, "forced_bos_token_id": BEGIN, "forced_eos_token_id": END}
    hf.generation_config.update(**wishes, length_penalty=2.0, repetition_penalty=1.5, early_stopping=True)
    hf.save_pretrained(folder)
    new_tokenizer(kind, texts, vocabulary).save_pretrained(folder)
    return folder
