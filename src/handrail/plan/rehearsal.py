"""The stand for a rehearsal: models that are shapes alone, sequences of the lengths that are to be expected, and a meter."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedConfig, PreTrainedModel

from handrail.batch import Sequences
from handrail.models import Heads, LanguageModel, Lora, ModelSettings, OneTrunk, ScalarModel, count_parameters, groups, resolve
from handrail.models.adapters import add_adapter, lora_config
from handrail.models.encoder_decoder import trunk_of
from handrail.models.forward import Read, recompute_layers
from handrail.models.grouping import families
from handrail.models.load import check_origin, origin, reading
from handrail.models.scalar import classifier
from handrail.plan.machine import Machine
from handrail.plan.meter import Meter
from handrail.rollout import Sampling, encoder_decoder
from handrail.rollout.cache import SlotCache
from handrail.rollout.native import PREFILL_TOKENS, SLOTS, Decoder
from handrail.rollout.sampling import draw

Role = LanguageModel | ScalarModel
Slices = Callable[[float], list[Tensor]]


@dataclass(frozen=True)
class Shape:
    """A model that is there, or that an earlier stage is going to leave."""

    config: PreTrainedConfig
    heads: int = 1


class Rehearsal:
    """One stage, step by step, on a machine that need not be there."""

    def __init__(self, machine: Machine, shapes: dict[str, Shape], few: int = 0):
        self.machine, self.shapes, self.few = machine, shapes, few
        self.meter = Meter(machine)
        self.numberless = FakeTensorMode(allow_non_fake_inputs=True)
        self.roles: dict[str, Role] = {}
        self.parameters = 0  # of all models, those that are let go before the end too
        self.layers: set[int] = set()  # how many the models have; with `few`, they are made with fewer
        self.weights: list[torch.nn.Parameter] = []  # those that are trained
        self.steps = 0
        self.samples = False
        self.moving = 0  # bytes that come and go, where what samples also learns

    @contextmanager
    def on(self, phase: str = "", times: float = 0.0) -> Iterator[None]:
        """Inside, tensors have no numbers, and what is done with them is counted, `times` times."""
        with ExitStack() as inside:
            inside.enter_context(self.numberless)
            inside.enter_context(self.meter)
            inside.enter_context(self.meter.phase(phase, times))
            yield

    def shape(self, settings: ModelSettings) -> Shape:
        """Of the model that these settings name.  Raises ModelError where there is none, and none is going to be."""
        return self.shapes[settings.path] if settings.path in self.shapes else self.of_disk(settings)

    @staticmethod
    def of_disk(settings: ModelSettings) -> Shape:
        """Of a model that is there, by its config alone.  Raises ModelError."""
        name = check_origin(settings)
        config = reading(settings, lambda: AutoConfig.from_pretrained(name, **origin(settings)))
        return Shape(config, Heads.read(getattr(config, "handrail", None) or {}, None).count)

    def heads(self, path: str) -> int:
        """Outputs of the reward model in this folder."""
        return self.shape(ModelSettings(path=path)).heads

    def causal(self, settings: ModelSettings, lora: Lora | None = None) -> PreTrainedModel:
        """A language model with an adapter where one is given, as `load_causal` makes it."""
        config = copy.deepcopy(self.shape(settings).config)
        layers = 0 if config.is_encoder_decoder else int(getattr(config, "num_hidden_layers", 0))
        self.layers.add(layers)
        if self.few and layers:
            config.num_hidden_layers = min(self.few, config.num_hidden_layers)
            if getattr(config, "layer_types", None):
                config.layer_types = config.layer_types[: self.few]
        auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        with self.on(), adapters_stay():
            hf = auto.from_config(config, dtype=getattr(torch, settings.dtype)).eval()
            if lora:
                add_adapter(hf, lora_config(lora, resolve(settings.path)), "default")
            if settings.gradient_checkpointing:
                recompute_layers(hf)
        return hf

    def policy(self, name: str, settings: ModelSettings, trained: bool = True) -> LanguageModel:
        """A policy, or frozen a reference or a model that only writes."""
        hf = self.causal(settings, settings.lora if trained else None)
        with self.on():
            model = LanguageModel(hf, settings.autocast)
            self._takes_part(name, model if trained else model.freeze())
        return model

    def scalar(self, name: str, settings: ModelSettings, heads: int = 1, trained: bool = True) -> ScalarModel:
        """A critic or a reward model on a trunk like that of a language model."""
        hf = self.causal(settings, settings.lora if trained else None)
        with self.on():
            scored = classifier(hf, trunk_of(hf), "zero", heads)  # without the copy that `from_causal` makes: there is nothing to copy
            model = ScalarModel(scored, settings.autocast, heads=Heads(("",), heads))
            self._takes_part(name, model if trained else model.freeze())
        return model

    def _takes_part(self, name: str, role: Role) -> None:
        self.roles[name] = role
        self.parameters += count_parameters(role.hf)

    def trunk(self, settings: ModelSettings, shared: bool, rewarded: bool) -> OneTrunk:
        """Policy, reference and critic as adapters on one trunk, and a reward model where there is one."""
        hf = self.causal(settings)
        with self.on(), adapters_stay():
            lora = settings.lora or Lora()
            one = OneTrunk(hf, lora, shared=shared, autocast=settings.autocast)
            self.roles |= {"policy": one.policy, "reference": one.reference, "critic": one.critic}
            if rewarded:  # an adapter more, as large as the others
                add_adapter(hf, lora_config(lora, ""), "reward")
            self.parameters += sum({id(p): p.numel() for module in (hf, one.critic.hf) for p in module.parameters()}.values())
        return one

    def generate(self, policy: LanguageModel, prompts: Sequence[int], same: int, length: int, sampling: Sampling, times: float) -> None:
        """A response of `length` tokens to each prompt, which `same` responses in a row have in common.

        Args: prompts, the lengths of all prompts, one for each response; times, how often this is done.
        """
        self.samples = True
        if policy.causal.config.is_encoder_decoder:
            self._generate_by_decoder(policy, prompts, same, length, sampling, times)
            return
        slots, room = min(SLOTS, len(prompts)), sampling.max_new_tokens
        width = max(prompts)
        cache = SlotCache(slots, -(-(width + room) // 8) * 8, torch.bfloat16 if policy.autocast else None)
        at_once = max(1, min(-(-slots // same), PREFILL_TOKENS // width))
        filled = min(slots, at_once * same)
        cache.at_prompts(0, [row // same for row in range(filled)], [width] * filled, width, torch.device("cpu"))
        with torch.inference_mode(False), torch.no_grad():
            with self.on("act", times * len(prompts) / filled), policy.forward.precision():
                decoder = Decoder(policy)
                column = torch.arange(width)
                far = (column[:, None] - column)[None, None].expand(at_once, 1, width, width)
                logits = decoder.logits(torch.zeros(at_once, width, dtype=torch.int64), column.expand(at_once, width), far >= 0, far, cache)
                del logits, far
            rounds = -(-len(prompts) // slots)
            with self.on("act", times * rounds * length), policy.forward.precision():
                place, kept = torch.full((slots,), cache.length - 1), torch.arange(cache.length)
                cache.at_step(torch.arange(slots), place, cache.length)
                far = (place[:, None] - kept)[:, None, None]
                logits = decoder.logits(torch.zeros(slots, 1, dtype=torch.int64), place[:, None], far >= 0, far, cache)
                draw(logits, torch.zeros(slots), sampling)
        self.cache = cache  # stays for the next call

    def _generate_by_decoder(
        self, policy: LanguageModel, prompts: Sequence[int], same: int, length: int, sampling: Sampling, times: float
    ) -> None:
        """The same with an encoder: every prompt encoded once, then a step of the decoder a token, on keys of the whole response."""
        rows, waves = min(SLOTS, len(prompts)), -(-len(prompts) // SLOTS)
        width = max(prompts)
        with torch.no_grad():
            with self.on("act", times * waves), policy.forward.precision():
                given = torch.zeros(-(-rows // same), width, dtype=torch.int64)
                states = policy.causal.get_encoder()(input_ids=given, attention_mask=torch.ones_like(given)).last_hidden_state
                seen = torch.ones(rows, width, dtype=torch.int64)
                decoder = encoder_decoder.Decoder(policy.causal, states[:1].expand(rows, -1, -1).contiguous(), seen)
            with self.on("act"), policy.forward.precision():  # fills the cache
                decoder.read(torch.zeros(rows, length, dtype=torch.int64))
            with self.on("act", times * waves * length), policy.forward.precision():
                draw(decoder.step(torch.zeros(rows, dtype=torch.int64)), torch.zeros(rows), sampling)

    def laws(self, policy: LanguageModel, sequences: Sequences, phase: str, times: float, entropy: bool) -> list[Tensor]:
        """Log-probabilities, and entropies where asked for: the widest forwards, and the time of all."""
        first, stop = sequences.prompt_lengths - 1, sequences.lengths - 1
        return [
            x
            for read in self.reads(policy, sequences, first, stop, phase, times)
            for x in self._law(policy, read, sequences, entropy, phase, times)
        ]

    def _law(self, policy: LanguageModel, read: Read, sequences: Sequences, entropy: bool, phase: str, times: float) -> list[Tensor]:
        with self.on(phase, times):
            logp, spent = policy.law(read, sequences.ids, 1.0, entropy)
        return [logp, spent] if entropy else [logp]

    def values(self, model: ScalarModel, sequences: Sequences, phase: str, times: float, whole: bool = False) -> list[Tensor]:
        """What a scalar model says at every token of the responses; with `whole`, at their last one alone."""
        first = sequences.lengths - 1 if whole else sequences.prompt_lengths - 1
        found = []
        for read in self.reads(model, sequences, first, sequences.lengths, phase, times):
            with self.on(phase, times):
                found.append(model.read_heads(read))
        return found

    def reads(self, role: Role, sequences: Sequences, first: Tensor, stop: Tensor, phase: str, times: float) -> Iterable[Read]:
        """The forwards that these sequences take, one by one."""
        forward = role.forward
        some = list(families(sequences, self.machine.tokens) if forward.shares else groups(sequences.lengths, self.machine.tokens))
        placed = [forward.place(sequences, members, first, stop) for members in some]
        for together in placed:
            with self.on(phase, times):
                read = forward.through(together)
            yield read

    def learn(self, roles: Sequence[Role], slices: Slices, count: float, updates: float, beside: Slices | None = None) -> None:
        """Two updates of AdamW, the second after two slices: then there are gradients and moments, and the peak has been seen.

        Args: slices, what a forward over one gives, told how often it is done in all; count, slices in an update;
        updates, of the whole stage; beside, another loss that each update has, with a backward of its own.
        """
        self.weights = weights = [p for role in roles for p in role.parameters().values()]
        with self.on():
            adam = torch.optim.AdamW(weights, lr=1.0, fused=True)
        for times, parts in ((0.0, [0.0]), (updates, [0.0, updates * count])):
            work = [(slices, one) for one in parts] + ([(beside, times)] if beside else [])
            for forward, one in work:
                found = forward(one)
                with self.on("improve", one):
                    torch.stack([x.sum() for x in found if x.requires_grad]).sum().backward()
                del found
            with self.on("improve", times):
                torch.nn.utils.clip_grad_norm_(weights, 1.0)
                adam.step()
                adam.zero_grad()
        self.moving = self.meter.peak - self.meter.live if self.samples else 0
        self.adam = adam


@contextmanager
def adapters_stay() -> Iterator[None]:
    """Inside, no module moves to another device or dtype, as PEFT asks of each adapter: weights without numbers cannot."""
    moves = torch.nn.Module.to
    torch.nn.Module.to = lambda self, *_, **__: self  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        torch.nn.Module.to = moves  # type: ignore[method-assign]
