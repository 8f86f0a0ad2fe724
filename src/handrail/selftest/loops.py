"""A recipe's real loop on the enumerated language: what it ends at can be compared with the best policy that there is."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from handrail.batch import Rollout, Sequences
from handrail.config import Settings
from handrail.parallel import Parallel
from handrail.recipes import ppo, ppo_parts, reinforce, reinforce_parts
from handrail.recipes.conversation import Answers
from handrail.recipes.mixing import Nothing
from handrail.recipes.parts import SharedEngine, open_run
from handrail.recipes.reinforce_baseline import BASELINES, Learned
from handrail.recipes.rewards import RewardSource
from handrail.records import Prompt
from handrail.selftest.enumerated import ENDED, MASK, PENALTY, RESPONSES, T, World, probability
from handrail.selftest.roles import TableCodec, TableCritic, TableEngine, TablePolicy, TableScores


@dataclass(frozen=True)
class Cast:
    """Everything that a recipe's parts are assembled from, as tables."""

    codec: Any
    policy: Any
    reference: Any
    critic: Any
    scores: Any
    engine: Any
    prompts: list[Prompt]

    @classmethod
    def of(cls, world: World) -> "Cast":
        """The policy begins at the reference, the critic at zero."""
        prompts, states, _ = world.reference.shape
        return cls(
            TableCodec(),
            TablePolicy(world.reference),
            TablePolicy(world.reference).freeze(),
            TableCritic(torch.zeros(prompts, states, dtype=torch.float64)),
            TableScores(world.scores + PENALTY * (~ENDED)),
            SharedEngine(TableEngine(), Parallel.joined()),
            [Prompt.of(str(number)) for number in range(prompts)],
        )


@dataclass(frozen=True)
class Loop:
    """An online recipe: its settings, how its parts are assembled, its loop and its update, and settings for what is asked of it."""

    settings: type[Settings]
    assemble: Callable[[Any, Cast], Any]
    train: Callable[[Any, Any, Any], None]
    gradient: Callable[[Any, Any, Rollout, list[int], Tensor], None]  # of an update on these rows, each with its weight
    converges: dict[str, Any]  # settings with which the loop ends at the best policy
    unbiased: dict[str, Any]  # settings with which the expected update is the gradient of J, whatever the critic says
    biased: dict[str, Any]  # settings over those with which a wrong critic shows; {} where there is none


def _ppo(cfg: ppo_parts.PPO, cast: Cast) -> ppo_parts.Parts:
    roles = ppo_parts.Roles(cast.policy, cast.reference, cast.critic, cast.scores)
    answers = Answers(cast.codec, cast.engine, cast.prompts, cfg.sampling, cfg.seed)
    return ppo_parts.assemble(cfg, cast.codec, roles, answers, Nothing(), "")


def _ppo_gradient(cfg: ppo_parts.PPO, parts: ppo_parts.Parts, rollout: Rollout, prompts: list[int], weight: Tensor) -> None:
    experience = ppo.credit(cfg, parts, rollout, ppo.judge(parts, rollout, prompts))
    weighted = replace(experience, advantage=weight[:, None] * experience.advantage)
    ppo.gradient(cfg, parts, weighted, learn_policy=True)


def _reinforce(cfg: reinforce_parts.Reinforcement, cast: Cast) -> reinforce_parts.Parts:
    assert cfg.reward
    reward = RewardSource(cfg.reward, cast.scores, cfg.policy, cast.codec)
    answers = Answers(cast.codec, cast.engine, cast.prompts, cfg.sampling, cfg.seed)
    source = reinforce_parts.Fresh(cfg, cast.codec, answers, reward)
    baseline = Learned(cfg.baseline, cast.critic) if cfg.baseline.kind == "value" else BASELINES[cfg.baseline.kind](cfg.baseline)
    return reinforce_parts.assemble(cfg, cast.codec, cast.policy, cast.reference, source, baseline, Nothing(), "")


def _reinforce_gradient(
    cfg: reinforce_parts.Reinforcement, parts: reinforce_parts.Parts, rollout: Rollout, prompts: list[int], weight: Tensor
) -> None:
    experience, _ = reinforce.credit(cfg, parts, rollout, reinforce.judge(parts, rollout, prompts))
    weighted = replace(experience, advantage=weight[:, None] * experience.advantage)
    reinforce.gradient(cfg, parts, weighted)


def _of_reinforce(**converges: Any) -> Loop:
    return Loop(
        reinforce_parts.Reinforcement,
        _reinforce,
        reinforce.train,
        _reinforce_gradient,
        {"steps": 300, "batch_size": 512, "responses": 4, "lr": 0.01, "warmup": 0} | converges,
        {"baseline": {"kind": "value"}},
        {},
    )


def _baseline(kind: str, **more: Any) -> dict[str, Any]:
    return {"baseline": {"kind": kind, "lr": 0.03}} | more


PASSES = {"epochs": 2, "steps": 400, "lr": 0.005}
WHOLE = {"credit": "whole_return"}
LOOPS: dict[str, Loop] = {
    "ppo": Loop(
        settings=ppo_parts.PPO,
        assemble=_ppo,
        train=ppo.train,
        gradient=_ppo_gradient,
        converges={"steps": 200, "batch_size": 512, "epochs": 2, "minibatches": 2, "lr": 0.01, "critic_lr": 0.03, "warmup": 0},
        unbiased={"lam": 1.0, "whiten_advantages": False},
        biased={"lam": 0.5},
    ),
    "reinforce": _of_reinforce(**_baseline("constant"), **WHOLE),
    "reward_to_go": _of_reinforce(**_baseline("moving_average")),
    "value_baseline": _of_reinforce(**_baseline("value")),
    "rloo": _of_reinforce(**_baseline("leave_one_out")),
    "dr_grpo": _of_reinforce(**_baseline("group")),
    "reinforce++": _of_reinforce(**_baseline("batch_normalised")),
    "rloo_importance": _of_reinforce(**_baseline("leave_one_out"), objective={"kind": "importance"}, **PASSES),
    "rloo_clip": _of_reinforce(**_baseline("leave_one_out"), objective={"kind": "ppo_clip"}, **PASSES),
    "rloo_penalty": _of_reinforce(**_baseline("leave_one_out"), objective={"kind": "ppo_penalty"}, **PASSES),
    "gspo": _of_reinforce(**_baseline("leave_one_out"), objective={"kind": "gspo", "clip": 0.1}, **PASSES),
}


def settings(name: str, world: World, out: Path, seed: int, over: dict[str, Any]) -> Any:
    """The settings of a loop on this world."""
    base: dict[str, Any] = {"out": str(out), "seed": seed, "policy": {"path": "table"}, "prompts": {"path": "table"}}
    base |= {"reward": {"model": "table", "end_penalty": PENALTY}, "kl": {"beta": world.beta}, "sampling": {"max_new_tokens": T}}
    base |= {"run": {"save_every": 10**6, "trace_every": 0}}
    return LOOPS[name].settings.model_validate(base | LOOPS[name].converges | over)


def expected_gradient(name: str, world: World, logits: Tensor, values: Tensor, out: Path, **over: Any) -> Tensor:
    """[P, S, V] what the recipe's first update ascends on average: every response once, weighted with its probability.

    Args: logits [P, S, V] of the policy, values [P, S] of the critic; `over` are settings of the recipe.
    """
    cfg, loop, cast = settings(name, world, out, 0, over), LOOPS[name], Cast.of(world)
    cast.policy.load_state({"weights": logits})
    cast.critic.load_state({"weights": values})
    prompts = [number for number in range(len(logits)) for _ in RESPONSES]
    rows = [(cast.codec.encode_prompt(cast.prompts[number]), list(y)) for number in range(len(logits)) for y in RESPONSES]
    sequences = Sequences.of(rows)
    logp = cast.policy.logp(sequences, cfg.sampling.temperature).detach()
    rollout = Rollout(sequences.ids, sequences.prompt_lengths, sequences.lengths, ENDED.repeat(len(logits)), logp.float())
    # A loss is divided by the count of its tokens, here those of all responses.
    weight = probability(logits / cfg.sampling.temperature).flatten() * int(MASK.sum())
    loop.gradient(cfg, loop.assemble(cfg, cast), rollout, prompts, weight)
    return -cast.policy.weights.grad


def run_loop(name: str, world: World, out: Path, seed: int, **over: Any) -> Tensor:
    """[P, S, V] logits of the policy after the recipe's own loop has run; `over` are settings of the recipe."""
    loop, cast = LOOPS[name], Cast.of(world)
    cfg = settings(name, world, out, seed, over)
    with open_run(cfg.out, name, cfg, cfg.run, {}) as run:
        loop.train(cfg, loop.assemble(cfg, cast), run)
    return cast.policy.weights.detach()
