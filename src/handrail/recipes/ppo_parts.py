"""The settings of PPO and the objects that they name: roles, reward, divergence, value loss."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from handrail.algo.advantage import token_rewards
from handrail.algo.kl import kl_k1
from handrail.algo.stats import mean_and_std
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
)
from handrail.parallel import Parallel
from handrail.recipes.conversation import Answers, PartnerSettings, Turns, make_answers
from handrail.recipes.divergence import Divergence, KLInLoss, KLInReward
from handrail.recipes.experience import Witness, orders, token_trace
from handrail.recipes.mixing import Mix, Nothing, mixture
from handrail.recipes.objectives import ObjectiveSettings, Reinforce, objective, weigh
from handrail.recipes.parts import Optimizer, RunSettings, describe, fingerprint, machine, native_engine, seed_everything
from handrail.recipes.rewards import RewardSettings, RewardSource, load_reward_model, reward_inputs
from handrail.rollout import Sampling


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
    partner: PartnerSettings | None = Field(None, description="answers as the user: conversations of several turns")
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
    objective: ObjectiveSettings = ObjectiveSettings()
    value_clip: float = Field(0.0, ge=0, description="0: the plain squared error")
    value_coef: float = Field(1.0, ge=0)
    entropy_coef: float = Field(0.0, ge=0)
    target_kl: float = Field(0.0, ge=0, description="nats a token at which a step's epochs end, 0: never")
    whiten_advantages: bool = True
    rescale_rewards: bool = False
    mix: Mix | None = Field(None, description="a supervised loss beside it, on demonstrations or plain texts (PPO-ptx)")
    run: RunSettings = RunSettings()

    @model_validator(mode="after")
    def _fits(self) -> "PPO":
        if self.batch_size % self.minibatches:
            raise ValueError(
                f"batch_size {self.batch_size} does not divide by minibatches {self.minibatches}: "
                f"{self.batch_size} = {self.minibatches} x {self.batch_size // self.minibatches} + {self.batch_size % self.minibatches}"
            )
        if self.objective.kind == "reinforce" and self.epochs > 1:
            raise ValueError("objective.kind reinforce has no ratio, and from the second pass on responses are an older policy's: epochs 1")
        if self.sampling.temperature <= 0 or self.sampling.top_k or self.sampling.top_p < 1:
            raise ValueError("PPO samples the full distribution: temperature above 0, top_k 0, top_p 1")
        return self


@dataclass(frozen=True)
class Roles:
    """Who takes part: models of their own, or adapters over one trunk."""

    policy: LanguageModel
    reference: LanguageModel
    critic: ScalarModel
    reward: ScalarModel | None


@dataclass(frozen=True)
class Verdict:
    """What the roles say of a rollout.  [B, T] over response tokens unless said otherwise."""

    logp: Tensor
    logp_ref: Tensor
    entropy: Tensor
    values: Tensor
    after: Tensor  # [B], the value after the last token
    score: Tensor  # [B], of whole responses
    tokens: Tensor  # reward of single tokens, beside the score
    components: dict[str, Tensor]  # [B] each, for the log
    texts: list[str]
    turns: Turns

    @property
    def reward(self) -> Tensor:
        """[B] all that a response earned, before the divergence."""
        return self.score + self.tokens.sum(1)


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
    objective: Reinforce
    weigh: Callable[[Tensor], Tensor]
    mix: Nothing
    value_loss: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
    optimizer: Optimizer
    answers: Answers
    temperature: float
    parallel: Parallel
    witness: Witness
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
    inputs |= reward_inputs(cfg.reward)
    codec = Codec(load_tokenizer(cfg.policy), cfg.template)
    roles = (separate if cfg.roles == "separate" else one_trunk)(cfg, codec)
    prompts, left_out = within_context(codec, loaded.records, roles.policy.context - cfg.sampling.max_new_tokens)
    engine, context = native_engine(codec), roles.policy.context
    answers, of_partner = make_answers(cfg.partner, codec, engine, prompts, cfg.sampling, cfg.seed, context)
    mixed, of_mix = mixture(cfg.mix, codec, context, cfg.seed)
    return assemble(cfg, codec, roles, answers, mixed, describe(loaded.described, left_out)), inputs | of_mix | of_partner


def assemble(cfg: PPO, codec: Codec, roles: Roles, answers: Answers, mixed: Nothing, described: str) -> Parts:
    """What the settings say of these roles: reward, divergence, objective, value loss, optimiser."""
    parallel = Parallel.joined()
    groups = {"policy": (roles.policy.parameters(), cfg.lr), "critic": (roles.critic.parameters(), cfg.critic_lr)}
    models = {"policy": roles.policy, "reference": roles.reference}
    return Parts(
        codec=codec,
        policy=roles.policy,
        reference=roles.reference,
        critic=roles.critic,
        reward=RewardSource(cfg.reward, roles.reward, cfg.policy, codec),
        actor_critic=_actor_critic(cfg, roles.policy, roles.critic),
        divergence=(KLInLoss if cfg.kl.placement == "loss" else KLInReward)(cfg.kl),
        objective=objective(cfg.objective),
        weigh=weigh(cfg.objective),
        mix=mixed,
        value_loss=_value_loss(cfg.value_clip),
        optimizer=Optimizer(groups, 0.0, cfg.max_grad_norm, parallel),
        answers=answers,
        temperature=cfg.sampling.temperature,
        parallel=parallel,
        witness=Witness(cfg.run, cfg.steps, codec, models, cfg.sampling.temperature, parallel),
        described=described,
    )


def separate(cfg: PPO, codec: Codec) -> Roles:
    """Four models; the critic starts from the reward model, or from the policy with a head of zeros."""
    policy = LanguageModel.load(cfg.policy)
    reference = LanguageModel.load_reference(cfg.policy)
    if not cfg.reward.model:
        critic = ScalarModel.from_causal(load_causal(cfg.policy), "zero", cfg.policy.autocast, cfg.policy.compile)
        return Roles(policy, reference, critic, None)
    reward_model = load_reward_model(cfg.reward.model, cfg.policy, codec, cfg.reward.combine)
    return Roles(policy, reference, ScalarModel.from_scalar(reward_model), reward_model)


def one_trunk(cfg: PPO, codec: Codec) -> Roles:
    """Adapters and heads over one frozen backbone; the reference is the policy's starting adapter."""
    trunk = OneTrunk.load(cfg.policy, cfg.reward.model, shared=cfg.roles == "one_trunk_shared", combine=cfg.reward.combine)
    return Roles(trunk.policy, trunk.reference, trunk.critic, trunk.reward)


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


def trace(cfg: PPO, parts: Parts, experience: Experience, verdict: Verdict, step: int) -> dict[str, list]:
    """The first rows of a step, token by token, as columns: all that it takes to compute the loss of a token again."""
    kl, mask, ended = kl_k1(verdict.logp, verdict.logp_ref), experience.mask, experience.rollout.ended
    rewards = token_rewards(verdict.score, kl, mask, parts.divergence.in_reward) + verdict.tokens
    gained, following = experience.returns - experience.values_old, verdict.turns.following  # the advantage before it is whitened
    alone, after = following < 0, following.clamp(min=0)
    scores = {"score": verdict.reward} | {name: verdict.components[name] for name in ("gold",) if name in verdict.components}
    scores |= {
        "beta": torch.full(ended.shape, parts.divergence.beta, dtype=torch.float64),
        "value_after": torch.where(alone, parts.reward.cut.bootstrap(verdict.after, ended), verdict.values[after, 0]),
        "advantage_after": torch.where(alone, 0, gained[after, 0]),
    }
    for name, used, x in (("reward", cfg.rescale_rewards, rewards), ("advantage", cfg.whiten_advantages, gained)):
        if used:
            mean, std = mean_and_std(x, mask)
            scores |= {f"{name}s_mean": mean.expand(len(ended)), f"{name}s_std": std.expand(len(ended))}
    tokens = {
        "logp_old": verdict.logp,
        "logp_ref": verdict.logp_ref,
        "kl": kl,
        "token_reward": verdict.tokens,
        "reward": rewards,
        "value": verdict.values,
        "return": experience.returns,
        "advantage": experience.advantage,
        "entropy": verdict.entropy,
    }
    found = token_trace(cfg.run.trace_rows, parts.codec, verdict.turns.prompts, verdict.texts, experience.rollout, scores, tokens)
    rows = parts.reward.cut.kept(ended).cpu().nonzero()[:, 0]
    seen = parts.witness.columns(rows, orders(len(rows), cfg.epochs, cfg.minibatches, cfg.seed, step), found["length"])
    if not cfg.entropy_coef:  # then nobody asked for it, and zeros stand in its place
        seen.pop("pass_entropy", None)
    return found | seen
