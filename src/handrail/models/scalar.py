"""A critic or a reward model: a trunk and a linear head that gives one number a token, or several that are made to one."""

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file

from handrail.batch import Sequences
from handrail.errors import ModelError
from handrail.models.adapters import adapter_of, base_of, merged, save_adapter
from handrail.models.encoder_decoder import EncoderDecoderForSequenceClassification, forward_of, trunk_of
from handrail.models.forward import Forward, Read
from handrail.models.heads import Heads
from handrail.models.language import spread, with_prompts
from handrail.models.load import check_origin, complete, origin, prepared, reading
from handrail.models.settings import Combine, ModelSettings
from handrail.models.tokenizer import pad_id
from handrail.models.weights import base_identity, freeze, is_adapter, load_owned, state_of, trainable, write_folder

if TYPE_CHECKING:
    from peft import PeftModel

REFERENCE = "reference.safetensors"  # outputs of several heads on responses of the model that a policy starts from


class ScalarModel:
    """A trunk with a linear head.  What it returns is (head(h) - mean) / std, float32.

    With several outputs (an ensemble, several criteria) `heads` says what they are and makes one number of them, and
    that one is normalised.

    With `adapter` it is one of several roles on one trunk, and owns that adapter and its head; with another role's
    `forward`, it is a head on that role's hidden states.
    """

    def __init__(
        self,
        hf: PreTrainedModel,
        autocast: bool = False,
        compiled: bool = False,
        adapter: str = "",
        forward: Forward | None = None,
        heads: Heads | None = None,
    ):
        self.hf, self.autocast, self.compiled, self.adapter = hf, autocast, compiled, adapter
        self.forward = forward or forward_of(hf.base_model, hf.config, autocast, compiled, adapter)
        self.head: nn.Linear = hf.score  # type: ignore[assignment]
        self.heads = heads or Heads()
        kept = getattr(hf.config, "handrail", None) or {}
        self.mean, self.std = float(kept.get("mean", 0.0)), float(kept.get("std", 1.0))

    @classmethod
    def from_causal(
        cls,
        hf: "PreTrainedModel | PeftModel",
        head: Literal["zero", "normal"],
        autocast: bool = False,
        compiled: bool = False,
        heads: Heads | None = None,
    ) -> "ScalarModel":
        """A copy of a language model's trunk, adapters included, under a new head.

        The head starts from N(0, 1 / (d + 1)), d the width of the trunk, for a reward model (Stiennon et al. 2020,
        appendix B.1), each output from its own draw, or from zeros for a critic.
        """
        causal, heads = base_of(hf), heads or Heads()
        return cls(classifier(causal, copy.deepcopy(trunk_of(causal)), head, heads.count), autocast, compiled, heads=heads)

    @classmethod
    def from_scalar(cls, other: "ScalarModel") -> "ScalarModel":
        """A trainable copy with one head and std folded into it: a critic whose first value is the reward model's score.

        Of an ensemble by another rule than the mean, it is the score that the mean would give.
        """
        hf, (weight, mean) = copy.deepcopy(other.hf), other.one_head()
        hf.score, hf.config.num_labels = linear(weight), 1
        hf.config.handrail = {"mean": mean, "std": 1.0}
        model = cls(hf, other.autocast, other.compiled)
        adapted = bool(adapter_of(model.hf))
        for name, parameter in model.hf.named_parameters():
            parameter.requires_grad_(not adapted or is_adapter(name) or name.startswith("score."))
        return model

    @classmethod
    def load(cls, settings: ModelSettings) -> "ScalarModel":
        """From a folder of `AutoModelForSequenceClassification` with one output, or those that `save` wrote.  Raises ModelError."""
        name = check_origin(settings)
        config = reading(settings, lambda: AutoConfig.from_pretrained(name, **origin(settings)))
        kinds = config.architectures or ["a model of no known kind"]
        kept = getattr(config, "handrail", None) or {}
        heads = Heads.read(kept, None)
        if "SequenceClassification" not in kinds[0] or config.num_labels != heads.count:
            raise ModelError(
                f"{settings.path}: {kinds[0]}" + (f" with {config.num_labels} outputs" if "SequenceClassification" in kinds[0] else ""),
                f"a reward model: a sequence classifier with {'one output' if heads.count == 1 else f'the {heads.count} that it names'}",
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
        return cls(hf, settings.autocast, settings.compile, heads=heads_of(settings, name, kept))

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

    def head_values(self, sequences: Sequences) -> tuple[Tensor, Tensor]:
        """[B, T, H] and [B, H]: `values` of each head."""
        return values(self.forward, self.read_heads, sequences)

    def head_scores(self, sequences: Sequences) -> Tensor:
        """[B, H]: the score of each head, what `combined` and `by_criterion` make one of."""
        return score(self.forward, self.read_heads, sequences)

    def judged(self, sequences: Sequences) -> tuple[Tensor, dict[str, Tensor]]:
        """[B] `score`, and [B] what is worth a curve beside it, by name."""
        scores = self.head_scores(sequences)
        return self.combined(scores), self.heads.components(scores)

    def combined(self, scores: Tensor) -> Tensor:
        """[...] the score from those of the heads, [..., H]."""
        return (self.heads.total(scores) - self.mean) / self.std

    def by_criterion(self, scores: Tensor) -> Tensor:
        """[..., C] the score by each criterion from those of the heads, [..., H]."""
        return self.heads.by_criterion(scores) if len(self.heads.criteria) > 1 else self.combined(scores)[..., None]

    def units(self) -> Tensor:
        """[C] what one of `by_criterion` is in the unit that the heads were trained in, on their mean."""
        scale = self.heads.scale if len(self.heads.criteria) > 1 else torch.tensor([self.std])
        return scale * self.heads.apart(self.heads.std).mean(-1)

    def normalise(self, outputs: Tensor) -> None:
        """From here on every head, every criterion and the score have mean 0 and deviation 1 on responses with these.

        Args:
            outputs: [R, H] of the heads as they were trained.
        """
        outputs = outputs.float().cpu()
        self.heads = Heads(self.heads.criteria, self.heads.members, self.heads.combine, outputs)
        self.mean, self.std = self.heads.moments(outputs)

    def combine_by(self, combine: Combine) -> Self:
        """Another way to make one score of the heads, normalised on the same responses.  Raises ConfigError."""
        self.heads = self.heads.combined_by(combine)
        if self.heads.reference is not None:
            self.mean, self.std = self.heads.moments(self.heads.reference)
        return self

    def one_head(self) -> tuple[Tensor, float]:
        """[1, d] and a mean: the head whose value less the mean is the score, or what the score would be by the mean."""
        heads, mean, std, reference = self.heads, self.mean, self.std, self.heads.reference
        if reference is not None:
            heads = heads.combined_by(heads.combine.model_copy(update={"rule": "mean"}))
            mean, std = heads.moments(reference)
        share, less = heads.linear()
        weight = self.head.weight.detach()
        return (share.to(weight)[:, None] * weight).sum(0, keepdim=True) / std, (less + mean) / std

    def read(self, read: Read) -> Tensor:
        """[N] the number at each place, normalised."""
        return self.combined(self.read_heads(read))

    def read_heads(self, read: Read) -> Tensor:
        """[N, H] each head's number at each place, normalised where there are several."""
        with self.forward.precision():
            outputs = self.head(read.output)
        return self.heads.normalised(outputs.float())

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
        """A folder that `AutoModelForSequenceClassification` reads, its logits being the heads' before normalisation.

        With an encoder, only `EncoderDecoderForSequenceClassification` does; `AutoModel` reads the trunk.
        Transformers reads the score at the last token that is not `pad_token_id`, so that one must not end a
        response: the tokenizer's padding token where that is another than its end, else the unknown token, else the
        last number of the vocabulary.  mean and std stand in config.json under "handrail"; of several heads, so does
        what they are, and the outputs that they are normalised on in a file of their own.  An adapter is merged in, and
        kept in `adapter/` with the head, and the base's identity beside mean and std.
        """
        with write_folder(folder) as target:
            adapter = self.forward.adapter or adapter_of(self.hf)
            plain, config = merged(self.hf, adapter), copy.deepcopy(self.hf.config)
            if not config.is_encoder_decoder:  # whose padding token may be what its decoder starts with
                config.pad_token_id = pad_id(tokenizer, config.vocab_size)
            config.architectures = [type(self.hf).__name__]
            kept: dict[str, Any] = {"mean": self.mean, "std": self.std, **self.heads.kept()}
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
            if self.heads.reference is not None:
                save_file({"outputs": self.heads.reference.contiguous()}, target / REFERENCE)


def values(forward: Forward, head: Any, sequences: Sequences) -> tuple[Tensor, Tensor]:
    """[B, T, ...] what `head` says at the token before each response token, and [B, ...] at the last."""
    with_prompts(sequences)
    sequences = sequences.to(forward.device)
    if not len(sequences):
        return torch.zeros(0, 0, device=forward.device), torch.zeros(0, device=forward.device)
    parts = [(head(r), r.rows, r.columns) for r in forward(sequences, sequences.prompt_lengths - 1, sequences.lengths)]
    found, rows, columns = (torch.cat(x) for x in zip(*parts, strict=True))
    last = columns == sequences.lengths[rows] - 1
    after = found.new_zeros(len(sequences), *found.shape[1:]).index_put((rows[last],), found[last])
    return spread(sequences, [(found[~last], rows[~last], columns[~last])]), after


def score(forward: Forward, head: Any, sequences: Sequences) -> Tensor:
    """[B, ...] what `head` says at the last token of each sequence."""
    sequences = sequences.to(forward.device)
    if not len(sequences):
        return torch.zeros(0, device=forward.device)
    parts = [(head(r), r.rows) for r in forward(sequences, sequences.lengths - 1, sequences.lengths)]
    found, rows = (torch.cat(x) for x in zip(*parts, strict=True))
    return found.new_zeros(len(sequences), *found.shape[1:]).index_put((rows,), found)


def heads_of(settings: ModelSettings, name: str, kept: dict[str, Any]) -> Heads:
    """What the outputs of the model in a folder or on the hub are, from its config and `REFERENCE`.  Raises ModelError."""
    heads = Heads.read(kept, None)
    if heads.count == 1:
        return heads
    file = reading(settings, lambda: cached_file(name, REFERENCE, revision=settings.revision or None))
    return Heads.read(kept, reading(settings, lambda: load_file(file)["outputs"]))


def linear(weight: Tensor) -> nn.Linear:
    """A linear layer without bias that has this weight, and a gradient."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device=weight.device, dtype=weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer


def classifier(causal: PreTrainedModel, trunk: nn.Module, head: Literal["zero", "normal"], outputs: int = 1) -> PreTrainedModel:
    """The classifier of a language model's architecture over this trunk, with a new head.  Raises ModelError."""
    config = copy.deepcopy(causal.config)
    config.num_labels = outputs
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
    model.score = nn.Linear(width, outputs, bias=False, device=weight.device, dtype=weight.dtype)
    if head == "normal":
        nn.init.normal_(model.score.weight, std=(width + 1) ** -0.5)
    else:
        nn.init.zeros_(model.score.weight)
    if adapter_of(trunk):
        model.peft_config = copy.deepcopy(causal.peft_config)
    return model.train(causal.training)
