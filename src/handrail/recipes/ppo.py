"""PPO from human feedback.

for each step:
    y ~ pi_old(. | x)                                     act
    r_t = -beta KL_t,  r_T += reward(x, y)                judge
    A, R = GAE(r, V_old)                                  credit
    for each epoch and minibatch:                         improve
        theta <- theta - lr grad [ L_clip(theta) + c_v L_value(theta) - c_h H(theta) ]      (+ c_x L_sft(theta): PPO-ptx)

Ziegler et al. 2019; Ouyang et al. 2022; Schulman et al. 2017.  The four roles, the reward, the objective and the
placement of the divergence are objects that `handrail.recipes.ppo_parts.build` makes from the config.
"""

import time

import torch
from torch import Tensor

from handrail.algo.advantage import gae_over_turns, token_rewards
from handrail.algo.kl import kl_k1
from handrail.algo.objective import entropy_bonus
from handrail.algo.stats import explained_variance, masked_mean, rescale, whiten
from handrail.batch import Experience, Rollout
from handrail.models import groups
from handrail.recipes.experience import minibatches, moved, paid_for, variety, widen
from handrail.recipes.parts import (
    constant,
    open_run,
    prefixed,
    seed_everything,
    shuffled,
    under,
)
from handrail.recipes.ppo_parts import PPO, Parts, Verdict, build, trace
from handrail.recipes.preflight import Dry, preflight
from handrail.recipes.progress import progress
from handrail.track import Guard, Run


def run(cfg: PPO) -> Run:
    """Train, from the start or from the last checkpoint, and leave the policy in the run folder."""
    parts, inputs = build(cfg)
    with open_run(cfg.out, "ppo", cfg, cfg.run, inputs) as run:
        if not run.finished:
            first = parts.policy, parts.reference, parts.reward.model, parts.answers.prompts
            tokens = cfg.micro_tokens or parts.policy.forward.tokens
            dry = Dry(parts.actor_critic, parts.optimizer.weights, tokens, cfg.batch_size // cfg.minibatches)
            preflight(run, cfg.run, parts.codec, *first, cfg.sampling, cfg.seed, dry)
            train(cfg, parts, run)
    return run


def train(cfg: PPO, parts: Parts, run: Run) -> None:
    """Run PPO to its last step.  Tensors are [B, T] over response tokens unless said otherwise."""
    guards = {"rollout": Guard(3, run), "update": Guard(3, run)}  # a good rollout must not excuse the bad update before it
    restore(parts, guards, run)
    parts.eval()
    metrics: dict[str, float | int | str] = {}
    with progress("ppo", cfg.steps, run.step) as advance:
        for step in range(run.step, cfg.steps):
            clock = [time.perf_counter()]
            seed_everything(cfg.seed, "step", step)

            rollout, numbers = act(cfg, parts, step)
            clock.append(time.perf_counter())
            verdict = judge(parts, rollout, numbers)
            experience = credit(cfg, parts, rollout, verdict)
            parts.witness.begin(step, rollout)
            clock.append(time.perf_counter())
            sums = {
                "reward": float(verdict.reward.sum()),
                "logp": float(verdict.logp.sum()),
                "value": float(verdict.values.sum()),
            }
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
                parts.divergence.adapt(seen["kl"], len(rollout))
            if run.due(step) and step + 1 < cfg.steps:
                run.save(step + 1, *state(parts, guards))
            run.check()
    parts.parallel.first(lambda: parts.policy.save(run.folder / "model", parts.codec.tokenizer))
    run.finish({**metrics, "prompts": parts.described, "steps": cfg.steps})


def act(cfg: PPO, parts: Parts, step: int) -> tuple[Rollout, list[int]]:
    """Responses of the policy as it is now, and of each row the number of its prompt, or of its conversation."""
    return parts.answers.act(parts.policy, shuffled(len(parts.answers.prompts), cfg.batch_size, step, cfg.seed), step)


@torch.no_grad()
def judge(parts: Parts, rollout: Rollout, numbers: list[int]) -> Verdict:
    """Everything is computed again by the trainer, so that no difference to the engine leaks into the ratio."""
    each, sequences = parts.parallel.each, rollout.sequences
    logp, entropy = each(lambda rows: parts.policy.logp_and_entropy(rows, parts.temperature), sequences)
    logp_ref = each(lambda rows: parts.reference.logp(rows, parts.temperature), sequences)
    values, after = each(parts.critic.values, sequences)
    texts = [parts.codec.decode(ids) for ids in rollout.responses()]
    turns = parts.answers.turns(numbers, logp.device)
    score, tokens, components = parts.reward.by_token(rollout, turns.prompts, texts)
    score, tokens = (parts.answers.earned(x, turns) for x in (score, tokens))
    components |= parts.answers.seen(turns)
    return Verdict(logp, logp_ref, entropy, values, after, score, tokens, components, texts, turns)


def credit(cfg: PPO, parts: Parts, rollout: Rollout, verdict: Verdict) -> Experience:
    """From the score and the divergence to an advantage and a return for each token."""
    mask = rollout.mask
    kl = kl_k1(verdict.logp, verdict.logp_ref)
    rewards = token_rewards(verdict.score, kl, mask, parts.divergence.in_reward) + verdict.tokens
    if cfg.rescale_rewards:
        rewards = rescale(rewards, mask)
    bootstrap = parts.reward.cut.bootstrap(verdict.after, rollout.ended)
    advantage, returns = gae_over_turns(rewards, verdict.values, mask, cfg.gamma, cfg.lam, bootstrap, verdict.turns.following)
    if cfg.whiten_advantages:
        advantage = whiten(advantage, mask)
    return Experience(rollout, verdict.logp, verdict.logp_ref, verdict.values, advantage, returns)


def improve(cfg: PPO, parts: Parts, experience: Experience, step: int, guard: Guard) -> dict[str, float]:
    """Several epochs of minibatches over one rollout; stops early when the policy has moved `target_kl`."""
    share = constant(step, cfg.steps, cfg.warmup)
    learn_policy = step >= cfg.critic_warmup
    experience = experience[parts.reward.cut.kept(experience.rollout.ended)]
    sums: dict[str, float] = {}
    updates, first = 0, 0.0  # approx_kl before anything moved
    for minibatch in minibatches(experience, cfg.epochs, cfg.minibatches, cfg.seed, step):
        stats = gradient(cfg, parts, minibatch, learn_policy)
        stats |= parts.mix.gradient(parts.policy, step * cfg.epochs * cfg.minibatches + updates, cfg.micro_tokens)
        if not learn_policy:  # a critic that is a head on the policy has reached into it
            parts.optimizer.clear("policy")
        stats |= parts.optimizer.clip()
        if guard.ok(step, stats, minibatch.rollout.tensors()):
            parts.optimizer.step(share)
        else:
            parts.optimizer.clear()
        first = stats["approx_kl"] if not updates else first
        updates += 1
        sums = {name: sums.get(name, 0.0) + value for name, value in stats.items()}
        if cfg.target_kl and stats["approx_kl"] > cfg.target_kl:
            break
    if not updates:  # every response was left out
        return {"updates": 0}
    adapted = parts.objective.adapt(lambda: moved(parts.policy, experience, parts.temperature, parts.parallel)) if learn_policy else {}
    return {name: value / updates for name, value in sums.items()} | {"updates": updates, "ratio_error": first} | adapted


def gradient(cfg: PPO, parts: Parts, minibatch: Experience, learn_policy: bool) -> dict[str, float]:
    """Accumulate the gradient of one minibatch, slice by slice; the count is the whole minibatch's."""
    count, weight = minibatch.mask.sum(), parts.weigh(minibatch.mask)
    sums: dict[str, Tensor] = {}
    for index in parts.parallel.share(groups, minibatch.rollout.lengths.cpu(), cfg.micro_tokens or parts.policy.forward.tokens):
        index = index.to(minibatch.advantage.device)
        part, share = minibatch[index], weight[index]
        logp, entropy, values = parts.actor_critic(part.rollout.sequences)
        logp, entropy, values = (widen(x, part.mask) for x in (logp, entropy, values))
        parts.witness.saw(index, count, share, {"logp": logp, "entropy": entropy, "value": values})
        policy_loss, stats = parts.objective(logp, part.logp_old, share * part.advantage, part.mask, count)
        policy_loss = policy_loss + parts.divergence.loss(logp, part.logp_ref, part.mask, count, share)
        value_loss = parts.value_loss(values, part.values_old, part.returns, part.mask, count)
        bonus = entropy_bonus(entropy, part.mask, count)
        loss = cfg.value_coef * value_loss
        if learn_policy:
            loss = loss + policy_loss - cfg.entropy_coef * bonus
        loss.backward()
        stats |= {"policy_loss": policy_loss.detach(), "value_loss": value_loss.detach()}
        sums = {name: sums.get(name, 0) + value for name, value in stats.items()}
    return parts.parallel.totals(sums)


def summary(parts: Parts, experience: Experience, verdict: Verdict) -> dict[str, float]:
    """What is logged of one step, before the update moved anything; the divergence unclamped, in nats a response."""
    mask, rollout = experience.mask, experience.rollout
    kl = masked_mean(kl_k1(verdict.logp, verdict.logp_ref), mask, len(rollout))
    engine = masked_mean((verdict.logp - rollout.logp).abs(), mask)
    earned, final = verdict.turns.total(verdict.reward), verdict.turns.following < 0
    return {
        "reward": float(earned.mean()),
        "reward_std": float(earned.std(correction=0)),
        **{name: float((value[final] if len(value) == len(final) else value).mean()) for name, value in verdict.components.items()},
        "kl": float(kl),
        "beta": parts.divergence.beta,
        "length": float(rollout.response_lengths.float().mean()),
        "ended": float(rollout.ended.float().mean()),
        "entropy": float(masked_mean(verdict.entropy, mask)),
        "value": float(masked_mean(verdict.values, mask)),
        "return": float(masked_mean(experience.returns, mask)),
        "explained_variance": float(explained_variance(verdict.values, experience.returns, mask)),
        "engine_difference": float(engine),
        **paid_for(earned, verdict.turns.total(rollout.response_lengths.float()), verdict.components),
        **variety(verdict.texts),
    }


def state(parts: Parts, guards: dict[str, Guard]) -> tuple[dict[str, Tensor], dict]:
    """All that a step depends on beside the config and the inputs."""
    tensors = prefixed("policy", parts.policy.state()) | prefixed("critic", parts.critic.state())
    return tensors | prefixed("optimizer", parts.optimizer.state()), {
        "guards": {name: guard.state() for name, guard in guards.items()},
        "beta": parts.divergence.beta,
        "penalty": parts.objective.beta,
    }


def restore(parts: Parts, guards: dict[str, Guard], run: Run) -> None:
    """What `state` returned, from the newest good checkpoint, if there is one."""
    if saved := run.restore():
        parts.policy.load_state(under("policy", saved.tensors))
        parts.critic.load_state(under("critic", saved.tensors))
        parts.optimizer.load_state(under("optimizer", saved.tensors))
        parts.divergence.beta, parts.objective.beta = saved.state["beta"], saved.state["penalty"]
        for name, guard in guards.items():
            guard.load_state(saved.state["guards"][name])
