"""Tokenizers: a new one from texts, one from a folder or the hub, and whether two have the same vocabulary."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from handrail.errors import ModelError

PAD, END, SYSTEM, USER, ASSISTANT = SPECIAL = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def new_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most `vocabulary` tokens (fewer where the texts give no more), with a chat template.

    Every stretch of text gets one space in front when it is encoded, and loses one when it is decoded: a word is the
    same token at the beginning of a message as within it, and decode(encode(x)) == x for any text.  There is no
    beginning-of-sequence token: the token of the first role stands first.  The same texts give the same tokenizer.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Prepend(" ")
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        padding_side="right",
    )


def same_vocabulary(a: PreTrainedTokenizerBase, b: PreTrainedTokenizerBase) -> None:
    """Nothing where both turn the same text into the same numbers.  Raises ModelError with the first difference."""
    first, second = a.get_vocab(), b.get_vocab()
    if first == second:
        return
    token = min((t for t in first.keys() | second.keys() if first.get(t) != second.get(t)), key=lambda t: first.get(t, len(first)))
    raise ModelError(
        f"two models with different vocabularies: {a.name_or_path or 'the first'} has {len(first)} tokens, "
        f"{b.name_or_path or 'the second'} {len(second)}; "
        f"{token!r} is number {first.get(token)} in one and {second.get(token)} in the other",
        "models that read the same tokens have the same vocabulary",
        "train the reward model from the same model as the policy",
    )


def pad_id(tokenizer: PreTrainedTokenizerBase, size: int) -> int:
    """A token that may stand for padding and ends no response.

    It matters to others only: a saved classifier is read by Transformers at the last token that is not this one.
    Without a padding token of its own: the unknown token, else the last of the `size` numbers of the vocabulary.
    """
    for candidate in (tokenizer.pad_token_id, tokenizer.unk_token_id):
        if candidate is not None and candidate != tokenizer.eos_token_id:
            return candidate
    return size - 1
