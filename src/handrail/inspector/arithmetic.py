"""The arithmetic of one token written out with its numbers, from its reward to its part of the loss, as on a blackboard.

Of PPO and of REINFORCE with its kin.
"""

from typing import Any

import numpy as np

from handrail.inspector.folders import finite
from handrail.inspector.lines import Block, Line, Method, Row, n, p
from handrail.inspector.terms import Pass, Rules, array, gains, passes, rescaled

TINY = "10^{−8}"  # what is added to a variance before its root is divided by


class PolicyGradient(Method):
    """The loss of a step by its rules; `penalty` is the coefficient of the objective `ppo_penalty` at that step."""

    logged = ("policy_loss", "value_loss")
    needs = (
        *("advantage", "logp_old", "logp_ref", "value", "return", "beta"),
        *(f"pass_{name}" for name in ("update", "count", "weight", "logp", "value", "entropy")),
    )

    def __init__(self, rules: Rules, step: int, penalty: float):
        self.rules, self.step, self.penalty = rules, step, penalty

    def missing(self, row: Row) -> str:
        """Why this response's loss cannot be written out."""
        if not row.get("ids"):
            return "This trace was written by an earlier version: it has no passes and no alternatives."
        return "" if self._passes(row) else "Nothing was learned from this response: it was left out of the update, or the step had none."

    def _passes(self, row: Row) -> list[Pass]:
        return passes(row, self.rules, self.step, self.penalty)

    def passes(self, row: Row) -> list[dict[str, Any]]:
        """Each pass over the response."""
        found = []
        for one in self._passes(row):
            clipped = int(one.clipped.sum())
            of = f"{clipped} of this response’s {len(one.logp)} clipped"
            said = f"update {one.update + 1} of the step, {one.count} tokens in its minibatch, {of}"
            found.append({"update": one.update, "count": one.count, "clipped": clipped, "said": said})
        return found

    def coloured(self, row: Row) -> dict[str, list[Any]]:
        """What each pass made of each token."""
        made = self._passes(row)
        by_pass = {
            "pass_logp": [one.logp for one in made],
            "ratio": [one.log_ratio for one in made],
            "clipped": [one.clipped.astype(float) for one in made],
            "pass_value": [one.values for one in made if one.values is not None],
            "loss": [one.loss for one in made],
        }
        return {name: [x.tolist() for x in values] for name, values in by_pass.items() if values}

    def written(self, row: Row, group: list[Row], at: int, number: int) -> list[Block]:
        """From the divergence at the token to its part of the minibatch's loss."""
        return derivation(row, self.rules, self.step, at, number, self.penalty)

    def sums(self, rows: list[Row]) -> dict[str, Any]:
        """Both losses, means over the step's updates."""
        return sums(rows, self.rules, self.step, self.penalty)


def derivation(row: Row, rules: Rules, step: int, at: int, number: int, penalty: float) -> list[Block]:
    """The blocks for token `at` in pass `number`."""
    every = passes(row, rules, step, penalty)
    blocks = [divergence(row, rules, at), reward(row, rules, at)]
    blocks += critic_credit(row, rules, at) if rules.stage == "ppo" else plain_credit(row, rules, at)
    if every:
        one = every[min(max(number, 0), len(every) - 1)]
        blocks += [ratio(row, rules, one, at), policy(row, rules, one, at, penalty), *others(row, rules, one, at)]
        blocks.append(loss(rules, one, step, at))
    return [block for block in blocks if block is not None]


def divergence(row: Row, rules: Rules, at: int) -> Block | None:
    """How much fonder of the token the policy is than the reference."""
    own, old, reference, kl = (array(row, name) for name in ("logp", "logp_old", "logp_ref", "kl"))
    name, policy = ("old", old) if own is None else ("before", own)  # rated responses are not the policy's own
    if policy is None or reference is None or kl is None:
        return None
    line = Line(f"KL_t = log π_{{{name}}}(y_t) − log π_{{ref}}(y_t)", f"{n(policy[at])} − {p(reference[at])}", n(kl[at]), "kl")
    return Block("Divergence", [line], "In nats: above 0 where the policy has grown fonder of this token than the reference is.")


def reward(row: Row, rules: Rules, at: int) -> Block | None:
    """What the token earns."""
    rewards, kl, own = (array(row, name) for name in ("reward", "kl", "token_reward"))
    beta = finite(row.get("beta"))
    if rewards is None or kl is None or beta is None:
        return None
    last, used = at == len(rewards) - 1, 0.0 if rules.in_loss else beta
    formula, numbers = ("r_t = 0", "0") if rules.in_loss else ("r_t = −β KL_t", f"−{n(used)} × {p(kl[at])}")
    score = (finite(row.get("score")) or 0.0) - float(0 if own is None else own.sum())
    if last:
        formula, numbers = f"{formula} + R(x, y)", f"{numbers} + {p(score)}"
    if own is not None and own[at]:
        formula, numbers = f"{formula} + token reward", f"{numbers} + {p(own[at])}"
    lines = [Line(formula, numbers, n(rewards[at]), "reward")]
    scaled = rescaled(row, rules)
    if rules.rescaled and scaled is not None:
        mean, std = float(row["rewards_mean"]), float(row["rewards_std"])
        numbers = f"({n(rewards[at])} − {p(mean)}) / √({n(std)}² + {TINY}) + {p(mean)}"
        lines.append(Line("r_t ← (r_t − m) / √(s^2 + 10^{−8}) + m", numbers, n(scaled[at]), "rescaled"))
    whole = (
        "The score of the whole response stands on its last token, this one."
        if last
        else "The score of the whole response stands on its last token."
    )
    acts = " The divergence acts in the loss, not here." if rules.in_loss else ""
    return Block("Reward", lines, whole + acts)


def critic_credit(row: Row, rules: Rules, at: int) -> list[Block]:
    """Generalised advantage estimation, the return, and whitening."""
    found, rewards, values = gains(row, rules), rescaled(row, rules), array(row, "value")
    advantage, returns = array(row, "advantage"), array(row, "return")
    if found is None or rewards is None or values is None or advantage is None or returns is None:
        return [Block("Advantage", [], "This trace was written by an earlier version, without what it takes to write this out.")]
    delta, gained = found
    last, end = at == len(rewards) - 1, len(rewards)
    after = float(row["value_after"]) if last else values[at + 1]
    then = float(row["advantage_after"]) if last else gained[at + 1]
    decay = rules.gamma * rules.lam
    ended = " Here the response ends: nothing follows." if last and not after and not then else ""
    surprise = Line(
        "δ_t = r_t + γ V_{t+1} − V_t", f"{n(rewards[at])} + {n(rules.gamma)} × {p(after)} − {p(values[at])}", n(delta[at]), "delta"
    )
    gae = Line("A_t = δ_t + γλ A_{t+1}", f"{n(delta[at])} + {n(rules.gamma)} × {n(rules.lam)} × {p(then)}", n(gained[at]), "gae")
    told = Line("R_t = A_t + V_t", f"{n(gained[at])} + {p(values[at])}", n(returns[at]), "return")
    table = {
        "columns": ["t", "r_t", "V_t", "δ_t", "A_t"],
        "rows": [[str(t + 1), *(n(x[t]) for x in (rewards, values, delta, gained))] for t in reversed(range(at, end))],
        "after": [n(float(row["value_after"])), n(float(row["advantage_after"]))],
    }
    blocks = [
        Block("Surprise", [surprise], f"How much better the next state is than the critic had thought.{ended}"),
        Block("Advantage", [gae], f"From the last token back, each carrying γλ = {n(decay)} of the next.", table),
        Block("Return", [told], "What the critic should have said of this place: its target."),
    ]
    if rules.whitened and (white := whitened(row, gained, advantage, at)):
        blocks.append(white)
    return blocks


def whitened(row: Row, gained: np.ndarray, advantage: np.ndarray, at: int) -> Block | None:
    """Mean and spread over all tokens of the step."""
    mean, std = finite(row.get("advantages_mean")), finite(row.get("advantages_std"))
    if mean is None or std is None:
        return None
    numbers = f"({n(gained[at])} − {p(mean)}) / √({n(std)}² + {TINY})"
    line = Line("Â_t = (A_t − m) / √(s^2 + 10^{−8})", numbers, n(advantage[at]), "advantage")
    return Block("Whitening", [line], "Mean and standard deviation are those of all tokens of the step.")


def plain_credit(row: Row, rules: Rules, at: int) -> list[Block]:
    """The return, less a baseline, times a factor."""
    returns, values, advantage, rewards = (array(row, name) for name in ("return", "value", "advantage", "reward"))
    if returns is None or values is None or advantage is None or rewards is None:
        return []
    last = at == len(returns) - 1
    lines = []
    if not last and np.isclose(returns[at], rewards[at] + rules.gamma * returns[at + 1], atol=1e-5):
        numbers = f"{n(rewards[at])} + {n(rules.gamma)} × {p(returns[at + 1])}"
        lines.append(Line("G_t = r_t + γ G_{t+1}", numbers, n(returns[at]), "return"))
    else:
        lines.append(Line("G_t", "what was earned from here on" if last else "the whole return", n(returns[at]), "return"))
    gap = returns[at] - values[at]
    factor = advantage[at] / gap if abs(gap) > 1e-9 else 1.0
    if abs(factor - 1) < 1e-4:
        lines.append(Line("A_t = G_t − b", f"{n(returns[at])} − {p(values[at])}", n(advantage[at]), "advantage"))
    else:
        numbers = f"({n(returns[at])} − {p(values[at])}) × {p(factor)}"
        lines.append(Line("A_t = (G_t − b) c", numbers, n(advantage[at]), "advantage"))
    return [Block("Credit", lines, "What was earned, less what a response could have expected: the baseline.")]


def ratio(row: Row, rules: Rules, one: Pass, at: int) -> Block | None:
    """How much likelier the policy makes the token than the one that sampled it."""
    old = array(row, "logp_old")
    if old is None or rules.kind == "reinforce":
        return None
    if rules.kind == "importance":
        line = Line("w = exp Σ_t (log π_θ(y_t) − log π_{old}(y_t))", f"exp({n(one.log_ratio.sum())})", n(one.ratio[at]), "ratio")
    elif rules.kind == "gspo":
        numbers = f"exp({n(one.log_ratio.sum())} / {len(one.log_ratio)})"
        line = Line("s = exp( (1/|y|) Σ_t (log π_θ(y_t) − log π_{old}(y_t)) )", numbers, n(one.ratio[at]), "ratio")
    else:
        numbers = f"exp({n(one.logp[at])} − {p(old[at])})"
        line = Line("ρ_t = exp(log π_θ(y_t) − log π_{old}(y_t))", numbers, n(one.ratio[at]), "ratio")
    return Block("Ratio", [line], "1 in the first update; each update moves it.")


def policy(row: Row, rules: Rules, one: Pass, at: int, penalty: float) -> Block:
    """The objective's part of the token's loss."""
    hat = "Â_t" if rules.whitened else "A_t"
    a, value = p(float(row["advantage"][at])), n(one.policy[at])
    weight, times = ("", "") if one.weight == 1 else ("w_y ", f"{n(one.weight)} × ")
    name = "s" if rules.kind == "gspo" else "ρ_t"
    if rules.kind == "reinforce":
        return Block("Policy", [Line(f"L_t = −{weight}{hat} log π_θ(y_t)", f"−{times}{a} × {p(one.logp[at])}", value, "policy")])
    if rules.kind == "importance":
        numbers = f"−{n(one.ratio[at])} × {times}{a} × {p(one.logp[at])}"
        return Block("Policy", [Line(f"L_t = −w {weight}{hat} log π_θ(y_t)", numbers, value, "policy")])
    if rules.kind == "ppo_penalty":
        x = one.log_ratio[at]
        numbers = f"−{n(one.ratio[at])} × {times}{a} + {n(penalty)} × ({n(one.ratio[at])} − 1 − {p(x)})"
        return Block("Policy", [Line(f"L_t = −ρ_t {weight}{hat} + β_p (ρ_t − 1 − log ρ_t)", numbers, value, "policy")])
    low, high = 1 - rules.low, 1 + rules.high
    bound = Line(f"clip({name}) within [{n(low)}, {n(high)}]", f"clip({n(one.ratio[at])})", n(one.bounded[at]), "bounded")
    numbers = f"−{times}min({n(one.ratio[at])} × {a}, {n(one.bounded[at])} × {a})"
    line = Line(f"L_t = −{weight}min({name} {hat}, clip({name}) {hat})", numbers, value, "policy")
    if one.clipped[at]:
        note = "The clip acts: the token has moved far enough, and gives no gradient in this pass."
    elif one.bounded[at] != one.ratio[at]:
        note = "The ratio is out of bounds, but on the side that makes the loss worse: the gradient still flows, back towards 1."
    else:
        note = "Within bounds: the gradient flows."
    return Block("Clip", [bound, line], note)


def others(row: Row, rules: Rules, one: Pass, at: int) -> list[Block]:
    """The divergence in the loss, the critic's error, the entropy: those that the run has."""
    blocks = []
    reference, old, returns = (array(row, name) for name in ("logp_ref", "value", "return"))
    if rules.in_loss and reference is not None:
        x, beta = reference[at] - one.logp[at], finite(row.get("beta")) or 0.0
        weight, times = ("", "") if one.weight == 1 else ("w_y ", f"{n(one.weight)} × ")
        numbers = f"{n(beta)} × {times}(exp({n(x)}) − 1 − {p(x)})"
        line = Line(f"D_t = β {weight}(e^x − 1 − x),  x = log π_{{ref}} − log π_θ", numbers, n(one.divergence[at]), "divergence")
        blocks.append(Block("Divergence in the loss", [line], f"x = {n(reference[at])} − {p(one.logp[at])} = {n(x)}"))
    if one.values is not None and returns is not None and old is not None:
        target = "R_t" if rules.stage == "ppo" else "G_t"
        line = Line(f"L_V = ½ (V_θ − {target})^2", f"½ × ({n(one.values[at])} − {p(returns[at])})²", n(one.value[at]), "value")
        if rules.value_clip:
            near = old[at] + float(np.clip(one.values[at] - old[at], -rules.value_clip, rules.value_clip))
            numbers = f"½ × max(({n(one.values[at])} − {p(returns[at])})², ({n(near)} − {p(returns[at])})²)"
            line = Line("L_V = ½ max((V_θ − R_t)^2, (V_{near} − R_t)^2)", numbers, n(one.value[at]), "value")
        blocks.append(Block("Critic", [line], "What the critic says in this pass, against its target."))
    if rules.entropy_coef and one.entropy is not None:
        blocks.append(Block("Entropy", [Line("H_t = −Σ_v π_θ(v) log π_θ(v)", "over the whole vocabulary", n(one.entropy[at]), "entropy")]))
    return blocks


def loss(rules: Rules, one: Pass, step: int, at: int) -> Block:
    """The terms with their coefficients, and the token's share of the minibatch's loss."""
    formula, numbers = [], []
    if rules.learns(step):
        formula.append("L_t")
        numbers.append(n(one.policy[at]))
        if rules.in_loss:
            formula.append("+ D_t")
            numbers.append(f"+ {p(one.divergence[at])}")
    if one.values is not None:
        name, times = ("c_V L_V", f"{n(rules.value_coef)} × ") if rules.stage == "ppo" else ("L_V", "")
        formula.append(f"+ {name}" if formula else name)
        numbers.append(f"{'+ ' if numbers else ''}{times}{p(one.value[at])}")
    if rules.learns(step) and rules.entropy_coef and one.entropy is not None:
        formula.append("− c_H H_t")
        numbers.append(f"− {n(rules.entropy_coef)} × {p(one.entropy[at])}")
    whole = Line(f"ℓ_t = {' '.join(formula)}", " ".join(numbers), n(one.loss[at]), "loss")
    part = Line("ℓ_t / n", f"{n(one.loss[at])} / {one.count}", n(one.loss[at] / one.count), "part")
    note = f"n = {one.count} tokens of the minibatch of update {one.update + 1}; its loss is the sum of all their parts."
    if not rules.learns(step):
        note = f"Only the critic learns at this step. {note}"
    return Block("Loss", [whole, part], note)


def sums(rows: list[Row], rules: Rules, step: int, penalty: float) -> dict[str, Any]:
    """The parts of all tokens of a step that stand in its trace, added up: the mean over its updates of what each minimised.

    `whole` says whether every token that was learned from is among them, so that the sums are the losses that were logged.
    """
    policy_loss = value = 0.0
    seen: dict[int, list[int]] = {}
    for row in rows:
        for one in passes(row, rules, step, penalty):
            policy_loss += float((one.policy + one.divergence).sum()) / one.count
            value += float(one.value.sum()) / one.count
            seen.setdefault(one.update, [0, one.count])[0] += len(one.logp)
    updates = len(seen)
    whole = bool(seen) and all(tokens == count for tokens, count in seen.values())
    found = {"whole": whole, "updates": updates, "policy_loss": policy_loss / updates if updates else None}
    return found | {"value_loss": value / updates if updates and any(row.get("pass_value") for row in rows) else None}
