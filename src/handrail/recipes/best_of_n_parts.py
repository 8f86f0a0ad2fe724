"""The settings of best-of-n and weighted regression, and the objects that they name: sampler, weighting, reward."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from pydantic import Field, model_validator
from torch import Tensor

from handrail.algo.baseline import group_mean
from handrail.algo.kl import kl_k1
from handrail.algo.regression import advantage_weights, best_of_n_kl, best_of_n_weights, group_best, reward_weights
from handrail.batch import Rollout
from handrail.config import Settings
from handrail.data import Codec, Source, load_prompts, within_context
from handrail.models import LanguageModel, ModelSettings, load_tokenizer
from handrail.parallel import Parallel
from handrail.recipes.experience import Witness, token_trace
from handrail.recipes.parts import Optimizer, RunSettings, describe, fingerprint, machine, native_engine, seed_everything
from handrail.recipes.rewards import RewardSettings, RewardSource, load_reward, reward_inputs
from handrail.records import Prompt
from handrail.rollout import Engine, Sampling


class BestOfN(Settings):
    """Settings of `handrail best_of_n`."""

    out: str = Field("runs/best_of_n", description="the run folder")
    seed: int = 0
    policy: ModelSettings = Field(description="where the policy starts, and what the reference is")
    prompts: Source
    template: Literal["auto", "chat", "plain"] = "auto"
    reward: RewardSettings
    sampling: Sampling = Sampling()
    weighting: Literal["best", "reward", "advantage"] = Field(
        "best", description="imitate the best of n alone; or all by exp(reward / beta); or all by exp((reward - the n's mean) / beta)"
    )
    n: int = Field(4, ge=1, description="responses to each prompt; weighting best goes at most log n - (n - 1)/n nats a round")
    beta: float = Field(1.0, gt=0, description="reward that multiplies a weight by e; weighting best has no use for it")
    max_weight: float = Field(20.0, ge=1, description="larger weights are cut to this; for weighting advantage")
    steps: int = Field(25, ge=1)
    rounds: int = Field(1, ge=1, description="in each, the policy as it was at its beginning samples; as many as steps: the policy itself")
    batch_size: int = Field(24, ge=1, description="prompts a step")
    epochs: int = Field(1, ge=1, description="passes over each step's responses")
    minibatches: int = Field(1, ge=1, description="updates a pass")
    micro_tokens: int = Field(0, ge=0, description="tokens at once, 0: what suits the device; changes nothing but memory")
    lr: float = Field(2e-4, gt=0)
    warmup: int = Field(3, ge=0, description="steps over which the learning rate rises")
    max_grad_norm: float = Field(1.0, gt=0)
    eval_every: int = Field(5, ge=1, description="steps between looks at the policy's own responses, where another samples")
    eval_responses: int = Field(64, ge=2, description="fresh responses in such a look")
    run: RunSettings = RunSettings()

    @property
    def round_steps(self) -> int:
        """Steps of one round."""
        return self.steps // self.rounds

    @model_validator(mode="after")
    def _fits(self) -> "BestOfN":
        if self.steps % self.rounds:
            raise ValueError(
                f"steps {self.steps} does not divide by rounds {self.rounds}: every round has as many steps as another; "
                f"the nearest is steps {max(1, round(self.steps / self.rounds)) * self.rounds}"
            )
        if self.n < 2 and self.weighting != "reward":
            raise ValueError(f"n 1 leaves weighting {self.weighting} nothing to compare: give n of 2 or more, or weighting reward")
        if self.batch_size < self.minibatches:
            raise ValueError(f"minibatches {self.minibatches} are more than the {self.batch_size} prompts of a step: give at most as many")
        if self.sampling.temperature <= 0 or self.sampling.top_k or self.sampling.top_p < 1:
            raise ValueError("best_of_n samples the full distribution: temperature above 0, top_k 0, top_p 1")
        if self.reward.cut == "bootstrap":
            raise ValueError(
                "reward.cut bootstrap needs a critic, whose value stands in for the missing score, and best_of_n has none: "
                "take penalty, with a large end_penalty where a cut response must never win"
            )
        return self


class Weighting(Protocol):
    """How much each response is imitated."""

    def __call__(self, score: Tensor, group: Tensor) -> Tensor:
        """[B] weights, from [B] scores and the numbers of their prompts."""

    def grounds(self, score: Tensor, group: Tensor) -> dict[str, Tensor]:
        """[B] each: what a weight follows from beside the score, for the trace."""

    def bound(self, n: int, rounds: int) -> dict[str, float]:
        """How far from the reference exact imitation in each of so many rounds can lead, where a formula knows it."""


class Best:
    """The best of each prompt's n responses."""

    def __call__(self, score: Tensor, group: Tensor) -> Tensor:
        return best_of_n_weights(score, group)

    def grounds(self, score: Tensor, group: Tensor) -> dict[str, Tensor]:
        return {"best_score": group_best(score, group)}

    def bound(self, n: int, rounds: int) -> dict[str, float]:
        """Best of n of the best of n is the best of n squared, and so on."""
        return {"kl_bound": best_of_n_kl(n**rounds)}


class ByReward:
    """All responses, by exp(r / beta)."""

    def __init__(self, beta: float):
        self.beta = beta

    def __call__(self, score: Tensor, group: Tensor) -> Tensor:
        return reward_weights(score, self.beta)

    def grounds(self, score: Tensor, group: Tensor) -> dict[str, Tensor]:
        return {"log_total": (score / self.beta).logsumexp(0).expand(len(score))}

    def bound(self, n: int, rounds: int) -> dict[str, float]:
        """None that holds for every reward."""
        return {}


class ByAdvantage(ByReward):
    """All responses, by exp((r - b) / beta) up to a limit, with the mean over the prompt's responses for b."""

    def __init__(self, beta: float, limit: float):
        super().__init__(beta)
        self.limit = limit

    def __call__(self, score: Tensor, group: Tensor) -> Tensor:
        return advantage_weights(score, group_mean(score, group), self.beta, self.limit)

    def grounds(self, score: Tensor, group: Tensor) -> dict[str, Tensor]:
        return {"baseline": group_mean(score, group)}


class Sampler:
    """What samples, where that is a model there is anyway: the reference in the only round, or the policy at every step."""

    def __init__(self, model: LanguageModel):
        self.model = model

    def begin(self, step: int) -> None:
        """Called before each step."""

    def state(self, step: int) -> dict[str, Tensor]:
        """What a run that goes on with `step` needs beside the policy and the inputs."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """What `state` returned."""


class RoundSampler(Sampler):
    """A copy that takes over the policy's weights at the first step of each round and keeps them until the next."""

    def __init__(self, model: LanguageModel, policy: LanguageModel, round_steps: int):
        super().__init__(model)
        self.policy, self.round_steps = policy, round_steps
        model.load_state(policy.state())

    def begin(self, step: int) -> None:
        if step % self.round_steps == 0:
            self.model.load_state(self.policy.state())

    def state(self, step: int) -> dict[str, Tensor]:
        """The weights; none in the first round, whose sampler is the start, nor where `step` begins a round."""
        return self.model.state() if step > self.round_steps and step % self.round_steps else {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        if state:
            self.model.load_state(state)


@dataclass(frozen=True)
class Judged:
    """Responses, and what the source of the reward says of them."""

    rollout: Rollout
    prompts: list[Prompt]
    texts: list[str]
    score: Tensor  # [B]
    components: dict[str, Tensor]  # [B] each


@dataclass(frozen=True)
class Parts:
    """What `build` makes and `train` uses."""

    codec: Codec
    policy: LanguageModel
    reference: LanguageModel
    sampler: Sampler
    reward: RewardSource
    weighting: Weighting
    group: Tensor  # [batch_size n], the number of the prompt that each response of a step answers
    optimizer: Optimizer
    engine: Engine
    prompts: list[Prompt]
    prompt_ids: list[list[int]]
    temperature: float
    parallel: Parallel
    witness: Witness
    described: str

    def eval(self) -> None:
        """Dropout is off, as the law that is imitated is that of the policy without it."""
        for role in (self.policy, self.reference, self.sampler.model):
            role.hf.eval()


def build(cfg: BestOfN) -> tuple[Parts, dict[str, str]]:
    """The parts, and the fingerprints of what they were made from."""
    machine()
    seed_everything(cfg.seed, "weights")
    loaded = load_prompts(cfg.prompts)
    inputs = {"prompts": loaded.sha256, "policy": fingerprint(cfg.policy.path)}
    inputs |= reward_inputs(cfg.reward)
    codec = Codec(load_tokenizer(cfg.policy), cfg.template)
    policy = LanguageModel.load(cfg.policy)
    reference = LanguageModel.load_reference(cfg.policy)
    prompts, left_out = within_context(codec, loaded.records, policy.context - cfg.sampling.max_new_tokens)
    sampler = make_sampler(cfg, policy, reference, lambda: LanguageModel.load(cfg.policy))
    engine, reward = native_engine(codec), load_reward(cfg.reward, cfg.policy, codec)
    return assemble(cfg, codec, policy, reference, sampler, engine, reward, prompts, describe(loaded.described, left_out)), inputs


def assemble(
    cfg: BestOfN,
    codec: Codec,
    policy: LanguageModel,
    reference: LanguageModel,
    sampler: Sampler,
    engine: Engine,
    reward: RewardSource,
    prompts: list[Prompt],
    described: str,
) -> Parts:
    """What the settings say of these roles: weighting, groups, optimiser."""
    parallel = Parallel.joined()
    return Parts(
        codec=codec,
        policy=policy,
        reference=reference,
        sampler=sampler,
        reward=reward,
        weighting=_weighting(cfg),
        group=torch.arange(cfg.batch_size, device=policy.device).repeat_interleave(cfg.n),
        optimizer=Optimizer({"policy": (policy.parameters(), cfg.lr)}, 0.0, cfg.max_grad_norm, parallel),
        engine=engine,
        prompts=prompts,
        prompt_ids=[codec.encode_prompt(p) for p in prompts],
        temperature=cfg.sampling.temperature,
        parallel=parallel,
        witness=Witness(cfg.run, cfg.steps, codec, {"policy": policy, "reference": reference}, cfg.sampling.temperature, parallel),
        described=described,
    )


def _weighting(cfg: BestOfN) -> Weighting:
    if cfg.weighting == "best":
        return Best()
    return ByReward(cfg.beta) if cfg.weighting == "reward" else ByAdvantage(cfg.beta, cfg.max_weight)


def make_sampler(cfg: BestOfN, policy: LanguageModel, reference: LanguageModel, another: Callable[[], LanguageModel]) -> Sampler:
    """What samples; `another` loads the model that is needed where it is neither policy nor reference."""
    if cfg.rounds == cfg.steps:
        return Sampler(policy)
    if cfg.rounds == 1:
        return Sampler(reference)
    return RoundSampler(another().freeze(), policy, cfg.round_steps)


@torch.no_grad()
def trace(cfg: BestOfN, parts: Parts, sampled: Judged, weight: Tensor) -> dict[str, list]:
    """The first responses of a step, token by token, as columns before the update, with each one's weight and what it follows from."""
    rows = slice(0, cfg.run.trace_rows)
    rollout = sampled.rollout[rows]
    logp, entropy = parts.policy.logp_and_entropy(rollout.sequences, parts.temperature)
    logp_ref = parts.reference.logp(rollout.sequences, parts.temperature)
    logp_old = rollout.logp[:, : logp.shape[1]]
    scores = {"score": sampled.score} | {name: sampled.components[name] for name in ("gold",) if name in sampled.components}
    scores |= {"group": parts.group, "weight": weight, **parts.weighting.grounds(sampled.score, parts.group)}
    tokens = {"logp_old": logp_old, "logp_ref": logp_ref, "kl": kl_k1(logp_old, logp_ref), "logp": logp, "entropy": entropy}
    return token_trace(len(rollout), parts.codec, sampled.prompts[rows], sampled.texts, rollout, scores, tokens)
