"""A policy or a reference: log-probabilities of response tokens."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from handrail.batch import Sequences
from handrail.errors import ModelError
from handrail.models.adapters import adapter_of, base_of, merged, save_adapter
from handrail.models.encoder_decoder import forward_of, logits_of
from handrail.models.forward import Read, close, without_numbers
from handrail.models.load import load_causal
from handrail.models.settings import ModelSettings
from handrail.models.weights import freeze, load_owned, state_of, trainable, write_folder

if TYPE_CHECKING:
    from peft import PeftModel

HEAD_NUMBERS = 2**26  # logits at once, 256 MiB of float32


class LanguageModel:
    """A language model that scores responses.  All tensors are [B, T] float32 over response tokens.

    With `adapter` it is one of several roles on one trunk: that adapter is at work in its forwards, and is all that
    it trains, keeps and saves.
    """

    critic: Callable[[Read], Tensor] | None = None  # a head on this model's own hidden states

    def __init__(self, hf: "PreTrainedModel | PeftModel", autocast: bool = False, compiled: bool = False, adapter: str = ""):
        self.hf, self.autocast, self.adapter = hf, autocast, adapter
        self.causal = base_of(hf)
        self.trunk: nn.Module = self.causal.base_model
        self.forward = forward_of(self.trunk, self.causal.config, autocast, compiled, adapter)
        self.project: nn.Module
        if self.causal.config.is_encoder_decoder:
            self.project, self.splits = logits_of(self.causal, self.forward), True
        else:
            self.project = self.causal.get_output_embeddings()
            self.splits = self._splits()
        if not self.splits:
            self.project = nn.Identity()
            self.forward = forward_of(self.causal, self.causal.config, autocast, compiled, adapter)

    @classmethod
    def load(cls, settings: ModelSettings) -> "LanguageModel":
        """From a folder or the hub, in the way that the settings say.  Raises ModelError."""
        return cls(load_causal(settings), settings.autocast, settings.compile)

    @classmethod
    def load_reference(cls, settings: ModelSettings) -> "LanguageModel":
        """What a policy with these settings starts as, frozen: without the adapters that it is to train.  Raises ModelError."""
        return cls.load(settings.model_copy(update={"lora": None})).freeze()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.forward.device

    @property
    def context(self) -> int:
        """Tokens that the model can read."""
        return self.forward.context

    def logp(self, sequences: Sequences, temperature: float = 1.0) -> Tensor:
        """[B, T] log pi(y_t | x, y_<t) in nats, of the law at `temperature`; zeros beyond each response.

        Carries a gradient where gradients are enabled.  Raises ModelError for a sequence longer than the context.
        """
        return self._law(sequences, temperature, entropy=False)[0]

    def logp_and_entropy(self, sequences: Sequences, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """`logp`, and [B, T] the entropy in nats of the law that each token was drawn from."""
        logp, entropy = self._law(sequences, temperature, entropy=True)
        return logp, entropy

    def logp_entropy_values(self, sequences: Sequences, temperature: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
        """`logp_and_entropy`, and [B, T] values of the critic that is a head on this model, all from one forward."""
        if self.critic is None or not self.splits:
            raise ModelError("a policy without a critic on its own hidden states", "roles one_trunk_shared, of a model with a plain head")
        sequences = sequences.to(self.device)
        reads = list(self.scored(sequences))
        laws = [self.law(r, sequences.ids, temperature, entropy=True) for r in reads]
        parts = ([p for p, _ in laws], [h for _, h in laws], [self.critic(r) for r in reads])
        logp, entropy, values = (spread(sequences, [(x, r.rows, r.columns) for x, r in zip(part, reads, strict=True)]) for part in parts)
        return logp, entropy, values

    @torch.no_grad()
    def likeliest(self, sequences: Sequences, count: int, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """[B, T, count] nats and [B, T, count] ids: the likeliest tokens at each place, the likeliest first."""
        sequences = sequences.to(self.device)
        found = []
        for read in self.scored(sequences):
            with self.forward.precision():
                laws = (torch.log_softmax(self.project(h).float() / temperature, -1) for h in read.output.split(64))
                best = [law.topk(min(count, law.shape[1])) for law in laws]  # at most two laws [64, vocabulary] at a time
            found.append((torch.cat([b.values for b in best]), torch.cat([b.indices for b in best]), read.rows, read.columns))
        return (
            spread(sequences, [(logp, rows, columns) for logp, _, rows, columns in found]),
            spread(sequences, [(ids, rows, columns) for _, ids, rows, columns in found]),
        )

    def activated(self) -> AbstractContextManager:
        """Inside, the model's own `forward` is this role's: its adapter is at work."""
        return self.forward.activated()

    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by stable name."""
        return trainable(self.causal, self.adapter)

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint: the adapters where there are some, else all parameters."""
        return state_of(self.causal, self.adapter)

    def load_state(self, state: dict[str, Tensor]) -> None:
        """What `state` returned.  Raises ModelError where a name or a shape differs."""
        load_owned(self.causal, state, self.adapter)

    def freeze(self) -> Self:
        """Never trained from here on; dropout off."""
        freeze(self.causal, self.adapter)
        return self

    def save(self, folder: str | Path, tokenizer: PreTrainedTokenizerBase) -> None:
        """A folder that Transformers' auto classes read; an adapter is merged in, and kept in `adapter/`."""
        with write_folder(folder) as target:
            adapter = self.adapter or adapter_of(self.causal)
            plain = merged(self.causal, adapter)
            if plain.generation_config is not None:
                plain.generation_config.eos_token_id = tokenizer.eos_token_id
                plain.generation_config.pad_token_id = tokenizer.pad_token_id
            plain.save_pretrained(target)
            tokenizer.save_pretrained(target)
            if adapter:
                save_adapter(self.causal, adapter, target / "adapter")

    def scored(self, sequences: Sequences) -> Iterator[Read]:
        """The output at the places that predict response tokens.  Raises ModelError for an empty prompt."""
        with_prompts(sequences)
        return self.forward(sequences, sequences.prompt_lengths - 1, sequences.lengths - 1)

    def _law(self, sequences: Sequences, temperature: float, entropy: bool) -> tuple[Tensor, Tensor]:
        sequences = sequences.to(self.device)
        found = [(*self.law(r, sequences.ids, temperature, entropy), r.rows, r.columns) for r in self.scored(sequences)]
        return (
            spread(sequences, [(logp, rows, columns) for logp, _, rows, columns in found]),
            spread(sequences, [(h, rows, columns) for _, h, rows, columns in found]),
        )

    def law(self, read: Read, ids: Tensor, temperature: float, entropy: bool) -> tuple[Tensor, Tensor]:
        """[N] log-probability of the token after each place that was read, and [N] entropy (zeros unless asked for)."""
        tokens = ids[read.rows, read.columns + 1]
        size = max(1, HEAD_NUMBERS // self.causal.config.vocab_size)
        with self.forward.precision():
            parts = [
                TokenLaw.apply(self.project(h), y, temperature, entropy)
                for h, y in zip(read.output.split(size), tokens.split(size), strict=True)
            ]
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])

    @torch.no_grad()
    def _splits(self) -> bool:
        """Whether the head on the trunk's output is all that the model does."""
        if self.project is None or self.trunk is self.causal:
            return False
        if without_numbers(self.causal):
            return True
        ids = torch.arange(6, device=self.device)[None] * 7 % self.causal.config.vocab_size
        was_training = self.causal.training
        self.causal.eval()
        try:
            whole = self.causal(input_ids=ids, use_cache=False).logits
            hidden = getattr(self.trunk(input_ids=ids, use_cache=False), "last_hidden_state", None)
            if hidden is None or hidden.shape[-1] != getattr(self.project, "in_features", hidden.shape[-1]):
                return False
            split = self.project(hidden)
        finally:
            self.causal.train(was_training)
        return whole.shape == split.shape and close(split, whole, 1e-5 if whole.dtype == torch.float32 else 1e-2)


def with_prompts(sequences: Sequences) -> None:
    """Raise ModelError for an empty prompt."""
    if len(sequences) and int(sequences.prompt_lengths.min()) < 1:
        raise ModelError("a sequence without a prompt", "what is said of the first response token is read at the last prompt token")


def spread(sequences: Sequences, parts: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """[B, T, ...] from (values [N, ...], rows, columns) read one token before the response token that they belong to; zeros elsewhere."""
    if not parts:
        return torch.zeros(sequences.mask.shape, device=sequences.ids.device)
    values, rows, columns = (torch.cat(x) for x in zip(*parts, strict=True))
    longest = int(sequences.response_lengths.max())
    empty = values.new_zeros(len(sequences), longest, *values.shape[1:])
    return empty.index_put((rows, columns + 1 - sequences.prompt_lengths[rows]), values)


class TokenLaw(torch.autograd.Function):
    """log p_y and H = -sum p log p  with  p = softmax(logits / T), holding one [N, V] tensor for the backward pass.

    d log p_y / d logit_j = (1[j = y] - p_j) / T      and      d H / d logit_j = -p_j (log p_j + H) / T
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, tokens: Tensor, temperature: float, entropy: bool) -> tuple[Tensor, Tensor]:
        scaled = logits if temperature == 1.0 else logits.float() / temperature
        law = torch.log_softmax(scaled, -1, dtype=torch.float32)
        spent = -(law.exp() * law).sum(-1) if entropy else law.new_zeros(len(law))
        ctx.save_for_backward(law, tokens, spent)
        ctx.temperature, ctx.entropy, ctx.dtype = temperature, entropy, logits.dtype
        return law.gather(-1, tokens[:, None])[:, 0], spent

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        law, tokens, spent = ctx.saved_tensors
        grad_logp, grad_entropy = (g[:, None] / ctx.temperature for g in grads)
        p = law.exp()
        weight = grad_logp + grad_entropy * (law + spent[:, None]) if ctx.entropy else grad_logp
        grad = p.mul_(weight).neg_()
        grad.scatter_add_(-1, tokens[:, None], grad_logp)
        return grad.to(ctx.dtype), None, None, None
