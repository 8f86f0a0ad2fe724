"""A critic or a reward model: a trunk and a linear head that gives one number a token."""

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from handrail.batch import Sequences
from handrail.errors import ModelError
from handrail.models.adapters import adapter_of, base_of, merged, save_adapter
from handrail.models.encoder_decoder import EncoderDecoderForSequenceClassification, forward_of, trunk_of
from handrail.models.forward import Forward, Read
from handrail.models.language import spread, with_prompts
from handrail.models.load import check_origin, complete, origin, prepared, reading
from handrail.models.settings import ModelSettings
from handrail.models.tokenizer import pad_id
from handrail.models.weights import base_identity, freeze, is_adapter, load_owned, state_of, trainable, write_folder

if TYPE_CHECKING:
    from peft import PeftModel


class ScalarModel:
    """A trunk with a linear head of one output.  What it returns is (head(h) - mean) / std, float32.

    With `adapter` it is one of several roles on one trunk, and owns that adapter and its head; with another role's
    `forward`, it is a head on that role's hidden states.
    """

    def __init__(
        self, hf: PreTrainedModel, autocast: bool = False, compiled: bool = False, adapter: str = "", forward: Forward | None = None
    ):
        self.hf, self.autocast, self.compiled, self.adapter = hf, autocast, compiled, adapter
        self.forward = forward or forward_of(hf.base_model, hf.config, autocast, compiled, adapter)
        self.head: nn.Linear = hf.score  # type: ignore[assignment]
        kept = getattr(hf.config, "handrail", None) or {}
        self.mean, self.std = float(kept.get("mean", 0.0)), float(kept.get("std", 1.0))

    @classmethod
    def from_causal(
        cls, hf: "PreTrainedModel | PeftModel", head: Literal["zero", "normal"], autocast: bool = False, compiled: bool = False
    ) -> "ScalarModel":
        """A copy of a language model's trunk, adapters included, under a new head.

        The head starts from N(0, 1 / (d + 1)), d the width of the trunk, for a reward model (Stiennon et al. 2020,
        appendix B.1), or from zeros for a critic.
        """
        causal = base_of(hf)
        return cls(classifier(causal, copy.deepcopy(trunk_of(causal)), head), autocast, compiled)

    @classmethod
    def from_scalar(cls, other: "ScalarModel") -> "ScalarModel":
        """A trainable copy, with std folded into the head: a critic whose first value is the reward model's score."""
        model = cls(copy.deepcopy(other.hf), other.autocast, other.compiled)
        adapted = bool(adapter_of(model.hf))
        for name, parameter in model.hf.named_parameters():
            parameter.requires_grad_(not adapted or is_adapter(name) or name.startswith("score."))
        with torch.no_grad():
            model.head.weight /= other.std
        model.mean, model.std = other.mean / other.std, 1.0
        return model

    @classmethod
    def load(cls, settings: ModelSettings) -> "ScalarModel":
        """From a folder of `AutoModelForSequenceClassification` with one output.  Raises ModelError."""
        name = check_origin(settings)
        config = reading(settings, lambda: AutoConfig.from_pretrained(name, **origin(settings)))
        kinds = config.architectures or ["a model of no known kind"]
        if "SequenceClassification" not in kinds[0] or config.num_labels != 1:
            raise ModelError(
                f"{settings.path}: {kinds[0]}" + (f" with {config.num_labels} outputs" if "SequenceClassification" in kinds[0] else ""),
                "a reward model: a sequence classifier with one output",
                "train one with `handrail reward`",
            )
        ours = EncoderDecoderForSequenceClassification
        if config.is_encoder_decoder and kinds[0] != ours.__name__:
            raise ModelError(
                f"{settings.path}: {kinds[0]}, which reads one text, without telling a prompt from a response",
                f"of models with an encoder: {ours.__name__}",
                "train one with `handrail reward`",
            )
        auto: Any = ours if config.is_encoder_decoder else AutoModelForSequenceClassification
        given = {"config": config, "dtype": getattr(torch, settings.dtype), "use_safetensors": True, **origin(settings)}
        hf, info = reading(settings, lambda: auto.from_pretrained(name, output_loading_info=True, **given))
        complete(settings, info)
        if not isinstance(getattr(hf, "score", None), nn.Linear):
            raise ModelError(f"{settings.path}: {kinds[0]} has no linear head named score", "a decoder with a linear head")
        hf = prepared(hf, settings.model_copy(update={"lora": None}))  # adapters are for what trains from a language model
        return cls(hf, settings.autocast, settings.compile)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.forward.device

    @property
    def context(self) -> int:
        """Tokens that the model can read."""
        return self.forward.context

    def values(self, sequences: Sequences) -> tuple[Tensor, Tensor]:
        """[B, T] V(x, y_<t), read at the token before y_t, zeros beyond; and [B] V after the last token."""
        return values(self.forward, self.read, sequences)

    def score(self, sequences: Sequences) -> Tensor:
        """[B] the score of each whole response, read at its last real token, which the lengths tell."""
        return score(self.forward, self.read, sequences)

    def read(self, read: Read) -> Tensor:
        """[N] the head's number at each place, normalised."""
        with self.forward.precision():
            raw = self.head(read.output)[:, 0]
        return (raw.float() - self.mean) / self.std

    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by stable name."""
        return trainable(self.hf, self.adapter)

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint: adapters and head where there are adapters, else all parameters."""
        return state_of(self.hf, self.adapter)

    def load_state(self, state: dict[str, Tensor]) -> None:
        """What `state` returned.  Raises ModelError where a name or a shape differs."""
        load_owned(self.hf, state, self.adapter)

    def freeze(self) -> Self:
        """Never trained from here on; dropout off."""
        freeze(self.hf, self.adapter)
        return self

    def save(self, folder: str | Path, tokenizer: PreTrainedTokenizerBase) -> None:
        """A folder that `AutoModelForSequenceClassification` reads, its logit being the score before normalisation.

        With an encoder, only `EncoderDecoderForSequenceClassification` does; `AutoModel` reads the trunk.
        Transformers reads the score at the last token that is not `pad_token_id`, so that one must not end a
        response: the tokenizer's padding token where that is another than its end, else the unknown token, else the
        last number of the vocabulary.  mean and std stand in config.json under "handrail".  An adapter is merged in,
        and kept in `adapter/` with the head, and the base's identity beside mean and std.
        """
        with write_folder(folder) as target:
            adapter = self.forward.adapter or adapter_of(self.hf)
            plain, config = merged(self.hf, adapter), copy.deepcopy(self.hf.config)
            if not config.is_encoder_decoder:  # whose padding token may be what its decoder starts with
                config.pad_token_id = pad_id(tokenizer, config.vocab_size)
            config.architectures = [type(self.hf).__name__]
            kept: dict[str, Any] = {"mean": self.mean, "std": self.std}
            if adapter:
                kept["base"] = base_identity(self.hf.base_model)
                save_adapter(self.hf, adapter, target / "adapter")
                save_file({"weight": self.head.weight.detach().cpu().contiguous()}, target / "adapter" / "head.safetensors")
            config.handrail = kept
            before, plain.config = plain.config, config
            try:
                plain.save_pretrained(target)
            finally:
                plain.config = before
            tokenizer.save_pretrained(target)


def values(forward: Forward, head: Any, sequences: Sequences) -> tuple[Tensor, Tensor]:
    """[B, T] what `head` says at the token before each response token, and [B] at the last."""
    with_prompts(sequences)
    sequences = sequences.to(forward.device)
    if not len(sequences):
        return torch.zeros(0, 0, device=forward.device), torch.zeros(0, device=forward.device)
    parts = [(head(r), r.rows, r.columns) for r in forward(sequences, sequences.prompt_lengths - 1, sequences.lengths)]
    found, rows, columns = (torch.cat(x) for x in zip(*parts, strict=True))
    last = columns == sequences.lengths[rows] - 1
    after = found.new_zeros(len(sequences)).index_put((rows[last],), found[last])
    return spread(sequences, [(found[~last], rows[~last], columns[~last])]), after


def score(forward: Forward, head: Any, sequences: Sequences) -> Tensor:
    """[B] what `head` says at the last token of each sequence."""
    sequences = sequences.to(forward.device)
    if not len(sequences):
        return torch.zeros(0, device=forward.device)
    parts = [(head(r), r.rows) for r in forward(sequences, sequences.lengths - 1, sequences.lengths)]
    found, rows = (torch.cat(x) for x in zip(*parts, strict=True))
    return found.new_zeros(len(sequences)).index_put((rows,), found)


def classifier(causal: PreTrainedModel, trunk: nn.Module, head: Literal["zero", "normal"]) -> PreTrainedModel:
    """The classifier of a language model's architecture over this trunk, with a new head of one output.  Raises ModelError."""
    config = copy.deepcopy(causal.config)
    config.num_labels = 1
    kind = EncoderDecoderForSequenceClassification if config.is_encoder_decoder else AutoModelForSequenceClassification.from_config
    try:
        with torch.device("meta"):
            model: Any = kind(config)
    except ValueError:
        raise ModelError(
            f"{type(causal).__name__}: Transformers has no classifier of this architecture", "Llama, Qwen, Mistral, Gemma, GPT-2 and others"
        ) from None
    setattr(model, model.base_model_prefix, trunk)
    weight, width = next(causal.parameters()), causal.get_output_embeddings().weight.shape[1]
    model.score = nn.Linear(width, 1, bias=False, device=weight.device, dtype=weight.dtype)
    if head == "normal":
        nn.init.normal_(model.score.weight, std=(width + 1) ** -0.5)
    else:
        nn.init.zeros_(model.score.weight)
    if adapter_of(trunk):
        model.peft_config = copy.deepcopy(causal.peft_config)
    return model.train(causal.training)
