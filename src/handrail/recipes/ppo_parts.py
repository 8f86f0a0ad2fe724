"""The settings of PPO and the objects that they name: roles, reward, divergence, value loss."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from handrail.algo.kl import kl_k1
from handrail.algo.value import clipped_value_loss, value_loss
from handrail.batch import Experience, Sequences
from handrail.config import Settings
from handrail.data import Codec, Source, load_prompts, within_context
from handrail.models import (
    LanguageModel,
    ModelSettings,
    OneTrunk,
    ScalarModel,
    load_causal,
    load_tokenizer,
    same_vocabulary,
)
from handrail.parallel import Parallel
from handrail.recipes.divergence import Divergence, KLInLoss, KLInReward
from handrail.recipes.parts import Optimizer, RunSettings, describe, fingerprint, machine, seed_everything, source_of
from handrail.recipes.rewards import RewardSettings, RewardSource
from handrail.records import Prompt
from handrail.rollout import Engine, NativeEngine, Sampling


class PPO(Settings):
    """Settings of `handrail ppo`."""

    out: str = Field("runs/ppo", description="the run folder")
    seed: int = 0
    policy: ModelSettings = Field(description="where the policy starts, and what the reference is")
    roles: Literal["separate", "one_trunk", "one_trunk_shared"] = Field(
        "separate",
        description="four models; or adapters on one frozen trunk; or those with the critic as a head on the policy",
    )
    prompts: Source
    template: Literal["auto", "chat", "plain"] = "auto"
    reward: RewardSettings
    kl: Divergence = Divergence()
    sampling: Sampling = Sampling()
    steps: int = Field(25, ge=1)
    batch_size: int = Field(96, ge=2, description="responses a step")
    epochs: int = Field(2, ge=1, description="passes over each batch")
    minibatches: int = Field(1, ge=1, description="updates a pass")
    micro_tokens: int = Field(0, ge=0, description="tokens at once, 0: what suits the device; changes nothing but memory")
    lr: float = Field(2e-4, ge=0)
    critic_lr: float = Field(5e-4, ge=0)
    warmup: int = Field(3, ge=0, description="steps over which the learning rates rise")
    critic_warmup: int = Field(0, ge=0, description="steps in which only the critic learns")
    max_grad_norm: float = Field(1.0, gt=0)
    gamma: float = Field(1.0, gt=0, le=1)
    lam: float = Field(0.95, ge=0, le=1)
    clip: float = Field(0.2, gt=0, lt=1)
    clip_high: float = Field(0.0, ge=0, description="upper bound, 0: as the lower")
    value_clip: float = Field(0.0, ge=0, description="0: the plain squared error")
    value_coef: float = Field(1.0, ge=0)
    entropy_coef: float = Field(0.0, ge=0)
    target_kl: float = Field(0.0, ge=0, description="nats a token at which a step's epochs end, 0: never")
    whiten_advantages: bool = True
    rescale_rewards: bool = False
    run: RunSettings = RunSettings()

    @model_validator(mode="after")
    def _fits(self) -> "PPO":
        if self.batch_size % self.minibatches:
            raise ValueError(
                f"batch_size {self.batch_size} does not divide by minibatches {self.minibatches}: "
                f"{self.batch_size} = {self.minibatches} x {self.batch_size // self.minibatches} + {self.batch_size % self.minibatches}"
            )
        if self.sampling.temperature <= 0 or self.sampling.top_k or self.sampling.top_p < 1:
            raise ValueError("PPO samples the full distribution: temperature above 0, top_k 0, top_p 1")
        return self


@dataclass(frozen=True)
class Verdict:
    """What the roles say of a rollout.  [B, T] over response tokens unless said otherwise."""

    logp: Tensor
    logp_ref: Tensor
    entropy: Tensor
    values: Tensor
    after: Tensor  # [B], the value after the last token
    score: Tensor  # [B]
    components: dict[str, Tensor]  # [B] each, for the log
    texts: list[str]


@dataclass(frozen=True)
class Parts:
    """What `build` makes and `train` uses."""

    codec: Codec
    policy: LanguageModel
    reference: LanguageModel
    critic: ScalarModel
    reward: RewardSource
    actor_critic: Callable[[Sequences], tuple[Tensor, Tensor, Tensor]]
    divergence: KLInReward
    value_loss: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
    optimizer: Optimizer
    engine: Engine
    prompts: list[Prompt]
    prompt_ids: list[list[int]]
    temperature: float
    parallel: Parallel
    described: str

    def eval(self) -> None:
        """Dropout is off in reinforcement learning, for every role and all the time."""
        for role in (self.policy, self.reference, self.critic):
            role.hf.eval()


def build(cfg: PPO) -> tuple[Parts, dict[str, str]]:
    """The parts, and the fingerprints of what they were made from."""
    machine()
    seed_everything(cfg.seed, "weights")
    loaded = load_prompts(cfg.prompts)
    inputs = {"prompts": loaded.sha256, "policy": fingerprint(cfg.policy.path)}
    inputs |= {"reward": fingerprint(cfg.reward.model), "function": source_of(cfg.reward.function)}
    codec = Codec(load_tokenizer(cfg.policy), cfg.template)
    policy, reference, critic, reward_model, groups = (separate if cfg.roles == "separate" else one_trunk)(cfg, codec)
    prompts, left_out = within_context(codec, loaded.records, policy.context - cfg.sampling.max_new_tokens)
    parallel = Parallel()
    parts = Parts(
        codec=codec,
        policy=policy,
        reference=reference,
        critic=critic,
        reward=RewardSource(cfg.reward, reward_model),
        actor_critic=_actor_critic(cfg, policy, critic),
        divergence=(KLInLoss if cfg.kl.placement == "loss" else KLInReward)(cfg.kl),
        value_loss=_value_loss(cfg.value_clip),
        optimizer=Optimizer(groups, 0.0, cfg.max_grad_norm, parallel),
        engine=NativeEngine(codec.tokenizer, codec.end_ids),
        prompts=prompts,
        prompt_ids=[codec.encode_prompt(p) for p in prompts],
        temperature=cfg.sampling.temperature,
        parallel=parallel,
        described=describe(loaded.described, left_out),
    )
    return parts, inputs


def separate(cfg: PPO, codec: Codec) -> tuple:
    """Four models; the critic starts from the reward model, or from the policy with a head of zeros."""
    policy = LanguageModel.load(cfg.policy)
    reference = LanguageModel.load(cfg.policy.model_copy(update={"lora": None})).freeze()
    if cfg.reward.model:
        settings = ModelSettings(
            path=cfg.reward.model,
            dtype=cfg.policy.dtype,
            autocast=cfg.policy.autocast,
            compile=cfg.policy.compile,
            gradient_checkpointing=cfg.policy.gradient_checkpointing,
        )
        same_vocabulary(codec.tokenizer, load_tokenizer(settings))
        reward_model = ScalarModel.load(settings).freeze()
        if cfg.reward.combine:
            reward_model.combine_by(cfg.reward.combine)
        critic = ScalarModel.from_scalar(reward_model)
    else:
        reward_model, critic = None, ScalarModel.from_causal(load_causal(cfg.policy), "zero", cfg.policy.autocast, cfg.policy.compile)
    return (
        policy,
        reference,
        critic,
        reward_model,
        {
            "policy": (policy.parameters(), cfg.lr),
            "critic": (critic.parameters(), cfg.critic_lr),
        },
    )


def one_trunk(cfg: PPO, codec: Codec) -> tuple:
    """Adapters and heads over one frozen backbone; the reference is the policy's starting adapter."""

    trunk = OneTrunk.load(cfg.policy, cfg.reward.model, shared=cfg.roles == "one_trunk_shared", combine=cfg.reward.combine)
    return (
        trunk.policy,
        trunk.reference,
        trunk.critic,
        trunk.reward,
        {
            "policy": (trunk.policy.parameters(), cfg.lr),
            "critic": (trunk.critic.parameters(), cfg.critic_lr),
        },
    )


def _actor_critic(cfg: PPO, policy: LanguageModel, critic: ScalarModel) -> Callable[[Sequences], tuple[Tensor, Tensor, Tensor]]:
    def both(sequences: Sequences) -> tuple[Tensor, Tensor, Tensor]:
        logp = policy.logp(sequences, cfg.sampling.temperature)
        return logp, torch.zeros_like(logp), critic.values(sequences)[0]

    def both_and_entropy(sequences: Sequences) -> tuple[Tensor, Tensor, Tensor]:
        return *policy.logp_and_entropy(sequences, cfg.sampling.temperature), critic.values(sequences)[0]

    def shared(sequences: Sequences) -> tuple[Tensor, Tensor, Tensor]:
        return policy.logp_entropy_values(sequences, cfg.sampling.temperature)

    if cfg.roles == "one_trunk_shared":
        return shared
    return both_and_entropy if cfg.entropy_coef else both


def _value_loss(clip: float) -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]:
    if clip:
        return lambda values, old, returns, mask, count: clipped_value_loss(values, old, returns, mask, count, clip)
    return lambda values, old, returns, mask, count: value_loss(values, returns, mask, count)


def trace(cfg: PPO, parts: Parts, experience: Experience, verdict: Verdict, prompts: list[int]) -> dict[str, list]:
    """The first rows of a step, token by token, as columns."""
    rows = range(min(cfg.run.trace_rows, len(prompts)))
    responses = experience.rollout.responses()

    def cut(x: Tensor) -> list[list[float]]:
        return [x[row, : len(responses[row])].tolist() for row in rows]

    kl = kl_k1(verdict.logp, verdict.logp_ref)
    rewards = -parts.divergence.in_reward * kl
    for row in rows:
        rewards[row, len(responses[row]) - 1] += verdict.score[row]
    return {
        "prompt_id": [parts.prompts[prompts[row]].id for row in rows],
        "prompt": [parts.prompts[prompts[row]].text for row in rows],
        "response": [verdict.texts[row] for row in rows],
        "ended": experience.rollout.ended[: len(rows)].tolist(),
        "score": verdict.score[: len(rows)].tolist(),
        **({"gold": verdict.components["gold"][: len(rows)].tolist()} if "gold" in verdict.components else {}),
        "tokens": [parts.codec.pieces(responses[row]) for row in rows],
        "logp_old": cut(verdict.logp),
        "logp_ref": cut(verdict.logp_ref),
        "kl": cut(kl),
        "reward": cut(rewards),
        "value": cut(verdict.values),
        "return": cut(experience.returns),
        "advantage": cut(experience.advantage),
        "entropy": cut(verdict.entropy),
    }
