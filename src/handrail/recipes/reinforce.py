"""REINFORCE and its kin: the policy gradient without a critic that looks ahead.

for each step:
    y_1..y_K ~ pi(. | x)                                  act       (or: conversations; or responses that people have rated)
    r_t = -beta KL_t,  r_T += reward(x, y)                judge
    A_t = (G_t - b) c                                     credit    G_t: the whole return, or the reward to go
    theta <- theta + lr grad sum_t A_t log pi(y_t)        improve   or another objective, in several passes

The baseline b and the factor c tell RLOO, GRPO, Dr. GRPO and REINFORCE++ apart: they are objects, like the credit, the
objective and the source of responses, which `handrail.recipes.reinforce_parts.build` makes from the config.
"""

import time
from functools import partial

import torch
from torch import Tensor

from handrail.algo.advantage import carry_over, token_rewards, whole_return
from handrail.algo.kl import kl_k1
from handrail.algo.objective import entropy_bonus
from handrail.algo.stats import explained_variance, masked_mean, response_sum
from handrail.batch import Experience, Rollout
from handrail.models import groups
from handrail.recipes.experience import minibatches, moved, paid_for, variety, widen
from handrail.recipes.parts import constant, open_run, prefixed, seed_everything, under
from handrail.recipes.preflight import Dry, preflight
from handrail.recipes.progress import progress
from handrail.recipes.reinforce_parts import Fresh, Parts, Reinforcement, Verdict, build, trace
from handrail.track import Guard, Run


def run(cfg: Reinforcement) -> Run:
    """Train, from the start or from the last checkpoint, and leave the policy in the run folder."""
    parts, inputs = build(cfg)
    with open_run(cfg.out, "reinforce", cfg, cfg.run, inputs) as run:
        if not run.finished:
            if isinstance(parts.source, Fresh):
                first = parts.policy, parts.reference, parts.source.reward.model, parts.source.answers.prompts
                tokens = cfg.micro_tokens or parts.policy.forward.tokens
                forward = partial(parts.policy.logp_and_entropy, temperature=parts.temperature)
                dry = Dry(forward, parts.optimizer.weights, tokens, cfg.batch_size // cfg.minibatches)
                preflight(run, cfg.run, parts.codec, *first, cfg.sampling, cfg.seed, dry)
            train(cfg, parts, run)
    return run


def train(cfg: Reinforcement, parts: Parts, run: Run) -> None:
    """Run REINFORCE to its last step.  Tensors are [B, T] over response tokens unless said otherwise."""
    guards = {"rollout": Guard(3, run), "update": Guard(3, run)}
    restore(parts, guards, run)
    parts.eval()
    metrics: dict[str, float | int | str] = {}
    with progress("reinforce", cfg.steps, run.step) as advance:
        for step in range(run.step, cfg.steps):
            clock = [time.perf_counter()]
            seed_everything(cfg.seed, "step", step)

            rollout, numbers = parts.source.act(parts.policy, step)
            clock.append(time.perf_counter())
            verdict = judge(parts, rollout, numbers)
            experience, total = credit(cfg, parts, rollout, verdict)
            parts.witness.begin(step, rollout)
            clock.append(time.perf_counter())
            sums = {"reward": float(verdict.reward.sum()), "logp": float(verdict.logp.sum())}
            good = guards["rollout"].ok(step, sums, rollout.tensors())
            updated = improve(cfg, parts, experience, step, guards["update"]) if good else {}
            clock.append(time.perf_counter())

            seen = summary(parts, experience, verdict)
            metrics = {**seen, **updated}
            names = ("act", "judge", "improve")
            run.log(step, metrics, {n: b - a for n, a, b in zip(names, clock, clock[1:], strict=False)})
            if parts.witness.on:
                run.trace(step, trace(cfg, parts, experience, verdict, step))
            advance(1, f"reward {seen['reward']:+.2f}  kl {seen['kl']:.1f}  length {seen['length']:.0f}")
            if good:
                parts.baseline.learn(total)
                parts.divergence.adapt(seen["kl"], len(rollout))
            if run.due(step) and step + 1 < cfg.steps:
                run.save(step + 1, *state(parts, guards))
            run.check()
    parts.parallel.first(lambda: parts.policy.save(run.folder / "model", parts.codec.tokenizer))
    run.finish({**metrics, "prompts": parts.described, "steps": cfg.steps})


@torch.no_grad()
def judge(parts: Parts, rollout: Rollout, numbers: list[int]) -> Verdict:
    """Everything is computed again by the trainer, so that no difference to the engine leaks into the ratio."""
    each, sequences = parts.parallel.each, rollout.sequences
    logp, entropy = each(lambda rows: parts.policy.logp_and_entropy(rows, parts.temperature), sequences)
    logp_ref = each(lambda rows: parts.reference.logp(rows, parts.temperature), sequences)
    return parts.source.judge(rollout, numbers, logp, logp_ref, entropy)


def credit(cfg: Reinforcement, parts: Parts, rollout: Rollout, verdict: Verdict) -> tuple[Experience, Tensor]:
    """From the rewards to each token's advantage; and [D] what each conversation earned in all, a response being one of one turn."""
    mask = rollout.mask
    kl = kl_k1(verdict.logp, verdict.logp_ref)
    rewards = token_rewards(verdict.score, kl, mask, parts.divergence.in_reward) + verdict.tokens
    rewards = carry_over(rewards, mask, cfg.gamma, verdict.turns.following)
    returns, total = parts.credit(rewards, mask, cfg.gamma), whole_return(rewards, mask, cfg.gamma)[: len(verdict.group), 0]
    found = parts.baseline(returns, total, rollout, verdict.group)
    baseline, factor = (x[verdict.turns.number] if len(x) == len(total) else x for x in found)
    values = torch.where(mask, baseline, 0)
    advantage = torch.where(mask, (returns - values) * factor, 0)
    return Experience(rollout, verdict.logp_old, verdict.logp_ref, values, advantage, returns), total


def improve(cfg: Reinforcement, parts: Parts, experience: Experience, step: int, guard: Guard) -> dict[str, float]:
    """Passes over the step's responses in minibatches."""
    share = constant(step, cfg.steps, cfg.warmup)
    experience = experience[parts.source.kept(experience.rollout.ended)]
    sums: dict[str, float] = {}
    updates, first = 0, 0.0  # approx_kl before anything moved
    for minibatch in minibatches(experience, cfg.epochs, cfg.minibatches, cfg.seed, step):
        stats = gradient(cfg, parts, minibatch)
        stats |= parts.mix.gradient(parts.policy, step * cfg.epochs * cfg.minibatches + updates, cfg.micro_tokens)
        stats |= parts.optimizer.clip()
        if guard.ok(step, stats, minibatch.rollout.tensors()):
            parts.optimizer.step(share)
        else:
            parts.optimizer.clear()
        first = stats["approx_kl"] if not updates else first
        updates += 1
        sums = {name: sums.get(name, 0.0) + value for name, value in stats.items()}
    if not updates:  # every response was left out
        return {"updates": 0}
    adapted = parts.objective.adapt(lambda: moved(parts.policy, experience, parts.temperature, parts.parallel))
    return {name: value / updates for name, value in sums.items()} | {"updates": updates, "ratio_error": first} | adapted


def gradient(cfg: Reinforcement, parts: Parts, minibatch: Experience) -> dict[str, float]:
    """Accumulate the gradient of one minibatch, slice by slice; the count is the whole minibatch's."""
    count, weight = minibatch.mask.sum(), parts.weigh(minibatch.mask)
    sums: dict[str, Tensor] = {}
    for index in parts.parallel.share(groups, minibatch.rollout.lengths.cpu(), cfg.micro_tokens or parts.policy.forward.tokens):
        index = index.to(minibatch.advantage.device)
        part, share = minibatch[index], weight[index]
        logp, entropy = parts.policy.logp_and_entropy(part.rollout.sequences, parts.temperature)
        logp, entropy = widen(logp, part.mask), widen(entropy, part.mask)
        policy_loss, stats = parts.objective(logp, part.logp_old, share * part.advantage, part.mask, count)
        policy_loss = policy_loss + parts.divergence.loss(logp, part.logp_ref, part.mask, count, share)
        learnt, said = parts.baseline.loss(part, count)
        parts.witness.saw(index, count, share, {"logp": logp, "entropy": entropy} | said)
        loss = sum(learnt.values(), policy_loss - cfg.entropy_coef * entropy_bonus(entropy, part.mask, count))
        loss.backward()
        stats |= {"policy_loss": policy_loss.detach()} | {name: value.detach() for name, value in learnt.items()}
        sums = {name: sums.get(name, 0) + value for name, value in stats.items()}
    return parts.parallel.totals(sums)


def summary(parts: Parts, experience: Experience, verdict: Verdict) -> dict[str, float]:
    """What is logged of one step, before the update moved anything; the divergence unclamped, in nats a response."""
    mask, rollout, final = experience.mask, experience.rollout, verdict.turns.following < 0
    earned = verdict.turns.total(verdict.reward.float())
    return {
        "reward": float(earned.mean()),
        "reward_std": float(earned.std(correction=0)),
        **{name: float((value[final] if len(value) == len(final) else value).mean()) for name, value in verdict.components.items()},
        "kl": float(response_sum(parts.source.kl(verdict), mask).mean()),
        "beta": parts.divergence.beta,
        "length": float(rollout.response_lengths.float().mean()),
        "ended": float(rollout.ended.float().mean()),
        "entropy": float(masked_mean(verdict.entropy, mask)),
        "value": float(masked_mean(experience.values_old, mask)),
        "return": float(masked_mean(experience.returns, mask)),
        "advantage_std": float(masked_mean(experience.advantage**2, mask).sqrt()),
        "explained_variance": float(explained_variance(experience.values_old, experience.returns, mask)),
        **parts.source.seen(rollout, verdict, earned),
        **paid_for(earned, verdict.turns.total(rollout.response_lengths.float()), verdict.components),
        **variety(verdict.texts),
    }


def state(parts: Parts, guards: dict[str, Guard]) -> tuple[dict[str, Tensor], dict]:
    """All that a step depends on beside the config and the inputs."""
    tensors = prefixed("policy", parts.policy.state()) | prefixed("baseline", parts.baseline.state())
    return tensors | prefixed("optimizer", parts.optimizer.state()), {
        "guards": {name: guard.state() for name, guard in guards.items()},
        "beta": parts.divergence.beta,
        "penalty": parts.objective.beta,
        "average": [parts.baseline.average, parts.baseline.weight],
    }


def restore(parts: Parts, guards: dict[str, Guard], run: Run) -> None:
    """What `state` returned, from the newest good checkpoint, if there is one."""
    if saved := run.restore():
        parts.policy.load_state(under("policy", saved.tensors))
        parts.baseline.load_state(under("baseline", saved.tensors))
        parts.optimizer.load_state(under("optimizer", saved.tensors))
        parts.divergence.beta, parts.objective.beta = saved.state["beta"], saved.state["penalty"]
        parts.baseline.average, parts.baseline.weight = saved.state["average"]
        for name, guard in guards.items():
            guard.load_state(saved.state["guards"][name])
