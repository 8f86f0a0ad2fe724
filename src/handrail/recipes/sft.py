"""Supervised fine-tuning on demonstrations.

for each batch of demonstrations (x, y):
    loss = -sum_t log pi(y_t | x, y_<t) / number of response tokens
    theta <- theta - lr grad loss
"""

import time
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from transformers import PreTrainedTokenizerBase

from handrail.algo.stats import masked_sum
from handrail.batch import Sequences
from handrail.config import Settings
from handrail.data import (
    Codec,
    Source,
    demonstration_example,
    load_demonstrations,
    split_by_prompt,
    token_budget_batches,
    within_context,
)
from handrail.models import (
    LanguageModel,
    ModelSettings,
    NewModel,
    groups,
    load_causal,
    load_tokenizer,
    new_model,
    new_tokenizer,
)
from handrail.parallel import Parallel
from handrail.recipes.parts import (
    Optimizer,
    Readings,
    RunSettings,
    cosine,
    describe,
    fingerprint,
    generator,
    machine,
    of_rows,
    open_run,
    prefixed,
    seed_everything,
    spelt,
    under,
)
from handrail.recipes.progress import progress
from handrail.records import Prompt
from handrail.track import Guard, Run


class SFT(Settings):
    """Settings of `handrail sft`."""

    out: str = Field("runs/sft", description="the run folder")
    seed: int = 0
    model: ModelSettings = ModelSettings(new=NewModel())
    data: Source = Field(description="demonstrations")
    held_out: float = Field(0.05, gt=0, lt=1, description="share of prompts for the evaluation loss")
    template: Literal["auto", "chat", "plain"] = "auto"
    epochs: float = Field(2.0, gt=0)
    batch_tokens: int = Field(4096, ge=1, description="tokens a step")
    micro_tokens: int = Field(0, ge=0, description="tokens at once, 0: what suits the device; changes nothing but memory")
    lr: float = Field(2e-3, gt=0)
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps")
    weight_decay: float = Field(0.05, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    eval_every: int = Field(50, ge=1, description="steps between evaluation losses")
    patience: int = Field(0, ge=0, description="evaluations without a better loss after which to stop, 0: never")
    run: RunSettings = RunSettings()


@dataclass(frozen=True)
class Parts:
    """What `build` makes and `train` uses."""

    codec: Codec
    policy: LanguageModel
    optimizer: Optimizer
    parallel: Parallel
    train: Sequences
    prompts: list[Prompt]  # of the sequences to train on
    held_out: Sequences
    batches: list[list[int]]  # every step of every epoch
    described: str


def build(cfg: SFT) -> tuple[Parts, dict[str, str]]:
    """The parts, and the fingerprints of what they were made from."""
    machine()
    loaded = load_demonstrations(cfg.data)
    seed_everything(cfg.seed, "weights")
    if cfg.model.new:
        texts = [m.content for d in loaded.records for m in d.prompt.messages] + [d.response for d in loaded.records]
        tokenizer: PreTrainedTokenizerBase = new_tokenizer(texts, cfg.model.new.vocabulary)
        hf = new_model(cfg.model.new, tokenizer)
    else:
        tokenizer, hf = load_tokenizer(cfg.model), load_causal(cfg.model)
    codec, policy = Codec(tokenizer, cfg.template), LanguageModel(hf, cfg.model.autocast, cfg.model.compile)
    records, left_out = within_context(codec, loaded.records, policy.context)
    apart = split_by_prompt(records, cfg.held_out, cfg.seed)
    sequences, evaluation = (
        Sequences.of([(e.prompt_ids, e.response_ids) for d in part for e in [demonstration_example(codec, d, policy.context)]])
        for part in apart
    )
    batches: list[list[int]] = []
    for epoch in range(int(-(-cfg.epochs // 1))):
        batches += token_budget_batches(sequences.lengths.tolist(), cfg.batch_tokens, generator(cfg.seed, "epoch", epoch))
    batches = batches[: max(1, round(len(batches) * cfg.epochs / -(-cfg.epochs // 1)))]
    parallel = Parallel.joined()
    optimizer = Optimizer({"policy": (policy.parameters(), cfg.lr)}, cfg.weight_decay, cfg.max_grad_norm, parallel)
    prompts, described = [d.prompt for d in apart[0]], describe(loaded.described, left_out)
    parts = Parts(codec, policy, optimizer, parallel, sequences, prompts, evaluation, batches, described)
    return parts, {"data": loaded.sha256, "model": fingerprint(cfg.model.path) if cfg.model.path else "new"}


def run(cfg: SFT) -> Run:
    """Train, from the start or from the last checkpoint, and leave the model in the run folder."""
    parts, inputs = build(cfg)
    with open_run(cfg.out, "sft", cfg, cfg.run, inputs) as run:
        if not run.finished:
            train(cfg, parts, run)
    return run


def train(cfg: SFT, parts: Parts, run: Run) -> None:
    """Run SFT to its last step, or until the evaluation loss has not fallen `patience` times."""
    policy, optimizer, parallel, steps = parts.policy, parts.optimizer, parts.parallel, len(parts.batches)
    guard, best, waited = Guard(3, run), float("inf"), 0
    if saved := run.restore():
        policy.load_state(under("policy", saved.tensors))
        optimizer.load_state(under("optimizer", saved.tensors))
        guard.load_state(saved.state["guard"])
        best, waited = saved.state["best"], saved.state["waited"]

    with progress("sft", steps, run.step) as advance:
        for step in range(run.step, steps):
            started = time.perf_counter()
            seed_everything(cfg.seed, "step", step, *parallel.apart)  # of dropout
            batch = parts.train[torch.tensor(parts.batches[step])]
            count, loss, read = batch.response_lengths.sum(), 0.0, Readings()
            policy.hf.train()
            for index in parallel.share(groups, batch.lengths, cfg.micro_tokens or policy.forward.tokens):
                part = batch[index]
                logp = policy.logp(part)
                read.append((index, logp.detach()))
                part_loss = -masked_sum(logp, part.mask.to(policy.device)) / count
                part_loss.backward()
                loss += float(part_loss.detach())
            if cfg.run.traced(step, steps):
                run.trace(step, trace(cfg, parts, step, read))
            metrics = parallel.totals({"loss": loss}) | optimizer.clip()
            share = cosine(step, steps, int(cfg.warmup * steps))
            if guard.ok(step, metrics, batch.tensors()):
                optimizer.step(share)
            else:
                optimizer.clear()
            if (step + 1) % cfg.eval_every == 0 or step + 1 == steps:
                metrics["eval_loss"] = evaluate(parts)
                waited = 0 if metrics["eval_loss"] < best else waited + 1
                best = min(best, metrics["eval_loss"])
            seconds = time.perf_counter() - started
            run.log(step, {**metrics, "lr": cfg.lr * share, "tokens": int(batch.lengths.sum())}, {"improve": seconds})
            advance(1, f"loss {metrics['loss']:.3f}")
            stop = bool(cfg.patience) and waited >= cfg.patience
            if run.due(step) and step + 1 < steps and not stop:
                tensors = prefixed("policy", policy.state()) | prefixed("optimizer", optimizer.state())
                run.save(step + 1, tensors, {"guard": guard.state(), "best": best, "waited": waited})
            run.check()
            if stop:
                break
    parallel.first(lambda: policy.save(run.folder / "model", parts.codec.tokenizer))
    run.finish({"eval_loss": evaluate(parts), "data": parts.described, "steps": step + 1})


def trace(cfg: SFT, parts: Parts, step: int, read: Readings) -> dict[str, list]:
    """The first demonstrations of a step, token by token, as the loss has read them: with dropout, where the model has it."""
    rows = parts.batches[step]
    batch = parts.train[torch.tensor(rows)]
    columns = spelt(parts.codec, batch[: cfg.run.trace_rows])
    lengths = columns["length"]
    prompts = [parts.prompts[row] for row in rows[: len(lengths)]]
    return {
        "prompt_id": [prompt.id for prompt in prompts],
        "prompt": [prompt.text for prompt in prompts],
        **columns,
        "logp": [x[:length] for x, length in zip(of_rows(range(len(lengths)), read, parts.parallel), lengths, strict=True)],
        "count": [int(batch.response_lengths.sum())] * len(lengths),
    }


@torch.no_grad()
def evaluate(parts: Parts) -> float:
    """Mean negative log-probability of held-out response tokens, in nats a token."""
    parts.policy.hf.eval()
    return -float(parts.parallel.each(parts.policy.logp, parts.held_out).sum()) / int(parts.held_out.response_lengths.sum())
