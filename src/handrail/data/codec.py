"""The single way from records to tokens: training, scoring, sampling and evaluation all go through a `Codec`.

    prompt ids    = [beginning-of-sequence] + template(messages, ready for the assistant)
    response ids  = encode(text) + [end_id]

The two are always encoded apart, so that a response has the same tokens wherever it is met.

An encoder-decoder reads them apart, each as the tokenizer frames a text by itself (T5: text </s>, BART: <s> text </s>):

    prompt ids    = before + template(messages, ready for the assistant) + after
    response ids  = before + encode(text) + [end_id]
"""

import re
from typing import TYPE_CHECKING, Literal

from handrail.errors import DataError, ModelError
from handrail.records import Message, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Side = Literal["text", "text_target"]  # some tokenizers read what is given in another way than what is answered

_LABELS = {"user": "Human:\n", "assistant": "Assistant:\n", "system": ""}
# Private-use characters that a template passes on, in whitespace of a kind that no template writes by itself.
_MARK = "\x1f\ue000{}\ue001\x1f"
_MARKED = re.compile("(\x1f?)\ue000(\\d+)\ue001(\x1f?)")


class Codec:
    """A tokenizer with its chat template, or plain text where it has none.

    Special tokens that stand in a message or a response are kept as text.  Raises ModelError when nothing could end
    a response, or when `template` is "chat" and the tokenizer has none.
    """

    tokenizer: "PreTrainedTokenizerBase"
    end_id: int  # ends every response that we encode: the template's end of turn, else end-of-sequence
    end_ids: list[int]  # whatever ends a response that was sampled

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", template: Literal["auto", "chat", "plain"] = "auto"):
        if template == "chat" and not tokenizer.chat_template:
            raise ModelError(
                "the tokenizer has no chat template",
                "template 'chat' needs one",
                "use template 'plain', or set `chat_template` in the model's tokenizer_config.json",
            )
        self.tokenizer = tokenizer
        self.chat = template == "chat" or (template == "auto" and bool(tokenizer.chat_template))
        added = tokenizer.added_tokens_decoder
        special = {str(token) for token in added.values() if token.special} | set(tokenizer.all_special_tokens)
        self._special = re.compile("|".join(re.escape(text) for text in sorted(special, key=len, reverse=True)) or r"(?!)")
        self._bos = tokenizer.bos_token_id
        self._adds_bos = self._bos is not None and tokenizer("a").input_ids[:1] == [self._bos]
        self._apart = bool(getattr(tokenizer, "is_encoder_decoder", False))  # as `load_tokenizer` found it
        self._before, self._after = self._frame("text") if self._apart else ([], [])
        self._response_side: Side = "text_target" if self._apart else "text"
        self._opening = self._frame("text_target")[0] if self._apart else []
        self.end_ids = self._find_ends(set(added) | set(tokenizer.all_special_ids))
        self.end_id = self.end_ids[0]
        # no token stands for more characters than its own name has, so a text has at least length / longest tokens
        self.longest_token = max(map(len, tokenizer.get_vocab()), default=1)

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """The tokens that stand before a response: template with the assistant's opening, or plain text.

        Raises DataError when the template refuses the conversation or the prompt has no token at all.
        """
        ids = self._chat_ids(prompt) if self.chat else self._text(plain(prompt.messages))
        starts = self._adds_bos if self.chat else self._bos is not None
        if self._apart:
            ids = ids if ids[: len(self._before)] == self._before else self._before + ids  # a template may have put it there
            ids = ids if ids[len(ids) - len(self._after) :] == self._after else ids + self._after
        elif starts and ids[:1] != [self._bos]:
            ids = [self._bos, *ids]
        if not ids:
            raise DataError(
                f"prompt {prompt.id} is empty, and the tokenizer has no beginning-of-sequence token",
                "at least one token before a response",
                "remove the record, or use a tokenizer with a bos_token",
            )
        return ids

    def encode_response(self, text: str, end: bool) -> list[int]:
        """The tokens of a response, with `end_id` after them if it ended."""
        return self._opening + self._text(text, self._response_side) + [self.end_id] * end

    def decode(self, ids: list[int]) -> str:
        """The text of a response: up to its end token, without special tokens."""
        stop = next((i for i, token in enumerate(ids) if token in self.end_ids), len(ids))
        return str(self.tokenizer.decode(ids[:stop], skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def pieces(self, ids: list[int]) -> list[str]:
        """The text of each token, for display; together they are the whole text.

        A character that takes several tokens stands at the last of them.
        """
        texts: list[str] = []
        before: list[int] = []
        pending: list[int] = []
        for place, token in enumerate(ids, start=1):
            pending.append(token)
            text = self._show(before + pending)
            if text.endswith("\ufffd") and place < len(ids):
                texts.append("")
                continue
            texts.append(text[len(self._show(before)) :])
            before, pending = pending, []
        return texts

    def _show(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _text(self, text: str, side: Side = "text") -> list[int]:
        given = {side: text, "add_special_tokens": False, "split_special_tokens": True, "verbose": False}
        return self.tokenizer(**given).input_ids if text else []

    def _frame(self, side: Side) -> tuple[list[int], list[int]]:
        """What the tokenizer puts before and after a text that stands alone."""
        framed, bare = self.tokenizer(**{side: "a"}).input_ids, self._text("a", side)
        start = next(i for i in range(len(framed)) if framed[i : i + len(bare)] == bare)
        return framed[:start], framed[start + len(bare) :]

    def _template(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids if text else []

    def _render(self, messages: list[dict[str, str]], ready: bool) -> str:
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ready))

    def _chat_ids(self, prompt: Prompt) -> list[int]:
        contents = [m.content for m in prompt.messages]
        typed = any(self._special.search(content) for content in contents)
        shown = [_MARK.format(i) for i in range(len(contents))] if typed else contents
        messages = [{"role": m.role, "content": content} for m, content in zip(prompt.messages, shown, strict=True)]
        try:
            rendered = self._render(messages, ready=True)
        except Exception as error:  # a template is a program of its own: it raises what it likes
            raise DataError(
                f"the chat template refuses prompt {prompt.id} with the roles {', '.join(m.role for m in prompt.messages)}: {error}",
                "conversations that the model's template can write",
                "change or remove the record, or use template 'plain'",
            ) from error
        return self._around(rendered, contents) if typed else self._template(rendered)

    def _around(self, rendered: str, contents: list[str]) -> list[int]:
        """Tokens of a rendering with marks: special ones are read in the template's text, never in the contents."""
        ids: list[int] = []
        position = 0
        for mark in _MARKED.finditer(rendered):
            content = contents[int(mark[2])]
            content = content if mark[1] else content.lstrip()  # the template trims
            content = content if mark[3] else content.rstrip()
            ids += self._template(rendered[position : mark.start()]) + self._text(content)
            position = mark.end()
        return ids + self._template(rendered[position:])

    def _find_ends(self, special_ids: set[int]) -> list[int]:
        ends = [self.tokenizer.eos_token_id]
        if self.chat:
            ends.insert(0, self._end_of_turn(special_ids))
        found = list(dict.fromkeys(token for token in ends if token is not None))
        if not found:
            raise ModelError(
                "the tokenizer has no end-of-sequence token, and no chat template that ends a turn with a special token",
                "a token that ends a response",
                "set `eos_token` in the model's tokenizer_config.json to a token that the model knows",
            )
        return found

    def _end_of_turn(self, special_ids: set[int]) -> int | None:
        try:
            turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _MARK.format(1)}]
            rendered = self._render(turns, ready=False)
        except Exception as error:  # as above
            raise ModelError(
                f"the chat template does not run: {error}",
                "a template for a user's and an assistant's turn",
                "use template 'plain', or mend `chat_template` in the model's tokenizer_config.json",
            ) from error
        mark = next(_MARKED.finditer(rendered), None)
        after = self._template(rendered[mark.end() :].lstrip()) if mark else []
        return after[0] if after and after[0] in special_ids else None


def plain(messages: tuple[Message, ...]) -> str:
    """A conversation as plain text, for models without a chat template.

    A single message is its own text.  Otherwise each turn stands under a line `Human:` or `Assistant:`, the system's
    first and without one, with an empty line between turns and the line `Assistant:` at the end.
    """
    if len(messages) == 1:
        return messages[0].content
    turns = [_LABELS[m.role] + m.content for m in messages]
    return "\n\n".join([*turns, _LABELS["assistant"]])
