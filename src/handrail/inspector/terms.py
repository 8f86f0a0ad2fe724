"""The loss of every token of a response, computed again from its trace: what the page colours and what it writes out.

Plain arithmetic in float64 beside the trainer's own, so that the two can be held against each other.  An array has a number
for each token of the response; passes are those over the step's batch.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from handrail.inspector.folders import finite
from handrail.inspector.lines import Row

FLOOR = 1e-8  # what whitening adds to the variance


@dataclass(frozen=True)
class Rules:
    """What a run's settings say of the loss."""

    stage: str
    gamma: float
    lam: float
    kind: str  # of the objective
    low: float  # how far the ratio may fall
    high: float  # and rise
    in_loss: bool  # where the divergence acts
    value_clip: float
    value_coef: float
    entropy_coef: float
    rescaled: bool
    whitened: bool
    critic_warmup: int

    @classmethod
    def of(cls, stage: str, config: dict[str, Any]) -> "Rules":
        """From a frozen config."""
        objective, kl = config.get("objective") or {}, config.get("kl") or {}
        clip = float(objective.get("clip", 0.2))
        return cls(
            stage=stage,
            gamma=float(config.get("gamma", 1.0)),
            lam=float(config.get("lam", 1.0)),
            kind=str(objective.get("kind", "ppo_clip")),
            low=clip,
            high=float(objective.get("clip_high") or clip),
            in_loss=kl.get("placement") == "loss",
            value_clip=float(config.get("value_clip", 0.0)),
            value_coef=float(config.get("value_coef", 1.0)) if stage == "ppo" else 1.0,
            entropy_coef=float(config.get("entropy_coef", 0.0)),
            rescaled=bool(config.get("rescale_rewards", False)),
            whitened=bool(config.get("whiten_advantages", False)),
            critic_warmup=int(config.get("critic_warmup", 0)),
        )

    def learns(self, step: int) -> bool:
        """Whether the policy learns at this step, and not the critic alone."""
        return step >= self.critic_warmup


@dataclass(frozen=True)
class Pass:
    """What one pass made of a response, in arrays over its tokens; `loss` divided by `count` is a token's part of the minibatch's."""

    update: int
    count: int
    weight: float
    logp: np.ndarray
    log_ratio: np.ndarray
    ratio: np.ndarray  # what multiplies the advantage: of the token, or of the whole response
    bounded: np.ndarray  # the ratio within its bounds
    clipped: np.ndarray  # bool: the clip acts, and the token's gradient is zero
    policy: np.ndarray
    divergence: np.ndarray
    values: np.ndarray | None
    value: np.ndarray
    entropy: np.ndarray | None
    loss: np.ndarray


def array(row: Row, name: str) -> np.ndarray | None:
    """A column of numbers a token; None where the trace has none."""
    found = row.get(name)
    return np.array([np.nan if x is None else x for x in found], dtype=np.float64) if isinstance(found, list) else None


def passes(row: Row, rules: Rules, step: int, penalty: float) -> list[Pass]:
    """Each pass over a response, none where the trace does not have them."""
    advantage, old, logps = array(row, "advantage"), array(row, "logp_old"), row.get("pass_logp")
    if advantage is None or old is None or not logps:
        return []
    found = []
    for number, logp in enumerate(logps):
        update, count, weight = (row[f"pass_{name}"][number] for name in ("update", "count", "weight"))
        seen = {
            name: np.array(row[f"pass_{name}"][number], np.float64) if row.get(f"pass_{name}") else None for name in ("value", "entropy")
        }
        found.append(one_pass(row, rules, step, penalty, (update, count, weight), np.array(logp, np.float64), advantage, old, seen))
    return found


def one_pass(
    row: Row,
    rules: Rules,
    step: int,
    penalty: float,
    of: tuple[int, int, float],
    logp: np.ndarray,
    advantage: np.ndarray,
    old: np.ndarray,
    seen: dict[str, np.ndarray | None],
) -> Pass:
    """The terms of a token's loss: policy, divergence, value, entropy."""
    log_ratio, weighted = logp - old, of[2] * advantage
    ratio = ratio_of(rules, log_ratio)
    bounded = np.clip(ratio, 1 - rules.low, 1 + rules.high) if rules.kind in ("ppo_clip", "gspo") else ratio
    policy = policy_term(rules, logp, log_ratio, ratio, bounded, weighted, penalty)
    reference = array(row, "logp_ref")
    divergence = np.zeros_like(logp)
    if rules.in_loss and reference is not None:
        divergence = (finite(row.get("beta")) or 0.0) * of[2] * (np.expm1(reference - logp) - (reference - logp))
    value = value_term(rules, seen["value"], array(row, "value"), array(row, "return"))
    loss = rules.value_coef * value
    if rules.learns(step):
        loss = loss + policy + divergence
        if rules.entropy_coef and seen["entropy"] is not None:
            loss = loss - rules.entropy_coef * seen["entropy"]
    return Pass(
        update=of[0],
        count=of[1],
        weight=of[2],
        logp=logp,
        log_ratio=log_ratio,
        ratio=ratio,
        bounded=bounded,
        clipped=bounded * weighted < ratio * weighted,
        policy=policy,
        divergence=divergence,
        values=seen["value"],
        value=value,
        entropy=seen["entropy"],
        loss=loss,
    )


def ratio_of(rules: Rules, log_ratio: np.ndarray) -> np.ndarray:
    """What multiplies the advantage."""
    if rules.kind == "importance":
        return np.full_like(log_ratio, np.exp(log_ratio.sum()))
    if rules.kind == "gspo":
        return np.full_like(log_ratio, np.exp(log_ratio.mean()))
    return np.exp(log_ratio)


def policy_term(
    rules: Rules, logp: np.ndarray, log_ratio: np.ndarray, ratio: np.ndarray, bounded: np.ndarray, advantage: np.ndarray, penalty: float
) -> np.ndarray:
    """The objective's part of each token's loss."""
    if rules.kind == "reinforce":
        return -advantage * logp
    if rules.kind == "importance":
        return -ratio * advantage * logp
    if rules.kind == "ppo_penalty":
        return penalty * (np.expm1(log_ratio) - log_ratio) - ratio * advantage
    return -np.minimum(ratio * advantage, bounded * advantage)


def value_term(rules: Rules, values: np.ndarray | None, old: np.ndarray | None, returns: np.ndarray | None) -> np.ndarray:
    """Half the critic's squared error; zero where there is no critic that learns."""
    if values is None or returns is None or old is None:
        return np.zeros_like(returns) if returns is not None else np.zeros(0)
    error = (values - returns) ** 2
    if rules.value_clip:
        near = old + np.clip(values - old, -rules.value_clip, rules.value_clip)
        error = np.maximum(error, (near - returns) ** 2)
    return 0.5 * error


def gains(row: Row, rules: Rules) -> tuple[np.ndarray, np.ndarray] | None:
    """delta_t and A_t of every token before whitening, by the recursion from the last token back; None where the trace lacks something."""
    rewards, values = rescaled(row, rules), array(row, "value")
    after = (finite(row.get("value_after")), finite(row.get("advantage_after")))
    if rewards is None or values is None or after[0] is None or after[1] is None:
        return None
    delta = rewards + rules.gamma * np.append(values[1:], after[0]) - values
    advantage, carry = np.zeros_like(delta), after[1]
    for t in reversed(range(len(delta))):
        advantage[t] = carry = delta[t] + rules.gamma * rules.lam * carry
    return delta, advantage


def rescaled(row: Row, rules: Rules) -> np.ndarray | None:
    """The rewards that the advantage is made from."""
    rewards = array(row, "reward")
    if rewards is None or not rules.rescaled:
        return rewards
    mean, std = finite(row.get("rewards_mean")), finite(row.get("rewards_std"))
    return None if mean is None or std is None else (rewards - mean) / np.sqrt(std**2 + FLOOR) + mean
