"""Best of n and weighted regression written out: from a response's score to its weight, from its weight to a token's loss.

Plain arithmetic in float64 beside the trainer's own, so that the two can be held against each other.
"""

from typing import Any

import numpy as np

from handrail.inspector.folders import finite
from handrail.inspector.lines import Beside, Block, Line, Method, Row, n, p


class Imitation(Method):
    """The responses to a prompt, each imitated as much as its weight says."""

    logged = ("loss",)
    needs = (
        "group",
        "score",
        "weight",
        "best_score",
        "baseline",
        "log_total",
        "length",
        *(f"pass_{x}" for x in ("update", "count", "weight", "logp")),
    )

    def __init__(self, config: dict[str, Any]):
        self.weighting, self.n = str(config.get("weighting", "best")), int(config.get("n", 1))
        self.beta, self.limit = float(config.get("beta", 1.0)), float(config.get("max_weight", np.inf))
        self.minibatches, self.epochs = int(config.get("minibatches", 1)), int(config.get("epochs", 1))

    def missing(self, row: Row) -> str:
        """Why this response's loss cannot be written out."""
        if row.get("group") is None:
            return "This trace was written by an earlier version: it does not say what a weight follows from, nor has it the passes."
        return "" if row.get("pass_logp") or row["weight"] else "Its weight is 0: nothing is learned from this response."

    def passes(self, row: Row) -> list[dict[str, Any]]:
        """Each pass over the response."""
        seen = zip(row.get("pass_update") or [], row.get("pass_count") or [], strict=True)
        told = "update {} of the step, whose loss is divided by {} weighted tokens"
        return [{"update": update, "count": count, "said": told.format(update + 1, n(count))} for update, count in seen]

    def coloured(self, row: Row) -> dict[str, list[Any]]:
        """What each pass made of each token."""
        logp = row.get("pass_logp") or []
        return {"pass_logp": logp, "loss": [[-row["weight"] * x for x in one] for one in logp]} if logp else {}

    def weight(self, row: Row, group: list[Row]) -> float:
        """By the settings, from the score; of the best of n where all n are traced."""
        score = row["score"]
        if self.weighting == "reward":
            return float(np.exp(score / self.beta - row["log_total"]))
        if self.weighting == "advantage":
            return float(min(np.exp((score - row["baseline"]) / self.beta), self.limit))
        return 1 / max(1, self.best(row, group)) if score == row["best_score"] else 0.0

    def best(self, row: Row, group: list[Row]) -> int:
        """How many share the best score of their group, as far as it is traced."""
        return sum(one["score"] == row["best_score"] for one in group)

    def sums(self, rows: list[Row]) -> dict[str, Any]:
        """The loss of the step: the mean over its updates of what each minimised."""
        groups: dict[Any, list[Row]] = {}
        for row in rows:
            groups.setdefault(row.get("group"), []).append(row)
        loss = tokens = count = 0.0
        updates = set[int]()
        for row in rows:
            for one, logp in zip(self.passes(row), row.get("pass_logp") or [], strict=True):
                weight, count = self.weight(row, groups[row["group"]]), float(one["count"])
                loss -= weight * float(np.array(logp, np.float64).sum()) / count
                tokens += weight * len(logp)
                updates.add(one["update"])
        expected = self.epochs * self.minibatches * count  # a minibatch's count is an equal part of all weighted tokens
        whole = bool(updates) and abs(tokens - expected) <= 1e-5 * expected
        return {"whole": whole, "updates": len(updates), "loss": loss / len(updates) if updates else None}

    def beside(self, row: Row, group: list[Row]) -> list[Beside]:
        """The responses to the prompt, the one of most weight first."""
        if len(group) < 2:
            return []
        order = sorted(group, key=lambda one: (-one["weight"], -one["score"]))
        heading = "imitated" if self.weighting == "best" else "most imitated"
        most = order[0]["weight"]
        return [
            Beside(
                one,
                heading if one["weight"] == most else "",
                [("reward", n(one["score"])), ("weight", n(one["weight"])), ("tokens", n(one["length"]))],
            )
            for one in order
        ]

    def written(self, row: Row, group: list[Row], at: int, number: int) -> list[Block]:
        """The weight, and the token's cross-entropy under it."""
        if row.get("group") is None:
            return []
        blocks = [self.weighed(row, group)]
        passes, logps = self.passes(row), row.get("pass_logp") or []
        if not passes:
            return blocks
        number = min(max(number, 0), len(passes) - 1)
        one, logp = passes[number], logps[number]
        weight, count = row["weight"], one["count"]
        entropy, loss = -logp[at], -weight * logp[at]
        lines = [
            Line("H_t = −log π_θ(y_t)", f"−{p(logp[at])}", n(entropy), "entropy"),
            Line("ℓ_t = w H_t", f"{n(weight)} × {p(entropy)}", n(loss), "loss"),
            Line("ℓ_t / n", f"{n(loss)} / {n(count)}", n(loss / count), "part"),
        ]
        parted = "" if self.minibatches == 1 else f", in equal shares for its {self.minibatches} minibatches"
        note = f"n = {n(count)}: the tokens of the step, each counted with its response’s weight{parted}."
        note += f" The loss of update {one['update'] + 1} is the sum of all parts."
        return [*blocks, Block("Imitation", lines, note)]

    def weighed(self, row: Row, group: list[Row]) -> Block:
        """From the score to the weight."""
        score, weight = row["score"], n(row["weight"])
        if self.weighting == "reward":
            total = row["log_total"]
            lines = [
                Line("log Z = log Σ_j exp(R_j / β)", "over all responses of the step", n(total), "log_total"),
                Line("w = exp(R / β − log Z)", f"exp({n(score)} / {n(self.beta)} − {p(total)})", weight, "weight"),
            ]
            return Block("Weight", lines, "Its share of exp(R / β) among all responses of the step, to whichever prompt.")
        if self.weighting == "advantage":
            baseline = row["baseline"]
            lines = [
                Line("A = R − b", f"{n(score)} − {p(baseline)}", n(score - baseline), "advantage"),
                Line(
                    "w = min(exp(A / β), w_{max})", f"min(exp({n(score - baseline)} / {n(self.beta)}), {n(self.limit)})", weight, "weight"
                ),
            ]
            return Block("Weight", lines, f"b is the mean score of the {self.n} responses to this prompt.")
        best, there = finite(row.get("best_score")) or 0.0, len(group)
        lines = [Line("max_j R_j", f"over the {self.n} responses to this prompt", n(best), "best")]
        if score < best:
            return Block(
                "Weight",
                [*lines, Line("w = 0", f"{n(score)} < {n(best)}", weight, "weight")],
                "Another response scored higher, and is imitated instead.",
            )
        number = self.best(row, group) if there == self.n else round(1 / row["weight"])
        lines.append(Line("w = 1 / k", f"1 / {number}", weight, "weight"))
        return Block("Weight", lines, "The best of its prompt’s responses is imitated; k that tie for it share the 1.")
