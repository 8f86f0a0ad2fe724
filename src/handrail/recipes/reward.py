"""A reward model from rankings.

for each batch of rankings (x, y_1..y_K, places):
    loss = -mean over pairs i better than j of  log sigmoid(r(x, y_i) - r(x, y_j))
    loss += c times the same, with the head's mean over the response's tokens for r
    theta <- theta - lr grad loss
then r <- (r - m) / s, with m and s over responses of the model that the policy starts from
"""

import time
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from handrail.algo.preference import centring_loss, ranking_loss
from handrail.batch import RankingBatch, Sequences
from handrail.config import Settings
from handrail.data import Codec, Source, load_rankings, ranking_batch, split_by_prompt, within_context
from handrail.errors import ConfigError
from handrail.evaluate import (
    accuracy,
    calibration,
    expected_calibration_error,
    labeller_agreement,
    length_rule_accuracy,
    pair_differences,
)
from handrail.models import LanguageModel, ModelSettings, ScalarModel, load_causal, load_tokenizer
from handrail.parallel import Parallel
from handrail.recipes.parts import (
    Optimizer,
    RunSettings,
    cosine,
    derive,
    describe,
    fingerprint,
    machine,
    open_run,
    prefixed,
    seed_everything,
    shuffled,
    slices,
    under,
)
from handrail.recipes.progress import cumulative, progress
from handrail.records import Ranking
from handrail.rollout import NativeEngine, Sampling
from handrail.track import Guard, Run


class Reward(Settings):
    """Settings of `handrail reward`."""

    out: str = Field("runs/reward", description="the run folder")
    seed: int = 0
    model: ModelSettings = Field(description="where the trunk starts: the model after SFT")
    data: Source = Field(description="comparisons or rankings")
    test: Source | None = Field(None, description="other rankings to test on, instead of held-out prompts")
    held_out: float = Field(0.1, gt=0, lt=1, description="share of prompts to test on")
    template: Literal["auto", "chat", "plain"] = "auto"
    epochs: int = Field(1, ge=1)
    batch_size: int = Field(16, ge=1, description="rankings a step")
    micro_tokens: int = Field(0, ge=0, description="tokens at once, 0: what suits the device; changes nothing but memory")
    lr: float = Field(5e-4, gt=0)
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps")
    weight_decay: float = Field(0.05, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    token_weight: float = Field(
        0.5, ge=0, description="weight of the same loss on the head's mean over a response's tokens; the score stays the last token's"
    )
    centring: float = Field(0.01, ge=0, description="weight of the loss that keeps a ranking's mean near 0")
    normalise_on: int = Field(256, ge=2, description="responses of the starting model to normalise on")
    sampling: Sampling = Sampling()
    run: RunSettings = RunSettings()


@dataclass(frozen=True)
class Parts:
    """What `build` makes and `train` uses."""

    codec: Codec
    model: ScalarModel
    start: LanguageModel  # samples the responses to normalise on
    optimizer: Optimizer
    train: list[Ranking]
    test: list[Ranking]
    described: str


def build(cfg: Reward) -> tuple[Parts, dict[str, str]]:
    """The parts, and the fingerprints of what they were made from."""
    machine()
    loaded = load_rankings(cfg.data)
    inputs = {"data": loaded.sha256, "model": fingerprint(cfg.model.path)}
    seed_everything(cfg.seed, "head")
    codec = Codec(load_tokenizer(cfg.model), cfg.template)
    model = ScalarModel.from_causal(load_causal(cfg.model), "normal", cfg.model.autocast, cfg.model.compile)
    records, left_out = within_context(codec, loaded.records, model.context)
    if cfg.test:
        other = load_rankings(cfg.test)
        prompts = {r.prompt.text for r in other.records}
        train, test = (
            [r for r in records if r.prompt.text not in prompts],
            within_context(codec, other.records, model.context)[0],
        )
        inputs["test"] = other.sha256
    else:
        train, test = split_by_prompt(records, cfg.held_out, cfg.seed)
    if not train or not any(r.pairs() for r in test):
        raise ConfigError(
            f"{cfg.data.path}: {len(train)} rankings to train on and {len(test)} to test on",
            "at least one of each, and among the latter one that is not all ties",
        )
    start = LanguageModel.load(cfg.model.model_copy(update={"lora": None})).freeze()
    optimizer = Optimizer({"reward": (model.parameters(), cfg.lr)}, cfg.weight_decay, cfg.max_grad_norm, Parallel())
    return Parts(codec, model, start, optimizer, train, test, describe(loaded.described, left_out)), inputs


def run(cfg: Reward) -> Run:
    """Train, from the start or from the last checkpoint, and leave the model in the run folder."""
    parts, inputs = build(cfg)
    with open_run(cfg.out, "reward", cfg, cfg.run, inputs) as run:
        if not run.finished:
            train(cfg, parts, run)
    return run


def train(cfg: Reward, parts: Parts, run: Run) -> None:
    """Run the reward model to its last step, normalise it, test it."""
    model, optimizer, guard = parts.model, parts.optimizer, Guard(3, run)
    steps = max(1, cfg.epochs * len(parts.train) // cfg.batch_size)
    if saved := run.restore():
        model.load_state(under("reward", saved.tensors))
        optimizer.load_state(under("optimizer", saved.tensors))
        guard.load_state(saved.state["guard"])

    with progress("reward", steps, run.step) as advance:
        for step in range(run.step, steps):
            started = time.perf_counter()
            seed_everything(cfg.seed, "step", step)
            rankings = [parts.train[i] for i in shuffled(len(parts.train), cfg.batch_size, step, cfg.seed)]
            batch = ranking_batch(parts.codec, rankings, model.context)
            model.hf.train()
            metrics = gradient(cfg, model, batch)
            metrics |= optimizer.clip()
            share = cosine(step, steps, int(cfg.warmup * steps))
            if guard.ok(step, metrics, batch.sequences.tensors() | {"places": batch.places}):
                optimizer.step(share)
            else:
                optimizer.clear()
            run.log(step, {**metrics, "lr": cfg.lr * share}, {"step": time.perf_counter() - started})
            advance(1, f"loss {metrics['loss']:.3f}  accuracy {metrics['accuracy']:.2f}")
            if run.due(step) and step + 1 < steps:
                tensors = prefixed("reward", model.state()) | prefixed("optimizer", optimizer.state())
                run.save(step + 1, tensors, {"guard": guard.state()})
            run.check()
    model.mean, model.std = normalisation(cfg, parts)
    model.save(run.folder / "model", parts.codec.tokenizer)
    run.finish({**test(parts), "mean": model.mean, "std": model.std, "data": parts.described, "steps": steps})


def gradient(cfg: Reward, model: ScalarModel, batch: RankingBatch) -> dict[str, float]:
    """Accumulate the gradient of one batch, slice by slice of whole rankings; returns its statistics."""
    answers, prompts = batch.sequences.response_lengths[batch.index], batch.sequences.prompt_lengths[batch.index[:, 0]]
    lengths = prompts + torch.where(batch.mask, answers, 0).sum(1)  # a prompt is read once for all its responses
    weight, rankings, loss, right, pairs = batch.weight.sum(), len(batch.index), 0.0, 0.0, 0
    for index in slices(lengths, cfg.micro_tokens or model.forward.tokens):
        part, mask = batch.index[index], batch.mask[index]
        last, mean = (spread(x, mask) for x in readings(model, batch.sequences[part[mask]]))
        mask, places, margin, share = (x[index].to(model.device) for x in (batch.mask, batch.places, batch.margin, batch.weight))
        part_loss = ranking_loss(last, places, mask, margin, share, weight.to(model.device))
        if cfg.token_weight:
            part_loss = part_loss + cfg.token_weight * ranking_loss(mean, places, mask, margin, share, weight.to(model.device))
        part_loss = part_loss + cfg.centring * centring_loss(last, mask, rankings)
        part_loss.backward()
        loss += float(part_loss.detach())
        good, n = ordered(last.detach(), places, mask)
        right, pairs = right + good, pairs + n
    return {"loss": loss, "accuracy": right / max(1, pairs), "pairs": pairs}


def readings(model: ScalarModel, sequences: Sequences) -> tuple[Tensor, Tensor]:
    """[B] the head's number at the last token, which is the score, and [B] its mean over the response's tokens.

    A trunk that never had to say anything at the end of a text learns slowly from there alone: the path from a word to
    the score is long.  The mean's is short; what it teaches the trunk serves the last token too.
    """
    before, last = model.values(sequences)
    lengths = sequences.response_lengths.to(last.device)
    return last, (before[:, 1:].sum(1) + last) / lengths


def spread(x: Tensor, mask: Tensor) -> Tensor:
    """[M] numbers as [N, K] where the mask is True, in its order."""
    return torch.zeros(mask.shape, device=x.device).index_put(tuple(mask.nonzero(as_tuple=True)), x)


def ordered(scores: Tensor, places: Tensor, mask: Tensor) -> tuple[float, int]:
    """Untied pairs that the scores put in the people's order (equal scores count a half), and how many there are."""
    better = mask[:, :, None] & mask[:, None, :] & (places[:, :, None] < places[:, None, :])
    gap = scores[:, :, None] - scores[:, None, :]
    return float(((gap > 0) + 0.5 * (gap == 0))[better].sum()), int(better.sum())


@torch.no_grad()
def scores_of(parts: Parts, rankings: list[Ranking]) -> list[list[float]]:
    """The model's score for each response of each ranking."""
    parts.model.hf.eval()
    batch = ranking_batch(parts.codec, rankings, parts.model.context)
    flat = parts.model.score(batch.sequences).cpu()
    return [flat[row[mask]].tolist() for row, mask in zip(batch.index, batch.mask, strict=True)]


@torch.no_grad()
def normalisation(cfg: Reward, parts: Parts) -> tuple[float, float]:
    """Mean and standard deviation of the score on fresh responses of the model that the policy starts from."""
    parts.model.hf.eval()
    texts = {r.prompt.text: r.prompt for r in parts.train}
    prompts = [parts.codec.encode_prompt(p) for p in texts.values()]
    chosen = [prompts[i] for i in shuffled(len(prompts), cfg.normalise_on, 0, derive(cfg.seed, "normalise"))]
    engine = NativeEngine(parts.codec.tokenizer, parts.codec.end_ids)
    engine.sync(parts.start)
    with progress("normalise", len(chosen)) as advance:
        seeds = [derive(cfg.seed, "normalise", i) for i in range(len(chosen))]
        rollout = engine.generate(chosen, seeds, cfg.sampling, cumulative(advance))
    raw = parts.model.score(rollout.sequences)
    return float(raw.mean()), max(float(raw.std(correction=0)), 1e-6)


def test(parts: Parts) -> dict:
    """Held-out accuracy with its interval, what length alone reaches, the labellers' own agreement, calibration."""
    scores, places = scores_of(parts, parts.test), [r.places for r in parts.test]
    prompts = [r.prompt.id for r in parts.test]
    lengths = [[float(len(response)) for response in r.responses] for r in parts.test]
    agreement = labeller_agreement(parts.test)
    gaps = [gap * parts.model.std for gaps in pair_differences(scores, places) for gap in gaps]
    bins = calibration(gaps, [1.0] * len(gaps))
    return {
        "accuracy": asdict(accuracy(scores, places, prompts)),
        "length_baseline": asdict(length_rule_accuracy(lengths, places, prompts)),
        "agreement": asdict(agreement) if agreement else None,
        "calibration": [asdict(b) for b in bins],
        "calibration_error": expected_calibration_error(bins),
        "test_rankings": len(parts.test),
    }
