"""Direct preference learning: the policy itself is the reward model.

for each step:
    draw labelled responses, from records or fresh from the policy
    r = beta log(pi(y | x) / pi_ref(y | x))                            the implicit reward
    loss = -mean over pairs i better than j of  log sigmoid(r_i - r_j)
    theta <- theta - lr grad loss

Rafailov et al. 2023.  Where the responses come from (`handrail.recipes.dpo_sources`) and which loss learns from them
(`handrail.recipes.dpo_objectives`) are objects that `build` makes from the config.  Dropout is off: the implicit reward
compares two models on the same tokens, and a policy with dropout differs from its own reference before it has learnt.
"""

import time
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from handrail.batch import PreferenceBatch, Sequences
from handrail.config import Settings
from handrail.data import Codec, Source, load_prompts, load_rankings, load_ratings, split_by_prompt, within_context
from handrail.errors import ConfigError
from handrail.models import LanguageModel, ModelSettings, load_tokenizer
from handrail.parallel import Parallel
from handrail.recipes.dpo_exam import Exam, by_prompt
from handrail.recipes.dpo_objectives import OBJECTIVES, Counts, Loss, Objective, Said
from handrail.recipes.dpo_sources import (
    Drawn,
    Offline,
    Online,
    OnlineSettings,
    PreferenceSource,
    Reads,
    of_ranking,
    of_rating,
    strangers,
)
from handrail.recipes.parts import (
    Optimizer,
    Readings,
    RunSettings,
    cosine,
    describe,
    fingerprint,
    machine,
    native_engine,
    of_rows,
    open_run,
    prefixed,
    seed_everything,
    slices,
    spelt,
    under,
)
from handrail.recipes.progress import progress
from handrail.recipes.rewards import load_reward, reward_inputs
from handrail.records import Ranking
from handrail.track import Guard, Run


class DPO(Settings):
    """Settings of `handrail dpo`."""

    out: str = Field("runs/dpo", description="the run folder")
    seed: int = 0
    policy: ModelSettings = Field(description="where the policy starts, and what the reference is: the model after SFT")
    data: Source | None = Field(None, description="comparisons or rankings; or ratings, with a threshold")
    threshold: float | None = Field(None, description="data are ratings: desirable above it, undesirable below it; for kto")
    online: OnlineSettings | None = Field(None, description="fresh responses of the policy instead of data")
    test: Source | None = Field(None, description="other comparisons or rankings to test on, instead of held-out prompts")
    held_out: float = Field(0.1, gt=0, lt=1, description="share of the data's prompts to test on")
    template: Literal["auto", "chat", "plain"] = "auto"
    loss: Loss = Loss()
    epochs: int = Field(1, ge=1)
    batch_size: int = Field(16, ge=1, description="rankings, ratings or prompts a step")
    micro_tokens: int = Field(0, ge=0, description="tokens at once, 0: what suits the device; changes nothing but memory")
    lr: float = Field(1e-4, gt=0)
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps")
    max_grad_norm: float = Field(1.0, gt=0)
    eval_every: int = Field(50, ge=1, description="steps between tests on held-out pairs")
    run: RunSettings = RunSettings()

    @model_validator(mode="after")
    def _one_source(self) -> "DPO":
        if (self.data is None) == (self.online is None):
            raise ValueError(f"give exactly one of data and online; {'both are' if self.data else 'neither is'} given")
        if self.threshold is not None and (self.data is None or self.loss.name != "kto"):
            raise ValueError("threshold reads data as ratings, each response judged alone: that is for loss.name kto")
        return self


@dataclass(frozen=True)
class Parts:
    """What `build` makes and `train` uses."""

    codec: Codec
    policy: LanguageModel
    objective: Objective
    source: PreferenceSource
    exam: Exam
    reads: Reads  # the policy's log-probabilities
    optimizer: Optimizer
    parallel: Parallel
    described: str

    def implied(self, sequences: Sequences, logp_ref: Tensor) -> Tensor:
        """[M] implicit reward of each response; logp_ref is [M], nats a response."""
        logp = self.parallel.each(self.reads, sequences).sum(1)
        return self.objective.reward(Said(logp, logp_ref.to(logp.device), sequences.response_lengths.to(logp)))


def build(cfg: DPO) -> tuple[Parts, dict[str, str]]:
    """The parts, and the fingerprints of what they were made from."""
    machine()
    seed_everything(cfg.seed, "weights")
    codec, policy = Codec(load_tokenizer(cfg.policy), cfg.template), LanguageModel.load(cfg.policy)
    objective = OBJECTIVES[cfg.loss.name](cfg.loss)
    temperature = cfg.online.sampling.temperature if cfg.online else 1.0  # the policy is the law that is sampled
    parallel, reads, reference = Parallel.joined(), partial(policy.logp, temperature=temperature), None
    if objective.refers:
        reference = partial(parallel.each, partial(LanguageModel.load_reference(cfg.policy).logp, temperature=temperature))
    source: PreferenceSource
    if cfg.online:
        source, test, described, inputs = online(cfg, cfg.online, codec, policy, reference)
    else:
        source, test, described, inputs = offline(cfg, codec, policy, partial(parallel.each, reads), reference, objective)
    if cfg.test:
        loaded = load_rankings(cfg.test)
        test, inputs["test"] = within_context(codec, loaded.records, policy.context)[0], loaded.sha256
    exam = Exam(codec, [r for r in test if r.pairs()], policy.context, reference)
    optimizer = Optimizer({"policy": (policy.parameters(), cfg.lr)}, 0.0, cfg.max_grad_norm, parallel)
    parts = Parts(codec, policy, objective, source, exam, reads, optimizer, parallel, described)
    return parts, inputs | {"policy": fingerprint(cfg.policy.path)}


def offline(
    cfg: DPO, codec: Codec, policy: LanguageModel, reads: Reads, reference: Reads | None, objective: Objective
) -> tuple[Offline, list[Ranking], str, dict[str, str]]:
    """Records as a source, rankings to test on, what was read, and its hash."""
    assert cfg.data is not None
    if cfg.threshold is None:
        rankings = load_rankings(cfg.data)
        spoken = [r for r in rankings.records if r.weight > 0]
        kept, left_out = within_context(codec, spoken, policy.context)
        left_out |= {"a weight of 0": n} if (n := len(rankings.records) - len(spoken)) else {}
        train, test = apart(cfg, kept)
        items = [of_ranking(codec, r) for r in train]
        described, sha256 = describe(rankings.described, left_out), rankings.sha256
    else:
        ratings, threshold = load_ratings(cfg.data), cfg.threshold
        clear, left_out = within_context(codec, [r for r in ratings.records if r.score != threshold], policy.context)
        left_out |= {f"a score of {threshold:g}": n} if (n := sum(r.score == threshold for r in ratings.records)) else {}
        rated, unseen = apart(cfg, clear)
        items, test = [of_rating(codec, r, threshold) for r in rated], by_prompt(unseen)
        good = sum(r.score > threshold for r in rated)
        described = describe(f"{ratings.described}; {good} desirable, {len(rated) - good} undesirable", left_out)
        sha256 = ratings.sha256
    others = strangers(items, policy.context) if objective.measures_kl else []
    source = Offline(items, others, cfg.epochs, cfg.batch_size, cfg.seed, reads, reference)
    return source, test, described, {"data": sha256}


def apart(cfg: DPO, records: list[Any]) -> tuple[list[Any], list[Any]]:
    """Records to train on and to test on; with other records to test on, those whose prompts are not among them."""
    if cfg.test:
        prompts = {r.prompt.text for r in load_rankings(cfg.test).records}
        train, test = [r for r in records if r.prompt.text not in prompts], list[Any]()
    else:
        train, test = split_by_prompt(records, cfg.held_out, cfg.seed)
    if not train:
        raise ConfigError(
            f"{cfg.data.path if cfg.data else ''}: none of {len(records)} records to train on",
            "at least one whose prompt is not tested on and whose weight is not 0",
        )
    return train, test


def online(
    cfg: DPO, settings: OnlineSettings, codec: Codec, policy: LanguageModel, reference: Reads | None
) -> tuple[Online, list[Ranking], str, dict[str, str]]:
    """The policy and a reward as a source, no rankings to test on, what was read, and the hashes."""
    loaded = load_prompts(settings.prompts)
    prompts, left_out = within_context(codec, loaded.records, policy.context - settings.sampling.max_new_tokens)
    reward = load_reward(settings.reward, cfg.policy, codec)
    source = Online(settings, cfg.batch_size, cfg.seed, codec, native_engine(codec), policy, reference, reward, prompts)
    return source, [], describe(loaded.described, left_out), {"prompts": loaded.sha256} | reward_inputs(settings.reward)


def run(cfg: DPO) -> Run:
    """Train, from the start or from the last checkpoint, and leave the policy in the run folder."""
    parts, inputs = build(cfg)
    with open_run(cfg.out, "dpo", cfg, cfg.run, inputs) as run:
        if not run.finished:
            train(cfg, parts, run)
    return run


def train(cfg: DPO, parts: Parts, run: Run) -> None:
    """Run direct preference learning to its last step, and test it."""
    source, steps = parts.source, parts.source.steps
    guards = {"draw": Guard(3, run), "update": Guard(3, run)}
    source.prepare()
    parts.exam.prepare()
    restore(parts, guards, run)
    parts.policy.hf.eval()
    seen: dict[str, float] = {}
    with progress("dpo", steps, run.step) as advance:
        for step in range(run.step, steps):
            clock, last = [time.perf_counter()], step + 1 == steps
            seed_everything(cfg.seed, "step", step)

            drawn = source.draw(step)
            clock.append(time.perf_counter())
            metrics, read = gradient(cfg, parts, drawn.batch, drawn.kl)
            if cfg.run.traced(step, steps):
                run.trace(step, trace(cfg, parts, drawn, read))
            metrics |= parts.optimizer.clip()
            seen, share = drawn.seen, cosine(step, steps, int(cfg.warmup * steps))
            sane = guards["draw"].ok(step, seen, drawn.batch.sequences.tensors())
            if sane and guards["update"].ok(step, metrics, drawn.batch.sequences.tensors()):
                parts.optimizer.step(share)
            else:
                parts.optimizer.clear()
            clock.append(time.perf_counter())

            if (step + 1) % cfg.eval_every == 0 or last:
                metrics |= parts.exam.grade(parts.implied)
            times = {name: b - a for name, a, b in zip(("draw", "improve"), clock, clock[1:], strict=False)}
            run.log(step, {**seen, **metrics, "lr": cfg.lr * share}, times)
            advance(1, f"loss {metrics['loss']:.3f}  accuracy {metrics['accuracy']:.2f}  margin {metrics['margin']:+.2f}")
            if run.due(step) and not last:
                tensors = prefixed("policy", parts.policy.state()) | prefixed("optimizer", parts.optimizer.state())
                run.save(step + 1, tensors, {"guards": {name: guard.state() for name, guard in guards.items()}})
            run.check()
    parts.parallel.first(lambda: parts.policy.save(run.folder / "model", parts.codec.tokenizer))
    run.finish({**seen, **parts.exam.result(parts.implied), "data": parts.described, "steps": steps})


def gradient(cfg: DPO, parts: Parts, batch: PreferenceBatch, kl: Tensor) -> tuple[dict[str, float], Readings]:
    """Accumulate the gradient of one batch, slice by slice of whole rankings; the counts are the whole batch's.

    Returns its statistics, and what this process has read on the way.
    """
    batch, kl = batch.to(parts.policy.device), kl.to(parts.policy.device)
    answers, prompts = batch.sequences.response_lengths[batch.index], batch.sequences.prompt_lengths[batch.index[:, 0]]
    lengths = prompts + torch.where(batch.mask, answers, 0).sum(1)  # a prompt is read once for all its responses
    counts = Counts.of(batch.labels)
    sums: dict[str, Tensor] = {}
    read: Readings = []
    for part in parts.parallel.share(slices, lengths.cpu(), cfg.micro_tokens or parts.policy.forward.tokens):
        part = part.to(lengths.device)
        mask, labels = batch.mask[part], batch.labels[part]
        rows = batch.index[part][mask]
        sequences = batch.sequences[rows]
        tokens = parts.reads(sequences)
        read.append((rows, tokens.detach()))
        each = tokens.sum(1), batch.logp_ref[rows].sum(1), sequences.response_lengths.float()
        said = Said(*(spread(x, mask) for x in each))
        loss, stats = parts.objective(said, labels, counts, kl)
        loss.backward()
        logp = said.logp.detach()
        stats |= {"logp_chosen": (labels.desirable * logp).sum() / counts.desirable}
        stats |= {"logp_rejected": (labels.undesirable * logp).sum() / counts.undesirable, "loss": loss.detach()}
        sums = {name: sums.get(name, 0) + value for name, value in stats.items()}
    absent = [side for side, count in (("chosen", counts.desirable), ("rejected", counts.undesirable)) if not count]
    return {name: value for name, value in parts.parallel.totals(sums).items() if name.rpartition("_")[2] not in absent}, read


def spread(x: Tensor, mask: Tensor) -> Tensor:
    """[M] numbers as [N, K] where the mask is True, in its order; zeros elsewhere."""
    return x.new_zeros(mask.shape).index_put(tuple(mask.nonzero(as_tuple=True)), x)


def trace(cfg: DPO, parts: Parts, drawn: Drawn, read: Readings) -> dict[str, list]:
    """The first rankings of a step as far as there is room, token by token, as the loss has read them; a row a response.

    Two responses are compared that have the same `group`: `beats` says what each one's win over each place in it weighs.
    """
    batch, labels, counts = drawn.batch, drawn.batch.labels, Counts.of(drawn.batch.labels)
    whole = max(1, int((batch.mask.sum(1).cumsum(0) <= cfg.run.trace_rows).sum()))  # a ranking is cut where not even one fits
    group, place = (x[: cfg.run.trace_rows] for x in batch.mask[:whole].nonzero(as_tuple=True))
    rows = batch.index[group, place]
    sequences, columns = batch.sequences[rows], spelt(parts.codec, batch.sequences[rows])
    lengths = columns["length"]
    logp = [x[:length] for x, length in zip(of_rows(rows.tolist(), read, parts.parallel), lengths, strict=True)]
    logp_ref = [x[:length] for x, length in zip(batch.logp_ref[rows].tolist(), lengths, strict=True)]
    kl = [[a - b for a, b in zip(*pair, strict=True)] for pair in zip(logp, logp_ref, strict=True)]
    said = Said(torch.tensor([sum(x) for x in logp]), batch.logp_ref[rows].sum(1).cpu(), sequences.response_lengths.cpu())
    against = {"logp_ref": logp_ref, "kl": kl, "kl_sum": [sum(x) for x in kl]} if parts.objective.refers else {}
    against |= {"kl_estimate": [float(drawn.kl)] * len(rows)} if parts.objective.measures_kl else {}
    return {
        "prompt_id": [drawn.prompts[n].id for n in group.tolist()],
        "prompt": [drawn.prompts[n].text for n in group.tolist()],
        **columns,
        **{name: values[rows].tolist() for name, values in drawn.about.items()},
        "group": group.tolist(),
        "place": place.tolist(),
        "beats": labels.wins[group, place].tolist(),
        "wins": labels.desirable[group, place].tolist(),
        "losses": labels.undesirable[group, place].tolist(),
        **{f"count_{name}": [float(getattr(counts, name))] * len(rows) for name in ("pairs", "desirable", "undesirable")},
        "implicit_reward": parts.objective.reward(said).tolist(),
        "logp": logp,
        **against,
    }


def restore(parts: Parts, guards: dict[str, Guard], run: Run) -> None:
    """Weights, optimiser and guards of the newest good checkpoint, if there is one."""
    if saved := run.restore():
        parts.policy.load_state(under("policy", saved.tensors))
        parts.optimizer.load_state(under("optimizer", saved.tensors))
        for name, guard in guards.items():
            guard.load_state(saved.state["guards"][name])
