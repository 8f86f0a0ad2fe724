"""Encoder-decoders, such as T5 and BART: the prompt goes to the encoder, the response to the decoder.

    sequence   a b c X Y       encoder  a b c       decoder  S X Y
    column     0 1 2 3 4                0 1 2                2 3 4

S is the model's `decoder_start_token_id`.  It stands at the column of the prompt's last token: what is said of the first
response token is read there, as in a model without an encoder, and so recipes need not know which kind they train.

Sequences are padded on the right and never joined: T5's attention knows distances within a row alone.  The decoder looks
back only, so nothing masks its padding; the encoder's is masked by lengths.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from handrail.batch import Sequences
from handrail.errors import ModelError
from handrail.models.forward import Forward, Read, close, compile_for_all_shapes, without_numbers
from handrail.models.grouping import ranges


def forward_of(module: nn.Module, config: Any, autocast: bool = False, compiled: bool = False, adapter: str = "") -> Forward:
    """The way through a model that suits its kind."""
    kind = EncoderDecoderForward if config.is_encoder_decoder else Forward
    return kind(module, config, autocast, compiled, adapter)


@dataclass(frozen=True, slots=True)
class Placed:
    """Sequences for one forward, and the N places that are read from what the decoder says."""

    given: Tensor  # [P, S] prompts
    seen: Tensor  # [P, S] 1 where a token stands
    prompt_of: Tensor  # [R] which prompt is each response's
    fed: Tensor  # [R, W] what the decoder reads
    at: Tensor  # [N] int64, places in the R * W tokens
    rows: Tensor  # [N] int64, sequence that each place belongs to
    columns: Tensor  # [N] int64, token of that sequence


class EncoderDecoderForward(Forward):
    """Encodes each prompt, decodes its responses, and reads the decoder's last hidden states."""

    def __init__(self, module: nn.Module, config: Any, autocast: bool = False, compiled: bool = False, adapter: str = ""):
        super().__init__(module, config, autocast, False, adapter)
        self.start = decoder_start(config, module)
        encoder, decoder = module.get_encoder(), module.get_decoder()  # type: ignore[operator]
        self.encode, self.decode = (compile_for_all_shapes(part, self.device) if compiled else part for part in (encoder, decoder))

    @property
    def shares(self) -> bool:
        """Whether a prompt is encoded once for all its responses; off the CPU, sums of their gradients have no fixed order."""
        return self.device.type == "cpu"

    def place(self, sequences: Sequences, members: Tensor, first: Tensor, stop: Tensor) -> Placed:
        """What the encoder and the decoder are given of some of the sequences."""
        given, seen, prompt_of = self._prompts(sequences, members)
        fed = self._responses(sequences, members, stop)
        reader, columns = ranges(first[members], stop[members])
        at = reader * fed.shape[1] + columns - (sequences.prompt_lengths[members][reader] - 1)
        return Placed(given, seen, prompt_of, fed, at, members[reader], columns)

    def through(self, together: Placed) -> Read:
        """Encode the prompts and decode the responses."""
        seen, prompt_of = together.seen, together.prompt_of
        with self.precision(), self.activated(), self.checkpointed():
            states = self.encode(input_ids=together.given, attention_mask=seen).last_hidden_state
            hidden = self.decode(
                input_ids=together.fed,
                encoder_hidden_states=states.index_select(0, prompt_of),  # sums gradients in a fixed order
                encoder_attention_mask=seen[prompt_of],
                use_cache=False,
            ).last_hidden_state
        return Read(hidden.flatten(0, 1).index_select(0, together.at), together.rows, together.columns)

    def _prompts(self, sequences: Sequences, members: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[P, S] prompts, different ones where they are shared; [P, S] 1 where a token stands; [R] which is each member's."""
        lengths = sequences.prompt_lengths[members]
        place = torch.arange(int(lengths.max()), device=self.device)
        seen = (place < lengths[:, None]).long()
        given = sequences.ids[members, : len(place)] * seen
        if not self.shares:
            return given, seen, torch.arange(len(members), device=self.device)
        number: dict[tuple[int, ...], int] = {}
        keys = [tuple(row[:length]) for row, length in zip(given.tolist(), lengths.tolist(), strict=True)]
        prompt_of = [number.setdefault(key, len(number)) for key in keys]
        one_of_each = [prompt_of.index(n) for n in range(len(number))]
        return given[one_of_each], seen[one_of_each], torch.tensor(prompt_of, device=self.device)

    def _responses(self, sequences: Sequences, members: Tensor, stop: Tensor) -> Tensor:
        """[R, W] what the decoder is fed: its start token, then the response, as far as anything is read."""
        prompts, lengths = sequences.prompt_lengths[members, None], sequences.lengths[members, None]
        width = max(1, int((stop[members] - prompts[:, 0] + 1).max()))
        column = prompts - 1 + torch.arange(width, device=self.device)
        token = sequences.ids[members].gather(1, column.clamp(max=sequences.ids.shape[1] - 1))
        fed = torch.where(column < lengths, token, 0)
        fed[:, 0] = self.start
        return fed

    def _may_join(self) -> bool:
        return False


def decoder_start(config: Any, module: nn.Module) -> int:
    """The token that the decoder is fed before the first of a response.  Raises ModelError where the config names none."""
    start: int | None = getattr(config, "decoder_start_token_id", None)
    if start is None:
        raise ModelError(
            f"{type(module).__name__}: its config has no decoder_start_token_id",
            "an encoder-decoder whose config says with which token the decoder starts",
            "set decoder_start_token_id in config.json, for T5 to pad_token_id, for BART to eos_token_id",
        )
    return start


class Logits(nn.Module):
    """The head of a language model on its decoder's hidden states: a linear layer, with BART's bias or T5's scale."""

    def __init__(self, causal: PreTrainedModel, scale: float):
        super().__init__()
        self.head: nn.Module = causal.get_output_embeddings()
        self.bias: Tensor | None = getattr(causal, "final_logits_bias", None)
        self.scale = scale

    def forward(self, hidden: Tensor) -> Tensor:
        """[N, V] from [N, H]."""
        logits: Tensor = self.head(hidden if self.scale == 1.0 else hidden * self.scale)
        return logits if self.bias is None else logits + self.bias


@torch.no_grad()
def logits_of(causal: PreTrainedModel, forward: Forward) -> Logits:
    """The head, as it gives on a short sequence what the whole model gives.  Raises ModelError where none does.

    Some of T5's kin scale what goes into the head by 1 / sqrt(H), and their configs say so in different ways.
    """
    if without_numbers(causal):
        return Logits(causal, 1.0)
    was_training = causal.training
    causal.eval()
    try:
        prompt = torch.arange(5) * 7 % causal.config.vocab_size
        sequences = Sequences.of([(prompt.tolist(), prompt[1:].tolist())])
        (read,) = forward(sequences, sequences.prompt_lengths - 1, sequences.lengths - 1)
        fed = torch.tensor([[decoder_start(causal.config, causal), *prompt[1:-1].tolist()]], device=forward.device)
        with forward.precision(), forward.activated():
            whole = causal(input_ids=prompt[None].to(forward.device), decoder_input_ids=fed, use_cache=False).logits[0]
            limit = 1e-4 if whole.dtype == torch.float32 and not forward.autocast else 0.1
            for head in (Logits(causal, 1.0), Logits(causal, causal.config.hidden_size**-0.5)):
                if close(head(read.output), whole, limit):
                    return head
    except (AttributeError, TypeError, ValueError, NotImplementedError):  # a model of another build
        pass
    finally:
        causal.train(was_training)
    raise ModelError(
        f"{type(causal).__name__}: an encoder-decoder whose parts do not add up to its own logits",
        "one with a linear head on the decoder: T5, mT5, Flan-T5, BART, mBART, Pegasus, Marian and others",
        "take a model of one of these families",
    )


def trunk_of(causal: PreTrainedModel) -> PreTrainedModel:
    """Embeddings and layers without the head.  T5's language model holds them itself: here they get a model of their own."""
    if causal.base_model is not causal or not causal.config.is_encoder_decoder:
        return causal.base_model  # type: ignore[return-value]
    with torch.device("meta"):
        trunk: PreTrainedModel = AutoModel.from_config(causal.config)
    for name, part in causal.named_children():
        if hasattr(trunk, name):
            setattr(trunk, name, part)
    return trunk.train(causal.training)


class EncoderDecoderForSequenceClassification(PreTrainedModel):
    """An encoder-decoder with a linear head of one output on its decoder's states: a reward model, or a critic.

    The classifiers of Transformers read one text, which they give to encoder and decoder alike, through two layers: they
    cannot hold a function of a prompt and a response.
    """

    _supports_sdpa = True

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        trunk = AutoModel.from_config(config)
        self.base_model_prefix = trunk.base_model_prefix  # so that AutoModel reads the trunk of a saved one
        setattr(self, self.base_model_prefix, trunk)
        self.score = nn.Linear(config.hidden_size, 1, bias=False)
        self.post_init()
