"""One frozen backbone under all four roles: each is an adapter, the critic and the reward model with a head of theirs."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

from handrail.errors import ModelError
from handrail.models.adapters import adapter_tensors, add_adapter, fill_adapter, lora_config, lora_layers, read_adapter
from handrail.models.encoder_decoder import trunk_of
from handrail.models.language import LanguageModel
from handrail.models.load import load_causal, resolve
from handrail.models.scalar import ScalarModel, classifier, heads_of
from handrail.models.settings import Combine, Lora, ModelSettings
from handrail.models.weights import base_identity, owned


class OneTrunk:
    """Policy, reference, critic and reward model over one backbone; they are used like models of their own.

    Trained are the policy's adapter, the critic's adapter and the critic's head.  The reference is the policy's
    adapter as it was at the start.  The critic starts from the reward model, or with a head of zeros.  With
    `shared` the critic has no adapter: it is a head on the policy's hidden states, and
    `policy.logp_entropy_values` gives both roles' output from one forward.

    Args:
        hf: the backbone, without adapters; it is changed in place.
        lora: of the policy, and of the critic where there is no reward model.
        reward: folder of a reward model that was trained with `lora` on the same backbone, or "".
        start: folder of an adapter that the policy starts from, or "": a fresh one, which changes nothing yet.
        combine: how the reward model's heads become one score, None: as it was trained to.

    Raises:
        ModelError: the reward model has no adapter, or was trained on another backbone.
    """

    def __init__(
        self,
        hf: PreTrainedModel,
        lora: Lora,
        reward: str = "",
        start: str = "",
        shared: bool = False,
        autocast: bool = False,
        compiled: bool = False,
        combine: Combine | None = None,
    ):
        rewarded = RewardAdapter(reward, hf) if reward else None
        hf.requires_grad_(False)
        own, tensors = read_adapter(Path(start)) if start else (lora_config(lora, hf.name_or_path), None)
        for role in ("policy", "reference"):
            add_adapter(hf, own, role)
        if tensors:
            fill_adapter(hf, "policy", tensors)
        fill_adapter(hf, "reference", adapter_tensors(hf, "policy"))

        self.hf, self.reward = hf, None
        if rewarded:
            add_adapter(hf, rewarded.config, "reward")
            fill_adapter(hf, "reward", rewarded.tensors)
        if not shared:
            add_adapter(hf, rewarded.config if rewarded else own, "critic")
            if rewarded:
                fill_adapter(hf, "critic", rewarded.tensors)
        for layer in lora_layers(hf).values():
            layer._active_adapter = ["policy"]  # what generates from the backbone meets the policy
        hf.requires_grad_(False)

        self.policy = LanguageModel(hf, autocast, compiled, adapter="policy")
        self.reference = LanguageModel(hf, autocast, compiled, adapter="reference").freeze()
        critic = classifier(hf, trunk_of(hf), "zero")
        self.critic = ScalarModel(critic, autocast, compiled, adapter="critic", forward=self.policy.forward if shared else None)
        if rewarded:
            scorer = classifier(hf, trunk_of(hf), "zero", len(rewarded.head))
            scorer.config.handrail = {"mean": rewarded.mean, "std": rewarded.std}
            self.reward = ScalarModel(scorer, autocast, compiled, adapter="reward", heads=rewarded.heads)
            with torch.no_grad():
                self.reward.head.weight.copy_(rewarded.head)
                if combine:
                    self.reward.combine_by(combine)
                if not shared:  # on the policy's hidden states the reward model's head means nothing
                    weight, self.critic.mean = self.reward.one_head()
                    self.critic.head.weight.copy_(weight)
            self.reward.freeze()
        if shared and not self.policy.splits:
            raise ModelError(f"{type(hf).__name__}: its head is more than a linear layer", "roles one_trunk or separate")
        if shared:
            self.policy.critic = self.critic.read
        for module, adapter in ((hf, "policy"), (critic, "critic")):
            for parameter in owned(module, adapter).values():
                parameter.requires_grad_(True)

    @classmethod
    def load(
        cls, settings: ModelSettings, reward: str = "", shared: bool = False, start: str = "", combine: Combine | None = None
    ) -> "OneTrunk":
        """From the settings of the policy; its `lora` defaults to `Lora()`.  Raises ModelError."""
        hf = load_causal(settings.model_copy(update={"lora": None}))
        return cls(hf, settings.lora or Lora(), reward, start, shared, settings.autocast, settings.compile, combine)

    def state(self) -> dict[str, Tensor]:
        """What is trained: the adapters and heads of policy and critic."""
        parts = {"policy": self.policy.state(), "critic": self.critic.state()}
        return {f"{role}/{name}": tensor for role, tensors in parts.items() for name, tensor in tensors.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """What `state` returned.  Raises ModelError where a name or a shape differs."""
        for role, model in (("policy", self.policy), ("critic", self.critic)):
            model.load_state({n.removeprefix(f"{role}/"): t for n, t in state.items() if n.startswith(f"{role}/")})


class RewardAdapter:
    """The adapter and the head of a reward model's folder, checked to belong to this backbone.  Raises ModelError."""

    def __init__(self, reward: str, hf: PreTrainedModel):
        folder = Path(resolve(reward))
        if not (folder / "adapter" / "head.safetensors").is_file():
            raise ModelError(
                f"{reward}: a reward model without an adapter" if folder.exists() else f"{reward}: there is no such folder",
                "on one trunk, a reward model that was trained with lora on the policy's own model",
                "train it with model.lora.rank=16, or use separate models",
            )
        kept: dict[str, Any] = getattr(AutoConfig.from_pretrained(folder), "handrail", {})
        if kept.get("base") != base_identity(trunk_of(hf)):
            raise ModelError(
                f"{reward}: a reward model that was trained on another model than {hf.name_or_path}",
                "on one trunk, the same weights in the same dtype under policy and reward model",
                "train the reward model with lora from the policy's path, or use separate models",
            )
        self.mean, self.std = float(kept["mean"]), float(kept["std"])
        self.heads = heads_of(ModelSettings(path=reward), str(folder), kept)
        self.config, tensors = read_adapter(folder / "adapter")
        beside = f"{hf.base_model_prefix}." if hf.base_model is hf else ""  # T5's language model holds its layers itself
        self.tensors = {name.removeprefix(beside): tensor for name, tensor in tensors.items()}
        self.head = load_file(folder / "adapter" / "head.safetensors")["weight"]
