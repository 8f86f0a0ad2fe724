"""A reward model from rankings.

for each batch of rankings (x, y_1..y_K, places), each by a criterion:
    for each head of that criterion, on its own resample of the rankings where there are several:
        loss = -mean over pairs i better than j of  log sigmoid(r(x, y_i) - r(x, y_j)),  or -log P(places), Plackett-Luce
        loss += c times the same, with the head's mean over the response's tokens for r
    theta <- theta - lr grad loss
then r <- (r - m) / s, with m and s over responses of the model that the policy starts from

Ouyang et al. 2022; Stiennon et al. 2020; for several heads Coste et al. 2023.  The loss, the heads and what each of
them sees are objects that `handrail.recipes.reward_parts.build` makes from the config.
"""

import logging
import time
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from handrail.algo.preference import centring_loss
from handrail.batch import RankingBatch, Sequences
from handrail.data import ranking_batch
from handrail.errors import ModelError
from handrail.evaluate import attributions, chosen_pairs, held_out, responses_of, scores_of, verdicts
from handrail.models import ScalarModel, token_attributions
from handrail.recipes.parts import (
    Readings,
    cosine,
    derive,
    native_engine,
    of_rows,
    open_run,
    prefixed,
    seed_everything,
    shuffled,
    slices,
    spelt,
    under,
)
from handrail.recipes.progress import cumulative, progress
from handrail.recipes.reward_parts import Loss, Parts, Reward, build
from handrail.track import Guard, Run

logger = logging.getLogger(__name__)


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
            seed_everything(cfg.seed, "step", step, *parts.parallel.apart)  # of dropout
            rows = shuffled(len(parts.train), cfg.batch_size, step, cfg.seed)
            batch = ranking_batch(parts.codec, [parts.train[i] for i in rows], model.context)
            model.hf.train()
            metrics, read = gradient(cfg, parts, batch, rows)
            if cfg.run.traced(step, steps):
                run.trace(step, trace(cfg, parts, batch, rows, read))
            metrics |= optimizer.clip()
            share = cosine(step, steps, int(cfg.warmup * steps))
            if guard.ok(step, metrics, batch.sequences.tensors() | {"places": batch.places}):
                optimizer.step(share)
            else:
                optimizer.clear()
            run.log(step, {**metrics, "lr": cfg.lr * share}, {"improve": time.perf_counter() - started})
            advance(1, f"loss {metrics['loss']:.3f}  accuracy {metrics['accuracy']:.2f}")
            if run.due(step) and step + 1 < steps:
                tensors = prefixed("reward", model.state()) | prefixed("optimizer", optimizer.state())
                run.save(step + 1, tensors, {"guard": guard.state()})
            run.check()
    model.normalise(outputs(cfg, parts))
    parts.parallel.first(lambda: model.save(run.folder / "model", parts.codec.tokenizer))
    scores = scores_of(model, parts.codec, parts.test, partial(parts.parallel.each, model.head_scores))
    run.keep_lines("verdicts.jsonl", verdicts(model, parts.test, scores))
    run.keep_lines("attributions.jsonl", attributed(cfg, parts, scores))
    run.finish({**held_out(model, parts.test, scores), "mean": model.mean, "std": model.std, "data": parts.described, "steps": steps})


def gradient(cfg: Reward, parts: Parts, batch: RankingBatch, rows: list[int]) -> tuple[dict[str, float], Readings]:
    """Accumulate the gradient of one batch, `rows` of the rankings, slice by slice.

    Returns its statistics, and of each ranking [K, M, 2] what each member said: its score, and its mean over the tokens.
    """
    model, criteria, lead = parts.model, parts.criterion[rows], cfg.margin_per_point * batch.ratings
    answers, prompts = batch.sequences.response_lengths[batch.index], batch.sequences.prompt_lengths[batch.index[:, 0]]
    lengths = prompts + torch.where(batch.mask, answers, 0).sum(1)  # a prompt is read once for all its responses
    count, seen = batch.weight.sum().to(model.device), batch.weight[:, None] * parts.share[rows]
    rankings, loss, right, pairs, read = len(batch.index), 0.0, 0.0, 0, Readings()
    for index in parts.parallel.share(slices, lengths, cfg.micro_tokens or model.forward.tokens):
        part, mask = batch.index[index], batch.mask[index]
        found = readings(model, batch.sequences[part[mask]])
        mask, places, margin = (x[index].to(model.device) for x in (batch.mask, batch.places, batch.margin))
        weight, criterion = (x[index].to(model.device) for x in (seen, criteria))
        last, mean = (model.heads.own(spread(x, mask), criterion).unbind(-1) for x in found)
        read.append((index, torch.stack([torch.stack(heads, -1) for heads in (last, mean)], -1).detach()))
        asked, asked_mean = ([x - lead[index].to(x) for x in heads] if cfg.margin_per_point else heads for heads in (last, mean))
        part_loss = over_members(parts.loss, asked, places, mask, margin, weight, count)
        if cfg.token_weight:
            part_loss = part_loss + cfg.token_weight * over_members(parts.loss, asked_mean, places, mask, margin, weight, count)
        part_loss = part_loss + cfg.centring * torch.stack([centring_loss(x, mask, rankings) for x in last]).mean()
        part_loss.backward()
        loss += float(part_loss.detach())
        good, n = ordered(torch.stack(last).detach().mean(0), places, mask)
        right, pairs = right + good, pairs + n
    sums = parts.parallel.totals({"loss": loss, "right": right, "pairs": pairs})
    return {"loss": sums["loss"], "accuracy": sums["right"] / max(1, sums["pairs"]), "pairs": int(sums["pairs"])}, read


def trace(cfg: Reward, parts: Parts, batch: RankingBatch, rows: list[int], read: Readings) -> dict[str, list]:
    """The first rankings of a step as far as there is room, and what its loss has read of them; a row a response.

    The responses of a ranking have the same `group`, and people's `rank`, 1 for the best; lists have a number a member.
    """
    whole = max(1, int((batch.mask.sum(1).cumsum(0) <= cfg.run.trace_rows).sum()))  # a ranking is cut where not even one fits
    group, place = (x[: cfg.run.trace_rows] for x in batch.mask[:whole].nonzero(as_tuple=True))
    said = of_rows(range(whole), read, parts.parallel)
    weight, prompts = (batch.weight[:, None] * parts.share[rows])[group], [parts.train[rows[n]].prompt for n in group.tolist()]
    places = list(zip(group.tolist(), place.tolist(), strict=True))
    return {
        "prompt_id": [prompt.id for prompt in prompts],
        "prompt": [prompt.text for prompt in prompts],
        **spelt(parts.codec, batch.sequences[batch.index[group, place]]),
        "group": group.tolist(),
        "size": batch.mask.sum(1)[group].tolist(),
        "place": place.tolist(),
        "rank": batch.places[group, place].tolist(),
        **{name: [[member[i] for member in said[n][k]] for n, k in places] for i, name in enumerate(("member_scores", "member_means"))},
        "member_weights": weight.tolist(),
        "lead": (cfg.margin_per_point * batch.ratings[group, place]).tolist(),
        "margin": batch.margin[group].tolist(),
        "count": [float(batch.weight.sum())] * len(places),
    }


def over_members(
    loss: Loss, scores: Sequence[Tensor], places: Tensor, mask: Tensor, margin: Tensor, weight: Tensor, count: Tensor
) -> Tensor:
    """The mean loss of an ensemble's members, scores [N, K] each, with weights of its own, [N, M]."""
    return torch.stack([loss(x, places, mask, margin, w, count) for x, w in zip(scores, weight.unbind(-1), strict=True)]).mean()


def readings(model: ScalarModel, sequences: Sequences) -> tuple[Tensor, Tensor]:
    """[B, H] each head's number at the last token, which is the score, and [B, H] its mean over the response's tokens.

    A trunk that never had to say anything at the end of a text learns slowly from there alone: the path from a word to
    the score is long.  The mean's is short; what it teaches the trunk serves the last token too.
    """
    before, last = model.head_values(sequences)
    lengths = sequences.response_lengths.to(last.device)
    return last, (before[:, 1:].sum(1) + last) / lengths[:, None]


def spread(x: Tensor, mask: Tensor) -> Tensor:
    """[M, H] numbers as [N, K, H] where the mask is True, in its order."""
    return x.new_zeros(*mask.shape, x.shape[1]).index_put(tuple(mask.to(x.device).nonzero(as_tuple=True)), x)


def ordered(scores: Tensor, places: Tensor, mask: Tensor) -> tuple[float, int]:
    """Untied pairs that the scores put in the people's order (equal scores count a half), and how many there are."""
    better = mask[:, :, None] & mask[:, None, :] & (places[:, :, None] < places[:, None, :])
    gap = scores[:, :, None] - scores[:, None, :]
    return float(((gap > 0) + 0.5 * (gap == 0))[better].sum()), int(better.sum())


@torch.no_grad()
def outputs(cfg: Reward, parts: Parts) -> Tensor:
    """[R, H] the heads' outputs on fresh responses of the model that the policy starts from, to normalise on."""
    parts.model.hf.eval()
    texts = {r.prompt.text: r.prompt for r in parts.train}
    prompts = [parts.codec.encode_prompt(p) for p in texts.values()]
    chosen = [prompts[i] for i in shuffled(len(prompts), cfg.normalise_on, 0, derive(cfg.seed, "normalise"))]
    engine = native_engine(parts.codec)
    engine.sync(parts.start)
    with progress("normalise", len(chosen)) as advance:
        seeds = [derive(cfg.seed, "normalise", i) for i in range(len(chosen))]
        rollout = engine.generate(chosen, seeds, cfg.sampling, cumulative(advance))
    return parts.parallel.each(parts.model.head_scores, rollout.sequences)


def attributed(cfg: Reward, parts: Parts, scores: list[Tensor]) -> list[dict]:
    """Of some held-out pairs, what each token adds to the score; none where the model cannot be asked."""
    asked = chosen_pairs(parts.model, parts.test, scores, derive(cfg.seed, "attribution"))
    with progress("attribute", -(-len(responses_of(asked)) // parts.parallel.world)) as advance:
        ask = partial(parts.parallel.each, partial(token_attributions, parts.model, done=cumulative(advance)))
        try:
            return attributions(parts.model, parts.codec, parts.test, asked, ask)
        except ModelError as error:
            logger.warning("no attributions: %s", error)
            return []
