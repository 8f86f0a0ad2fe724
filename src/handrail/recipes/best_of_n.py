"""Best of n and weighted regression: the policy imitates its own better responses.

for each round k, of as many steps as another:
    pi_k <- theta                                             frozen until the next round
    for each step of it:
        y_1 .. y_n ~ pi_k(. | x),  r_i = reward(x, y_i)       act, judge
        w = 1 for the best of n, 0 for the others             or exp(r / beta), or exp((r - mean) / beta)
        for each epoch and minibatch:                         improve
            theta <- theta + lr grad sum_i w_i log theta(y_i | x)

One round is best-of-n distillation (Stiennon et al. 2020), several are iterated rejection sampling (RAFT, Dong et al. 2023;
ReST, Gulcehre et al. 2023); the other weights are reward-weighted regression (Peters and Schaal 2007) and
advantage-weighted regression (Peng et al. 2019).  Sampler, weighting and reward are objects that
`handrail.recipes.best_of_n_parts.build` makes from the config.
"""

import time
from collections.abc import Iterator

import torch
from torch import Tensor

from handrail.algo.kl import kl_k1
from handrail.algo.regression import best_of_n_weights, weighted_nll
from handrail.algo.stats import masked_mean
from handrail.batch import Rollout
from handrail.models import LanguageModel, groups
from handrail.recipes.best_of_n_parts import BestOfN, Judged, Parts, build, trace
from handrail.recipes.experience import paid_for, variety
from handrail.recipes.parts import constant, derive, generator, open_run, prefixed, seed_everything, shuffled, under
from handrail.recipes.preflight import Dry, preflight
from handrail.recipes.progress import progress
from handrail.track import Guard, Run


def run(cfg: BestOfN) -> Run:
    """Train, from the start or from the last checkpoint, and leave the policy in the run folder."""
    parts, inputs = build(cfg)
    with open_run(cfg.out, "best_of_n", cfg, cfg.run, inputs) as run:
        if not run.finished:
            first = parts.policy, parts.reference, parts.reward.model, parts.prompts
            tokens = cfg.micro_tokens or parts.policy.forward.tokens
            dry = Dry(parts.policy.logp_and_entropy, parts.optimizer.weights, tokens, cfg.batch_size * cfg.n // cfg.minibatches)
            preflight(run, cfg.run, parts.codec, *first, cfg.sampling, cfg.seed, dry)
            train(cfg, parts, run)
    return run


def train(cfg: BestOfN, parts: Parts, run: Run) -> None:
    """Run to the last step."""
    guards = {"rollout": Guard(3, run), "update": Guard(3, run)}  # a good rollout must not excuse the bad update before it
    restore(parts, guards, run)
    parts.eval()
    metrics: dict[str, float | int | str] = {}
    with progress("best of n", cfg.steps, run.step) as advance:
        for step in range(run.step, cfg.steps):
            clock = [time.perf_counter()]
            seed_everything(cfg.seed, "step", step)
            parts.sampler.begin(step)

            sampled = act(cfg, parts, step)
            weight = parts.weighting(sampled.score, parts.group)
            parts.witness.begin(step, sampled.rollout)
            clock.append(time.perf_counter())
            own = look(cfg, parts, step, sampled)
            clock.append(time.perf_counter())
            seen = summary(cfg, parts, step, sampled, weight)
            columns = trace(cfg, parts, sampled, weight) if parts.witness.on else {}
            good = guards["rollout"].ok(step, {"reward": float(sampled.score.sum())}, sampled.rollout.tensors())
            updated = improve(cfg, parts, sampled.rollout, weight, step, guards["update"]) if good else {}
            clock.append(time.perf_counter())

            metrics = {**seen, **own, **updated}
            names = ("act", "look", "improve")
            run.log(step, metrics, {n: b - a for n, a, b in zip(names, clock, clock[1:], strict=False)})
            if parts.witness.on:
                rows = (weight > 0).nonzero()[:, 0].cpu()
                run.trace(step, columns | parts.witness.columns(rows, minibatches(cfg, len(rows), step), columns["length"]))
            advance(1, f"sampled {seen['sampled_reward']:+.2f}  imitated {seen['target_reward']:+.2f}")
            if run.due(step) and step + 1 < cfg.steps:
                run.save(step + 1, *state(parts, guards, step + 1))
            run.check()
    parts.parallel.first(lambda: parts.policy.save(run.folder / "model", parts.codec.tokenizer))
    run.finish({**metrics, "prompts": parts.described, "steps": cfg.steps})


def act(cfg: BestOfN, parts: Parts, step: int) -> Judged:
    """n responses of the round's sampler to each prompt of the step, those to one prompt next to each other, judged."""
    prompts = [i for i in shuffled(len(parts.prompts), cfg.batch_size, step, cfg.seed) for _ in range(cfg.n)]
    seeds = [derive(cfg.seed, "rollout", step, row) for row in range(len(prompts))]
    return judge(cfg, parts, parts.sampler.model, prompts, seeds)


@torch.no_grad()
def judge(cfg: BestOfN, parts: Parts, model: LanguageModel, prompts: list[int], seeds: list[int]) -> Judged:
    """Responses of a model to prompts, and what the source of the reward says of them."""
    parts.engine.sync(model)
    rollout = parts.engine.generate([parts.prompt_ids[i] for i in prompts], seeds, cfg.sampling).to(parts.policy.device)
    asked, texts = [parts.prompts[i] for i in prompts], [parts.codec.decode(ids) for ids in rollout.responses()]
    score, components = parts.reward(rollout, asked, texts)
    return Judged(rollout, asked, texts, score, components)


def look(cfg: BestOfN, parts: Parts, step: int, sampled: Judged) -> dict[str, float]:
    """What the policy's own responses are worth, before the update.  Where another samples, now and then on fresh ones."""
    if parts.sampler.model is parts.policy:
        return own_responses(parts, sampled)
    if step % cfg.eval_every and step + 1 < cfg.steps:
        return {}
    prompts = shuffled(len(parts.prompts), cfg.eval_responses, step, derive(cfg.seed, "look"))
    seeds = [derive(cfg.seed, "look", step, row) for row in range(len(prompts))]
    return own_responses(parts, judge(cfg, parts, parts.policy, prompts, seeds))


@torch.no_grad()
def own_responses(parts: Parts, own: Judged) -> dict[str, float]:
    """Figures on responses that the policy itself has sampled; the divergence unclamped, in nats a response."""
    rollout, each = own.rollout, parts.parallel.each
    logp, entropy = each(lambda rows: parts.policy.logp_and_entropy(rows, parts.temperature), rollout.sequences)
    logp_ref = each(lambda rows: parts.reference.logp(rows, parts.temperature), rollout.sequences)
    return {
        "reward": float(own.score.mean()),
        "reward_std": float(own.score.std(correction=0)),
        **{name: float(value.mean()) for name, value in own.components.items()},
        "kl": float(masked_mean(kl_k1(logp, logp_ref), rollout.mask, len(rollout))),
        "length": float(rollout.response_lengths.float().mean()),
        "ended": float(rollout.ended.float().mean()),
        "entropy": float(masked_mean(entropy, rollout.mask)),
        "engine_difference": float(masked_mean((logp - rollout.logp).abs(), rollout.mask)),
        **paid_for(own.score, rollout.response_lengths.float(), own.components),
        **variety(own.texts),
    }


def summary(cfg: BestOfN, parts: Parts, step: int, sampled: Judged, weight: Tensor) -> dict[str, float]:
    """What was sampled, and what of it is imitated."""
    score, lengths = sampled.score, sampled.rollout.response_lengths.float()
    share, number = weight / weight.sum(), step // cfg.round_steps
    return {
        "round": number,
        "sampled_reward": float(score.mean()),
        "best_reward": float((best_of_n_weights(score, parts.group) * score).sum() / cfg.batch_size),
        "target_reward": float((share * score).sum()),
        "sampled_length": float(lengths.mean()),
        "target_length": float((share * lengths).sum()),
        "effective_share": float(1 / (share**2).sum() / len(share)),
        **parts.weighting.bound(cfg.n, number + 1),
    }


def improve(cfg: BestOfN, parts: Parts, rollout: Rollout, weight: Tensor, step: int, guard: Guard) -> dict[str, float]:
    """Several epochs of minibatches over the responses of one step that have a weight."""
    rollout, weight = rollout[weight > 0], weight[weight > 0]
    share = constant(step, cfg.steps, cfg.warmup)
    # A minibatch's equal part of the whole: with a count of its own, one of small weights would teach as much as another.
    count = (weight * rollout.response_lengths).sum() / cfg.minibatches
    sums: dict[str, float] = {}
    updates = 0
    for index in minibatches(cfg, len(rollout), step):
        index = index.to(weight.device)
        stats = gradient(cfg, parts, rollout[index], weight[index], count) | parts.optimizer.clip()
        if guard.ok(step, stats, rollout[index].tensors() | {"weight": weight[index]}):
            parts.optimizer.step(share)
        else:
            parts.optimizer.clear()
        updates += 1
        sums = {name: sums.get(name, 0.0) + value for name, value in stats.items()}
    return {name: value / updates for name, value in sums.items()} | {"updates": updates}


def minibatches(cfg: BestOfN, responses: int, step: int) -> Iterator[Tensor]:
    """Indices of each response once an epoch, reshuffled every epoch."""
    for epoch in range(cfg.epochs):
        order = torch.randperm(responses, generator=generator(cfg.seed, "minibatch", step, epoch))
        yield from order.tensor_split(min(cfg.minibatches, responses))


def gradient(cfg: BestOfN, parts: Parts, rollout: Rollout, weight: Tensor, count: Tensor) -> dict[str, float]:
    """Accumulate the gradient of one minibatch, slice by slice; returns its loss."""
    loss = 0.0
    for index in parts.parallel.share(groups, rollout.lengths.cpu(), cfg.micro_tokens or parts.policy.forward.tokens):
        index = index.to(weight.device)
        sequences = rollout.sequences[index]
        logp = parts.policy.logp(sequences, parts.temperature)
        parts.witness.saw(index, count, weight[index, None], {"logp": logp})
        part_loss = weighted_nll(logp, weight[index], sequences.mask, count)
        part_loss.backward()
        loss += float(part_loss.detach())
    return parts.parallel.totals({"loss": loss})


def state(parts: Parts, guards: dict[str, Guard], step: int) -> tuple[dict[str, Tensor], dict]:
    """All that `step` depends on beside the config and the inputs."""
    tensors = prefixed("policy", parts.policy.state()) | prefixed("sampler", parts.sampler.state(step))
    tensors |= prefixed("optimizer", parts.optimizer.state())
    return tensors, {"guards": {name: guard.state() for name, guard in guards.items()}}


def restore(parts: Parts, guards: dict[str, Guard], run: Run) -> None:
    """What `state` returned, from the newest good checkpoint, if there is one."""
    if saved := run.restore():
        parts.policy.load_state(under("policy", saved.tensors))
        parts.sampler.load_state(under("sampler", saved.tensors))
        parts.optimizer.load_state(under("optimizer", saved.tensors))
        for name, guard in guards.items():
            guard.load_state(saved.state["guards"][name])
