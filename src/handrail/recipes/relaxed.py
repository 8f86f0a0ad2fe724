"""The reward model differentiated: no policy gradient, but the chain rule from the score to the weights.

for each step:
    y ~ pi(. | x)                                                     act
    x_t = onehot(y_t), with the gradient of softmax((log pi + g) / tau)     relax    (or: x_t = pi(. | s_t), the mixture)
    J = r(x_1 .. x_T) - beta sum_t KL(pi(. | s_t) || pi_ref(. | s_t))       judge
    theta <- theta + lr grad J                                        improve

The gradient reaches a token's law through the reward model alone, and not through what the policy wrote after it; so it
is biased, and scatters little.  For a reward model over the policy's own vocabulary.  Jang et al. 2017; docs/theory.md.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from handrail.algo.kl import kl_full, kl_k1
from handrail.algo.relaxed import expected_choice, gumbel_given, straight_through_choice
from handrail.algo.stats import masked_mean, response_sum
from handrail.batch import Rollout, Sequences
from handrail.config import Settings
from handrail.data import Codec, Source, load_prompts, within_context
from handrail.models import LanguageModel, ModelSettings, ScalarModel, load_tokenizer, relaxed_score, token_logits
from handrail.parallel import Parallel
from handrail.recipes.experience import Witness, paid_for, token_trace, variety
from handrail.recipes.parts import (
    Optimizer,
    Readings,
    RunSettings,
    constant,
    derive,
    describe,
    fingerprint,
    generator,
    machine,
    native_engine,
    of_rows,
    open_run,
    prefixed,
    seed_everything,
    shuffled,
    under,
)
from handrail.recipes.preflight import preflight
from handrail.recipes.progress import progress
from handrail.recipes.rewards import RewardSettings, RewardSource, load_reward_model
from handrail.records import Prompt
from handrail.rollout import Engine, Sampling
from handrail.track import Guard, Run

NUMBERS = 2**26  # logits at once, 256 MiB of float32
Terms = dict[str, Readings]  # of the objective, by name


class Relaxed(Settings):
    """Settings of `handrail relaxed`."""

    out: str = Field("runs/relaxed", description="the run folder")
    seed: int = 0
    policy: ModelSettings = Field(description="where the policy starts, and what the reference is")
    prompts: Source
    template: Literal["auto", "chat", "plain"] = "auto"
    reward: str = Field(description="folder of a reward model over the policy's vocabulary")
    monitor: str = Field("", description="a function that is logged beside the reward and never trained on")
    choice: Literal["straight_through", "expected"] = Field(
        "straight_through", description="what the reward model reads: the sampled token, or the mean embedding of all"
    )
    tau: float = Field(1.0, gt=0, description="straight_through: temperature of the relaxation")
    beta: float = Field(0.05, ge=0, description="reward per nat")
    sampling: Sampling = Sampling()
    steps: int = Field(25, ge=1)
    batch_size: int = Field(96, ge=1, description="responses a step")
    rows: int = Field(0, ge=0, description="responses at once, 0: what fits 256 MiB of logits; changes nothing but memory")
    lr: float = Field(1e-4, ge=0)
    warmup: int = Field(3, ge=0, description="steps over which the learning rate rises")
    max_grad_norm: float = Field(1.0, gt=0)
    run: RunSettings = RunSettings()

    @model_validator(mode="after")
    def _full_law(self) -> "Relaxed":
        if self.sampling.temperature <= 0 or self.sampling.top_k or self.sampling.top_p < 1:
            raise ValueError("the reward is differentiated through the full distribution: temperature above 0, top_k 0, top_p 1")
        return self


@dataclass(frozen=True)
class Parts:
    """What `build` makes and `train` uses."""

    codec: Codec
    policy: LanguageModel
    reference: LanguageModel
    model: ScalarModel
    watch: RewardSource  # the same reward on whole responses, and the monitor
    choose: Callable[[Tensor, Tensor, Tensor], Tensor]
    optimizer: Optimizer
    parallel: Parallel
    engine: Engine
    witness: Witness
    prompts: list[Prompt]
    prompt_ids: list[list[int]]
    described: str


def build(cfg: Relaxed) -> tuple[Parts, dict[str, str]]:
    """The parts, and the fingerprints of what they were made from."""
    machine()
    seed_everything(cfg.seed, "weights")
    loaded = load_prompts(cfg.prompts)
    codec = Codec(load_tokenizer(cfg.policy), cfg.template)
    policy = LanguageModel.load(cfg.policy)
    reference = LanguageModel.load_reference(cfg.policy)
    model = load_reward_model(cfg.reward, cfg.policy, codec, None)
    prompts, left_out = within_context(codec, loaded.records, policy.context - cfg.sampling.max_new_tokens)
    settings = RewardSettings(model=cfg.reward, monitor=cfg.monitor, end_penalty=0.0)
    parallel = Parallel.joined()
    parts = Parts(
        codec=codec,
        policy=policy,
        reference=reference,
        model=model,
        watch=RewardSource(settings, model, cfg.policy, codec),
        choose={"straight_through": straight_through(cfg.tau), "expected": expected}[cfg.choice],
        optimizer=Optimizer({"policy": (policy.parameters(), cfg.lr)}, 0.0, cfg.max_grad_norm, parallel),
        parallel=parallel,
        engine=native_engine(codec),
        witness=Witness(cfg.run, cfg.steps, codec, {"policy": policy, "reference": reference}, cfg.sampling.temperature, parallel),
        prompts=prompts,
        prompt_ids=[codec.encode_prompt(p) for p in prompts],
        described=describe(loaded.described, left_out),
    )
    return parts, {"prompts": loaded.sha256, "policy": fingerprint(cfg.policy.path), "reward": fingerprint(cfg.reward)}


def expected(logits: Tensor, tokens: Tensor, noise: Tensor) -> Tensor:
    """[B, T, V] the law itself."""
    return expected_choice(logits)


def straight_through(tau: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """[B, T, V] the sampled tokens, with the gradient of noise under which they would have been sampled."""

    def choose(logits: Tensor, tokens: Tensor, noise: Tensor) -> Tensor:
        perturbed = gumbel_given(logits, tokens, noise[..., 1:], noise[..., 0])
        return straight_through_choice(logits, tokens, perturbed, tau)

    return choose


def run(cfg: Relaxed) -> Run:
    """Train, from the start or from the last checkpoint, and leave the policy in the run folder."""
    parts, inputs = build(cfg)
    with open_run(cfg.out, "relaxed", cfg, cfg.run, inputs) as run:
        if not run.finished:
            preflight(run, cfg.run, parts.codec, parts.policy, parts.reference, parts.model, parts.prompts, cfg.sampling, cfg.seed)
            train(cfg, parts, run)
    return run


def train(cfg: Relaxed, parts: Parts, run: Run) -> None:
    """Run to the last step.  Tensors are [B, T] over response tokens unless said otherwise."""
    guard = Guard(3, run)
    if saved := run.restore():
        parts.policy.load_state(under("policy", saved.tensors))
        parts.optimizer.load_state(under("optimizer", saved.tensors))
        guard.load_state(saved.state["guard"])
    parts.policy.hf.eval()
    metrics: dict[str, float | int | str] = {}
    with progress("relaxed", cfg.steps, run.step) as advance:
        for step in range(run.step, cfg.steps):
            clock = [time.perf_counter()]
            seed_everything(cfg.seed, "step", step)
            numbers = shuffled(len(parts.prompts), cfg.batch_size, step, cfg.seed)
            parts.engine.sync(parts.policy)
            seeds = [derive(cfg.seed, "rollout", step, row) for row in range(cfg.batch_size)]
            rollout = parts.engine.generate([parts.prompt_ids[i] for i in numbers], seeds, cfg.sampling).to(parts.policy.device)
            clock.append(time.perf_counter())
            seen, columns = look(cfg, parts, rollout, [parts.prompts[i] for i in numbers])
            parts.witness.begin(step, rollout)
            clock.append(time.perf_counter())
            stats, judged = gradient(cfg, parts, rollout.sequences, step)
            stats |= parts.optimizer.clip()
            if guard.ok(step, stats, rollout.tensors()):
                parts.optimizer.step(constant(step, cfg.steps, cfg.warmup))
            else:
                parts.optimizer.clear()
            clock.append(time.perf_counter())
            metrics = {**seen, **stats}
            names = ("act", "judge", "improve")
            run.log(step, metrics, {n: b - a for n, a, b in zip(names, clock, clock[1:], strict=False)})
            if parts.witness.on:
                run.trace(step, columns | terms(parts, judged, columns["length"]) | parts.witness.held)
            advance(1, f"reward {seen['reward']:+.2f}  kl {seen['kl']:.1f}  length {seen['length']:.0f}")
            if run.due(step) and step + 1 < cfg.steps:
                tensors = prefixed("policy", parts.policy.state()) | prefixed("optimizer", parts.optimizer.state())
                run.save(step + 1, tensors, {"guard": guard.state()})
            run.check()
    parts.parallel.first(lambda: parts.policy.save(run.folder / "model", parts.codec.tokenizer))
    run.finish({**metrics, "prompts": parts.described, "steps": cfg.steps})


def gradient(cfg: Relaxed, parts: Parts, sequences: Sequences, step: int) -> tuple[dict[str, float], Terms]:
    """Accumulate the gradient of -J over the batch, a few rows at a time.

    Returns its two terms, means over responses; and those of each response that this process has had.
    """
    width, vocabulary = sequences.mask.shape[1], parts.policy.causal.config.vocab_size
    rows = cfg.rows or max(1, NUMBERS // (width * vocabulary))
    sums = {"reward_relaxed": 0.0, "kl_exact": 0.0}
    judged: Terms = {"score_relaxed": [], "kl_exact": []}
    for index in torch.arange(len(sequences))[parts.parallel.turn].split(rows):
        part = sequences[index.to(sequences.ids.device)]
        noise = torch.stack([row_noise(cfg, step, row, part.mask.shape[1], vocabulary) for row in index.tolist()]).to(part.ids.device)
        logits = token_logits(parts.policy, part, cfg.sampling.temperature)
        with torch.no_grad():
            logits_ref = token_logits(parts.reference, part, cfg.sampling.temperature)
        score = relaxed_score(parts.model, part, parts.choose(logits, part.tokens, noise))
        kl = kl_full(logits, logits_ref)
        divergence = response_sum(kl, part.mask)
        judged["score_relaxed"].append((index, score.detach()))
        judged["kl_exact"].append((index, kl.detach()))
        (-(score - cfg.beta * divergence).sum() / len(sequences)).backward()
        sums["reward_relaxed"] += float(score.detach().sum()) / len(sequences)
        sums["kl_exact"] += float(divergence.detach().sum()) / len(sequences)
    return parts.parallel.totals(sums), judged


def terms(parts: Parts, judged: Terms, lengths: list[int]) -> dict[str, list]:
    """Of the first responses, as columns, what their objective was made of: the relaxed score, and the divergence at each token."""
    score, kl = (of_rows(range(len(lengths)), judged[name], parts.parallel) for name in ("score_relaxed", "kl_exact"))
    return {"score_relaxed": score, "kl_exact": [x[:length] for x, length in zip(kl, lengths, strict=True)]}


def row_noise(cfg: Relaxed, step: int, row: int, width: int, vocabulary: int) -> Tensor:
    """[T, 1 + V] uniform in (0, 1): a row's own, so that slices change nothing."""
    noise = torch.rand(width, 1 + vocabulary, generator=generator(cfg.seed, "noise", step, row))
    return noise.clamp(min=torch.finfo(noise.dtype).tiny, max=1 - torch.finfo(noise.dtype).eps)


@torch.no_grad()
def look(cfg: Relaxed, parts: Parts, rollout: Rollout, prompts: list[Prompt]) -> tuple[dict[str, float], dict[str, list]]:
    """What is logged of a step before the update, and its trace; the divergence unclamped, in nats a response."""
    each, sequences, mask = parts.parallel.each, rollout.sequences, rollout.mask
    logp, entropy = each(lambda rows: parts.policy.logp_and_entropy(rows, cfg.sampling.temperature), sequences)
    logp_ref = each(lambda rows: parts.reference.logp(rows, cfg.sampling.temperature), sequences)
    texts = [parts.codec.decode(ids) for ids in rollout.responses()]
    reward, components = parts.watch(rollout, prompts, texts)
    kl = kl_k1(logp, logp_ref)
    seen = {
        "reward": float(reward.mean()),
        "reward_std": float(reward.std(correction=0)),
        **{name: float(value.mean()) for name, value in components.items() if name != "reward_model"},
        "kl": float(response_sum(kl, mask).mean()),
        "length": float(rollout.response_lengths.float().mean()),
        "ended": float(rollout.ended.float().mean()),
        "entropy": float(masked_mean(entropy, mask)),
        "engine_difference": float(masked_mean((logp - rollout.logp).abs(), mask)),
        **paid_for(reward, rollout.response_lengths.float(), components),
        **variety(texts),
    }
    scores = {"score": reward} | {name: components[name] for name in ("gold",) if name in components}
    tokens = {"logp_old": logp, "logp_ref": logp_ref, "kl": kl, "entropy": entropy}
    return seen, token_trace(cfg.run.trace_rows, parts.codec, prompts, texts, rollout, scores, tokens)
