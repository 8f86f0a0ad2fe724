"""Tiny tokenizers of the kinds that are met: with and without chat template, pad, end and beginning of sequence."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

ROLES = ["<|system|>", "<|user|>", "<|assistant|>"]
OWN = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
BEGINS = "{{ bos_token }}" + OWN
TRIMS = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>\n\n{{ m['content'] | trim }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n\n{% endif %}"
)
SPACED = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<|user|> {{ m['content'] | trim }} <|assistant|>"
    "{% else %} {{ m['content'] | trim }} {{ eos_token }}{% endif %}{% endfor %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + OWN
TEXTS = [
    "the cat sat on the mat and said hello to the world",
    "a film about a dog, please",
    "Human: Assistant: \n\n",
    "naïve café 🙂 日本語",
]


def byte_level(
    template: str | None = OWN, bos: str | None = None, eos: str | None = "<|end|>", pad: str | None = None, adds_bos: bool = False
) -> PreTrainedTokenizerFast:
    """Byte-level BPE of about 320 tokens; `adds_bos` lets it write a beginning of sequence by itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = list(dict.fromkeys([name for name in (pad, bos, eos, "<|end|>", *ROLES) if name]))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=330, special_tokens=names, initial_alphabet=alphabet))
    return _finished(tokenizer, template, bos, eos, pad, adds_bos)


def sentence_pieces(template: str | None = None) -> PreTrainedTokenizerFast:
    """Pieces with a mark for spaces and bytes for unknown characters, in the manner of Llama 2; it adds <s> by itself."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    names = ["<unk>", "<s>", "</s>", *ROLES, *[f"<0x{byte:02X}>" for byte in range(256)]]
    tokenizer.train_from_iterator(TEXTS[:2], trainers.BpeTrainer(vocab_size=340, special_tokens=names[:6]))
    vocabulary = {**{name: i for i, name in enumerate(names)}}
    learned = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]) if token not in vocabulary]
    vocabulary |= {token: len(vocabulary) + i for i, token in enumerate(learned)}
    tokenizer.model = models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>")
    tokenizer.add_special_tokens(names[:6])
    return _finished(tokenizer, template, "<s>", "</s>", None, True)


def _finished(
    tokenizer: Tokenizer, template: str | None, bos: str | None, eos: str | None, pad: str | None, adds_bos: bool
) -> PreTrainedTokenizerFast:
    if adds_bos and bos:
        tokenizer.post_processor = processors.TemplateProcessing(f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, extra_special_tokens=ROLES)
    wrapped.bos_token, wrapped.eos_token, wrapped.pad_token, wrapped.chat_template = bos, eos, pad, template
    return wrapped
