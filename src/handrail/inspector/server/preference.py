"""Direct preference learning written out: two responses side by side, from their tokens to their part of the batch's loss.

Plain arithmetic in float64 beside the trainer's own, so that the two can be held against each other.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from handrail.inspector.folders import finite
from handrail.inspector.lines import Beside, Block, Line, Method, Row, n, p, total
from handrail.inspector.terms import array

COUNTS = ("count_pairs", "count_desirable", "count_undesirable")
NEAREST = float(np.finfo(np.float32).eps)  # how near to 1 orpo lets a mean probability come


def log_sigmoid(x: float) -> float:
    """log(1 / (1 + exp(-x)))."""
    return -float(np.logaddexp(0.0, -x))


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x))."""
    return float(np.exp(log_sigmoid(x)))


@dataclass(frozen=True)
class Heard:
    """What the models say of a response as a whole."""

    row: Row
    beta: float
    kind: str

    @cached_property
    def logp(self) -> float:
        return float(np.array(self.row["logp"], np.float64).sum())

    @cached_property
    def logp_ref(self) -> float:
        return float(np.array(self.row.get("logp_ref") or [0.0], np.float64).sum())

    @property
    def length(self) -> int:
        return len(self.row["logp"])

    @property
    def mean(self) -> float:
        """log p of orpo, the mean over tokens."""
        return min(self.logp / self.length, -NEAREST)

    @property
    def reward(self) -> float:
        """The implicit reward."""
        if self.kind == "orpo":
            return self.mean - float(np.log(-np.expm1(self.mean)))
        if self.kind == "simpo":
            return self.beta * self.logp / self.length
        return self.beta * (self.logp - self.logp_ref)

    def line(self, of: str, named: str = "reward") -> Line:
        """Its implicit reward; `of` is the index that tells it from the other one's."""
        r = f"r{of}"
        if self.kind == "orpo":
            return Line(
                f"{r} = log(p / (1 − p)),  log p = log π_θ(y) / |y|",
                f"{n(self.mean)} − log(1 − exp({n(self.mean)}))",
                n(self.reward),
                named,
            )
        if self.kind == "simpo":
            return Line(f"{r} = β log π_θ(y) / |y|", f"{n(self.beta)} × {p(self.logp)} / {self.length}", n(self.reward), named)
        numbers = f"{n(self.beta)} × ({n(self.logp)} − {p(self.logp_ref)})"
        return Line(f"{r} = β (log π_θ(y) − log π_{{ref}}(y))", numbers, n(self.reward), named)


@dataclass(frozen=True)
class Pair:
    """One response better than another, with the weight of that."""

    chosen: Heard
    rejected: Heard
    weight: float

    @property
    def margin(self) -> float:
        return self.chosen.reward - self.rejected.reward


class Preference(Method):
    """DPO, IPO, ORPO and SimPO of pairs; KTO of single responses."""

    logged = ("loss", "margin")
    needs = ("group", "place", "beats", "wins", "losses", "logp", "logp_ref", "kl_estimate", *COUNTS)

    def __init__(self, config: dict[str, Any]):
        given = config.get("loss") or {}
        self.kind = str(given.get("name", "dpo"))
        self.beta = float(given.get("beta") or (2.0 if self.kind == "simpo" else 0.1))
        self.smoothing, self.gamma = float(given.get("smoothing", 0.0)), float(given.get("gamma", 1.0)) if self.kind == "simpo" else 0.0
        self.odds_weight = float(given.get("odds_weight", 0.1))
        self.lam = {True: float(given.get("desirable", 1.0)), False: float(given.get("undesirable", 1.0))}

    def missing(self, row: Row) -> str:
        """Why this response's loss cannot be written out."""
        if row.get("beats") is None:
            return "This trace was written by an earlier version: it does not say which response was better than which."
        return ""

    # ---- numbers -----------------------------------------------------------------------------------------------------

    def heard(self, row: Row) -> Heard:
        """What the models say of it, under this loss's implicit reward."""
        return Heard(row, self.beta, self.kind)

    def pairs(self, group: list[Row]) -> list[Pair]:
        """Every pair of a ranking of which both responses are traced; a tie is one each way."""
        at = {row["place"]: self.heard(row) for row in group}
        return [Pair(one, at[j], w) for one in at.values() for j, w in enumerate(one.row["beats"]) if w and j in at]

    def loss(self, pair: Pair) -> float:
        """Of a pair, before its weight."""
        if self.kind == "ipo":
            return (pair.margin / self.beta - 1 / (2 * self.beta)) ** 2
        apart = -(1 - self.smoothing) * log_sigmoid(pair.margin - self.gamma) - self.smoothing * log_sigmoid(-pair.margin - self.gamma)
        return apart if self.kind != "orpo" else -pair.chosen.logp / pair.chosen.length + self.odds_weight * apart

    def ahead(self, row: Row, desirable: bool) -> float:
        """KTO: by how much a response is on the right side of where the policy stands anyway, in reward."""
        return (1 if desirable else -1) * (self.heard(row).reward - self.beta * standing(row))

    def alone(self, row: Row) -> list[tuple[bool, float]]:
        """KTO: whether it is desirable and what that weighs; a response of a ranking may be both."""
        return [(good, row[name]) for good, name in ((True, "wins"), (False, "losses")) if row[name]]

    def sums(self, rows: list[Row]) -> dict[str, Any]:
        """Loss and margin of the batch, over what is traced of it."""
        rows = [row for row in rows if not self.missing(row)]
        if not rows:
            return {"whole": False, "updates": 0}
        if self.kind == "kto":
            each = [(w, self.lam[good] * sigmoid(-x), x) for row in rows for good, w in self.alone(row) for x in [self.ahead(row, good)]]
        else:
            groups = [[row for row in rows if row["group"] == group] for group in dict.fromkeys(row["group"] for row in rows)]
            each = [(pair.weight, self.loss(pair), pair.margin) for group in groups for pair in self.pairs(group)]
        count, weight = self.count(rows[0]), sum(w for w, *_ in each)
        whole = abs(weight - count) <= 1e-5 * count
        return {
            "whole": whole,
            "updates": 1,
            "loss": sum(w * x for w, x, _ in each) / count,
            "margin": sum(w * m for w, _, m in each) / count,
        }

    def count(self, row: Row) -> float:
        """What the sums are divided by."""
        return row["count_desirable"] + row["count_undesirable"] if self.kind == "kto" else row["count_pairs"]

    # ---- what the page shows -----------------------------------------------------------------------------------------

    def beside(self, row: Row, group: list[Row]) -> list[Beside]:
        """The responses to the prompt, the best first."""
        if len(group) < 2:
            return []
        gain = {one["place"]: one["wins"] - one["losses"] for one in group}
        order = sorted(group, key=lambda one: -gain[one["place"]])
        names = [f"place {1 + sum(other > gain[one['place']] for other in gain.values())}" for one in order]
        if len(group) == 2 and names[0] != names[1]:
            names = ["chosen", "rejected"]
        return [Beside(one, name, self.figures(self.heard(one))) for one, name in zip(order, names, strict=True)]

    def figures(self, heard: Heard) -> list[tuple[str, str]]:
        """Of a response as a whole."""
        reference = [("log π_{ref}(y)", n(heard.logp_ref))] if heard.row.get("logp_ref") else []
        return [("log π_θ(y)", n(heard.logp)), *reference, ("tokens", str(heard.length)), ("implicit reward", n(heard.reward))]

    def written(self, row: Row, group: list[Row], at: int, number: int) -> list[Block]:
        """From the token through its response to each pair."""
        own, reference = array(row, "logp"), array(row, "logp_ref")
        if self.missing(row) or own is None:
            return []
        mine = self.heard(row)
        lines = [Line("log π_θ(y) = Σ_t log π_θ(y_t)", total(own.tolist()), n(mine.logp), "logp")]
        token = Line("log π_θ(y_t)", "this token’s term of the sum", n(own[at]), "token")
        if reference is not None:
            lines.append(Line("log π_{ref}(y) = Σ_t log π_{ref}(y_t)", total(reference.tolist()), n(mine.logp_ref), "logp_ref"))
            token = Line("log π_θ(y_t) − log π_{ref}(y_t)", f"{n(own[at])} − {p(reference[at])}", n(own[at] - reference[at]), "token")
        blocks = [
            Block("Token", [token], "The gradient reaches the response’s sum, and so each of its tokens with the same force."),
            Block("Response", [*lines, mine.line("")], "r is its implicit reward: what it is compared by."),
        ]
        if self.kind == "kto":
            return blocks + [self.judged(row, good, weight) for good, weight in self.alone(row)]
        pairs = [pair for pair in self.pairs(group) if row["place"] in (pair.chosen.row["place"], pair.rejected.row["place"])]
        blocks += [self.compared(pair, row["place"]) for pair in pairs]
        if sum(pair.weight for pair in pairs) < row["wins"] + row["losses"] - 1e-6:
            note = "A response that it was compared with is not in the trace: run.trace_rows says how many are kept."
            blocks.append(Block("Others", [], note))
        return blocks

    def compared(self, pair: Pair, mine: int) -> Block:
        """The loss of a pair, of which this response is one."""
        won = pair.chosen.row["place"] == mine
        of, other = ("_{−}", pair.rejected) if won else ("_{+}", pair.chosen)
        loss, count = self.loss(pair), pair.chosen.row["count_pairs"]
        margin = f"{n(pair.chosen.reward)} − {p(pair.rejected.reward)}"
        lines = [other.line(of, "other"), Line("m = r_{+} − r_{−}", margin, n(pair.margin), "margin"), *self.lost(pair)]
        lines.append(Line("w ℓ / n", f"{n(pair.weight)} × {p(loss)} / {n(count)}", n(pair.weight * loss / count), "part"))
        note = f"+ is the chosen one, − the other. The pair weighs w, all of the batch n = {n(count)}; its loss is the sum of all parts."
        return Block(f"{'Chosen over' if won else 'Rejected for'} response {other.row['in_step'] + 1}", lines, note)

    def lost(self, pair: Pair) -> list[Line]:
        """From the margin of a pair to its loss."""
        m, loss, eps = pair.margin, n(self.loss(pair)), n(self.smoothing)
        if self.kind == "ipo":
            return [Line("ℓ = (m / β − 1 / (2β))^2", f"({n(m)} / {n(self.beta)} − 1 / (2 × {n(self.beta)}))²", loss, "loss")]
        ahead, less = (" − γ", f" − {n(self.gamma)}") if self.gamma else ("", "")
        sides = [("m", m, "sigmoid"), ("−m", -m, "opposite")][: 2 if self.smoothing else 1]
        lines = [
            Line(f"σ({name}{ahead})", f"1 / (1 + exp(−{f'({n(x)}{less})' if less else p(x)}))", n(sigmoid(x - self.gamma)), named)
            for name, x, named in sides
        ]
        formula, numbers = f"−log σ(m{ahead})", f"−log({lines[0].value})"
        if self.smoothing:
            formula = f"−(1 − ε) log σ(m{ahead}) − ε log σ(−m{ahead})"
            numbers = f"−(1 − {eps}) × log({lines[0].value}) − {eps} × log({lines[1].value})"
        if self.kind == "orpo":
            formula = f"−log π_θ(y_{{+}}) / |y_{{+}}| + λ ({formula})"
            numbers = f"−{p(pair.chosen.logp)} / {pair.chosen.length} + {n(self.odds_weight)} × ({numbers})"
        return [*lines, Line(f"ℓ = {formula}", numbers, loss, "loss")]

    def judged(self, row: Row, good: bool, weight: float) -> Block:
        """KTO: the loss of a response that stands alone."""
        estimate, z, reward, x = row["kl_estimate"], standing(row), self.heard(row).reward, self.ahead(row, good)
        lam, loss, count = self.lam[good], self.lam[good] * sigmoid(-x), self.count(row)
        sides = ("r − β z", f"{n(reward)} − {n(self.beta)} × {n(z)}") if good else ("β z − r", f"{n(self.beta)} × {n(z)} − {p(reward)}")
        lines = [
            Line("z = max(0, KL(π_θ ‖ π_{ref}))", f"max(0, {n(estimate)})", n(z), "kl"),
            Line(f"m = {sides[0]}", sides[1], n(x), "margin"),
            Line("σ(m)", f"1 / (1 + exp(−{p(x)}))", n(sigmoid(x)), "sigmoid"),
            Line("ℓ = λ (1 − σ(m))", f"{n(lam)} × (1 − {n(sigmoid(x))})", n(loss), "loss"),
            Line("w ℓ / n", f"{n(weight)} × {p(loss)} / {n(count)}", n(weight * loss / count), "part"),
        ]
        note = f"z is an estimate for the whole batch, in nats a response. The label weighs w, all of the batch n = {n(count)}."
        return Block("Desirable" if good else "Undesirable", lines, note)


def standing(row: Row) -> float:
    """KTO's reference point: the divergence of the policy from the reference, which an estimate may not make negative."""
    return max(0.0, finite(row.get("kl_estimate")) or 0.0)
