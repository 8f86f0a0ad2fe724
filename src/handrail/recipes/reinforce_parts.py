"""The settings of REINFORCE and the objects that they name: the credit of a token, the baseline, where responses come from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from handrail.algo.advantage import reward_to_go, token_rewards, whole_return
from handrail.algo.kl import kl_k1
from handrail.algo.stats import masked_mean
from handrail.batch import Experience, Rollout, Sequences
from handrail.config import Settings
from handrail.data import Codec, Source, load_prompts, load_ratings, within_context
from handrail.errors import DataError
from handrail.models import LanguageModel, ModelSettings, load_tokenizer
from handrail.parallel import Parallel
from handrail.recipes.conversation import Answers, PartnerSettings, Turns, make_answers
from handrail.recipes.divergence import Divergence, KLInLoss, KLInReward
from handrail.recipes.experience import Witness, orders, token_trace
from handrail.recipes.mixing import Mix, Nothing, mixture
from handrail.recipes.objectives import ObjectiveSettings, Reinforce, Reinforced, objective, weigh
from handrail.recipes.parts import Optimizer, RunSettings, describe, fingerprint, machine, native_engine, seed_everything, shuffled
from handrail.recipes.reinforce_baseline import BaselineSettings, NoBaseline, make_baseline
from handrail.recipes.rewards import RewardSettings, RewardSource, load_reward, reward_inputs
from handrail.records import Rating
from handrail.rollout import Sampling


class Reinforcement(Settings):
    """Settings of `handrail reinforce`."""

    out: str = Field("runs/reinforce", description="the run folder")
    seed: int = 0
    policy: ModelSettings = Field(description="where the policy starts, and what the reference is")
    prompts: Source | None = Field(None, description="to answer; or give ratings")
    ratings: Source | None = Field(
        None, description="responses of the starting model with people's ratings, which are the reward; take objective.kind ppo_clip"
    )
    template: Literal["auto", "chat", "plain"] = "auto"
    reward: RewardSettings | None = None
    kl: Divergence = Divergence()
    partner: PartnerSettings | None = Field(None, description="answers as the user: conversations of several turns")
    sampling: Sampling = Sampling()
    steps: int = Field(25, ge=1)
    batch_size: int = Field(96, ge=2, description="responses a step")
    responses: int = Field(4, ge=1, description="of them to each prompt")
    epochs: int = Field(1, ge=1, description="passes over each batch")
    minibatches: int = Field(1, ge=1, description="updates a pass")
    micro_tokens: int = Field(0, ge=0, description="tokens at once, 0: what suits the device; changes nothing but memory")
    lr: float = Field(2e-4, ge=0)
    warmup: int = Field(3, ge=0, description="steps over which the learning rate rises")
    max_grad_norm: float = Field(1.0, gt=0)
    gamma: float = Field(1.0, gt=0, le=1)
    credit: Literal["whole_return", "reward_to_go"] = Field("reward_to_go", description="what a token is credited with")
    baseline: BaselineSettings = BaselineSettings()
    objective: ObjectiveSettings = Reinforced()
    entropy_coef: float = Field(0.0, ge=0)
    mix: Mix | None = Field(None, description="a supervised loss beside it, on demonstrations or plain texts")
    run: RunSettings = RunSettings()

    @model_validator(mode="after")
    def _fits(self) -> "Reinforcement":
        if (self.prompts is None) == (self.ratings is None):
            raise ValueError("give either prompts, with reward, or ratings")
        if (self.reward is None) != (self.prompts is None):
            raise ValueError("reward scores fresh responses to prompts; ratings are the reward of the responses that they are of")
        if self.ratings and self.objective.kind == "reinforce":
            raise ValueError(
                "rated responses are the starting model's, not the policy's: objective.kind importance, ppo_clip or another ratio"
            )
        if self.ratings and self.baseline.kind in ("leave_one_out", "group", "group_normalised"):
            raise ValueError(
                "rated responses come as they are, not in groups to a prompt: baseline.kind moving_average or value, for example"
            )
        if self.ratings and (self.kl.placement == "loss" or self.objective.kind == "ppo_penalty"):
            raise ValueError("rated responses are not the policy's: kl.placement reward, and an objective.kind other than ppo_penalty")
        if self.objective.kind == "reinforce" and self.epochs > 1:
            raise ValueError("objective.kind reinforce has no ratio, and from the second pass on responses are an older policy's: epochs 1")
        if not self.ratings and self.batch_size % self.responses:
            raise ValueError(f"batch_size {self.batch_size} does not divide by responses {self.responses}")
        if self.baseline.kind in ("leave_one_out", "group", "group_normalised") and self.responses < 2:
            raise ValueError(f"baseline.kind {self.baseline.kind} compares the responses to a prompt: responses 2 or more")
        if self.batch_size % self.minibatches:
            raise ValueError(f"batch_size {self.batch_size} does not divide by minibatches {self.minibatches}")
        if self.sampling.temperature <= 0 or self.sampling.top_k or self.sampling.top_p < 1:
            raise ValueError("a policy gradient samples the full distribution: temperature above 0, top_k 0, top_p 1")
        if self.partner and self.ratings:
            raise ValueError("rated responses have no partner: give prompts and reward")
        if self.reward and self.reward.cut == "bootstrap":
            raise ValueError("reward.cut bootstrap needs a critic that looks ahead: handrail ppo has one; here penalty or mask")
        return self


@dataclass(frozen=True)
class Verdict:
    """What the roles say of a rollout.  [B, T] over response tokens unless said otherwise."""

    logp: Tensor
    logp_old: Tensor  # of the policy that sampled: logp itself where the responses are fresh
    logp_ref: Tensor
    entropy: Tensor
    score: Tensor  # [B], of whole responses
    tokens: Tensor  # reward of single tokens, beside the score
    components: dict[str, Tensor]  # [B] each, for the log
    texts: list[str]
    group: Tensor  # [D] int64, equal for responses to the same prompt, or conversations from it
    turns: Turns

    @property
    def reward(self) -> Tensor:
        """[B] all that a response earned, before the divergence."""
        return self.score + self.tokens.sum(1)


# ---- where responses and their rewards come from ------------------------------------------------------------------


class Fresh:
    """Responses of the policy as it is now, `responses` to each prompt, or as many conversations, scored by the reward."""

    def __init__(self, cfg: Reinforcement, codec: Codec, answers: Answers, reward: RewardSource):
        self.cfg, self.codec, self.answers, self.reward = cfg, codec, answers, reward

    def act(self, policy: LanguageModel, step: int) -> tuple[Rollout, list[int]]:
        """A rollout, and of each row the number of its prompt, or of its conversation."""
        k, prompts = self.cfg.responses, self.answers.prompts
        chosen = [i for i in shuffled(len(prompts), self.cfg.batch_size // k, step, self.cfg.seed) for _ in range(k)]
        return self.answers.act(policy, chosen, step)

    def judge(self, rollout: Rollout, numbers: list[int], logp: Tensor, logp_ref: Tensor, entropy: Tensor) -> Verdict:
        """The rewards; the policy that is trained has sampled."""
        turns = self.answers.turns(numbers, logp.device)
        texts = [self.codec.decode(ids) for ids in rollout.responses()]
        score, tokens, components = self.reward.by_token(rollout, turns.prompts, texts)
        score, tokens = (self.answers.earned(x, turns) for x in (score, tokens))
        components |= self.answers.seen(turns)
        group = torch.arange(turns.conversations, device=logp.device) // self.cfg.responses
        return Verdict(logp, logp, logp_ref, entropy, score, tokens, components, texts, group, turns)

    def kept(self, ended: Tensor) -> Tensor:
        """[B] bool, which responses are learned from."""
        return self.reward.cut.kept(ended)

    def kl(self, verdict: Verdict) -> Tensor:
        """[B, T] nats: k1 of the policy against the reference."""
        return kl_k1(verdict.logp, verdict.logp_ref)

    def seen(self, rollout: Rollout, verdict: Verdict, earned: Tensor) -> dict[str, float]:
        """For the log: how far the engine is from the trainer, and of how many prompts all responses earn the same, [D] each."""
        mask, found = rollout.mask, {}
        if self.cfg.responses > 1:
            groups = earned.view(-1, self.cfg.responses)
            found["dead_groups"] = float((groups.amax(1) == groups.amin(1)).float().mean())
        return {"engine_difference": float(masked_mean((verdict.logp - rollout.logp).abs(), mask)), **found}


class Rated:
    """Responses that people have rated: the rating is the reward, and the starting model the policy that sampled.

    Far from the starting model the weights of `importance` scatter too much to learn from; `ppo_clip` stops before that.
    """

    def __init__(self, cfg: Reinforcement, codec: Codec, ratings: list[Rating]):
        self.cfg, self.ratings = cfg, ratings
        self.numbers = {text: i for i, text in enumerate(dict.fromkeys(r.prompt.text for r in ratings))}
        self.sequences = Sequences.of([(codec.encode_prompt(r.prompt), codec.encode_response(r.response, end=True)) for r in ratings])

    def act(self, policy: LanguageModel, step: int) -> tuple[Rollout, list[int]]:
        """A batch of the rated responses, each once an epoch, and their numbers."""
        rows = shuffled(len(self.ratings), self.cfg.batch_size, step, self.cfg.seed)
        part = self.sequences[torch.tensor(rows)]
        ended = torch.ones(len(rows), dtype=torch.bool)
        rollout = Rollout(part.ids, part.prompt_lengths, part.lengths, ended, torch.zeros(part.mask.shape))
        return rollout.to(policy.device), rows

    def judge(self, rollout: Rollout, numbers: list[int], logp: Tensor, logp_ref: Tensor, entropy: Tensor) -> Verdict:
        """The ratings; the reference has sampled."""
        found = [self.ratings[i] for i in numbers]
        score = torch.tensor([r.score for r in found], device=logp.device, dtype=logp.dtype)
        group = torch.tensor([self.numbers[r.prompt.text] for r in found], device=logp.device)
        prompts, texts = [r.prompt for r in found], [r.response for r in found]
        alone, nothing = torch.arange(len(found), device=logp.device), torch.zeros_like(logp)
        turns = Turns(prompts, alone, torch.full_like(alone, -1))
        return Verdict(logp, logp_ref, logp_ref, entropy, score, nothing, {"rating": score}, texts, group, turns)

    def kept(self, ended: Tensor) -> Tensor:
        """[B] bool: all."""
        return torch.ones_like(ended)

    def kl(self, verdict: Verdict) -> Tensor:
        """[B, T] nats: k1 of the reference, which has sampled, against the policy.  The divergence the other way round
        would need weights that scatter without bound; near the reference both are the same."""
        return kl_k1(verdict.logp_ref, verdict.logp)

    def seen(self, rollout: Rollout, verdict: Verdict, earned: Tensor) -> dict[str, float]:
        """For the log: nothing, no engine has sampled."""
        return {}


@dataclass(frozen=True)
class Parts:
    """What `build` makes and `train` uses."""

    codec: Codec
    policy: LanguageModel
    reference: LanguageModel
    source: Fresh | Rated
    credit: Callable[[Tensor, Tensor, float], Tensor]
    baseline: NoBaseline
    divergence: KLInReward
    objective: Reinforce
    weigh: Callable[[Tensor], Tensor]
    mix: Nothing
    optimizer: Optimizer
    temperature: float
    parallel: Parallel
    witness: Witness
    described: str

    def eval(self) -> None:
        """Dropout is off in reinforcement learning, for every role and all the time."""
        for role in (self.policy, self.reference):
            role.hf.eval()


def build(cfg: Reinforcement) -> tuple[Parts, dict[str, str]]:
    """The parts, and the fingerprints of what they were made from."""
    machine()
    seed_everything(cfg.seed, "weights")
    codec = Codec(load_tokenizer(cfg.policy), cfg.template)
    policy = LanguageModel.load(cfg.policy)
    reference = LanguageModel.load_reference(cfg.policy)
    source, described, inputs = (fresh if cfg.prompts else rated)(cfg, codec, policy)
    mixed, of_mix = mixture(cfg.mix, codec, policy.context, cfg.seed)
    parts = assemble(cfg, codec, policy, reference, source, make_baseline(cfg.baseline, cfg.policy), mixed, described)
    return parts, {"policy": fingerprint(cfg.policy.path)} | inputs | of_mix


def assemble(
    cfg: Reinforcement,
    codec: Codec,
    policy: LanguageModel,
    reference: LanguageModel,
    source: Fresh | Rated,
    baseline: NoBaseline,
    mixed: Nothing,
    described: str,
) -> Parts:
    """What the settings say of these roles: credit, divergence, objective, optimiser."""
    parallel = Parallel.joined()
    groups = {"policy": (policy.parameters(), cfg.lr)} | baseline.parameters()
    models = {"policy": policy, "reference": reference}
    return Parts(
        codec=codec,
        policy=policy,
        reference=reference,
        source=source,
        credit={"whole_return": whole_return, "reward_to_go": reward_to_go}[cfg.credit],
        baseline=baseline,
        divergence=(KLInLoss if cfg.kl.placement == "loss" else KLInReward)(cfg.kl),
        objective=objective(cfg.objective),
        weigh=weigh(cfg.objective),
        mix=mixed,
        optimizer=Optimizer(groups, 0.0, cfg.max_grad_norm, parallel),
        temperature=cfg.sampling.temperature,
        parallel=parallel,
        witness=Witness(cfg.run, cfg.steps, codec, models, cfg.sampling.temperature, parallel),
        described=described,
    )


def fresh(cfg: Reinforcement, codec: Codec, policy: LanguageModel) -> tuple[Fresh, str, dict[str, str]]:
    """Fresh responses to prompts."""
    assert cfg.prompts and cfg.reward  # the settings' own check
    loaded = load_prompts(cfg.prompts)
    prompts, left_out = within_context(codec, loaded.records, policy.context - cfg.sampling.max_new_tokens)
    reward = load_reward(cfg.reward, cfg.policy, codec)
    inputs = {"prompts": loaded.sha256} | reward_inputs(cfg.reward)
    answers, of_partner = make_answers(cfg.partner, codec, native_engine(codec), prompts, cfg.sampling, cfg.seed, policy.context)
    return Fresh(cfg, codec, answers, reward), describe(loaded.described, left_out), inputs | of_partner


def rated(cfg: Reinforcement, codec: Codec, policy: LanguageModel) -> tuple[Rated, str, dict[str, str]]:
    """Responses that people have rated."""
    assert cfg.ratings
    loaded = load_ratings(cfg.ratings)
    ratings, left_out = within_context(codec, loaded.records, policy.context)
    if len(ratings) < 2:
        raise DataError(f"{cfg.ratings.path}: {len(ratings)} rated responses", "at least 2 to learn from", "give more ratings")
    return Rated(cfg, codec, ratings), describe(loaded.described, left_out), {"ratings": loaded.sha256}


def trace(cfg: Reinforcement, parts: Parts, experience: Experience, verdict: Verdict, step: int) -> dict[str, list]:
    """The first rows of a step, token by token, as columns."""
    kl = kl_k1(verdict.logp, verdict.logp_ref)
    scores = {"score": verdict.reward} | {name: verdict.components[name] for name in ("gold",) if name in verdict.components}
    scores |= {"beta": torch.full(experience.rollout.ended.shape, parts.divergence.beta, dtype=torch.float64)}
    tokens = {
        "logp_old": verdict.logp_old,
        "logp_ref": verdict.logp_ref,
        "kl": kl,
        "token_reward": verdict.tokens,
        "reward": token_rewards(verdict.score, kl, experience.mask, parts.divergence.in_reward) + verdict.tokens,
        "value": experience.values_old,
        "return": experience.returns,
        "advantage": experience.advantage,
        "entropy": verdict.entropy,
    }
    if verdict.logp is not verdict.logp_old:  # what has sampled is not the policy that the divergence and the entropy are of
        tokens["logp"] = verdict.logp
    found = token_trace(cfg.run.trace_rows, parts.codec, verdict.turns.prompts, verdict.texts, experience.rollout, scores, tokens)
    rows = parts.source.kept(experience.rollout.ended).cpu().nonzero()[:, 0]
    return found | parts.witness.columns(rows, orders(len(rows), cfg.epochs, cfg.minibatches, cfg.seed, step), found["length"])
