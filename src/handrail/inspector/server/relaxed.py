"""The differentiated reward written out: a response's objective, its score less the price of its divergence.

Plain arithmetic in float64 beside the trainer's own, so that the two can be held against each other.
"""

from typing import Any

import numpy as np

from handrail.inspector.lines import Block, Line, Method, Row, n, p, total

UNWRITTEN = (
    "Not written out: the gradient of s. It goes from the score back through the whole reward model to what it read at each place, "
    "and from there to the policy’s law at that place. No number of a single token says it, and the trace has none."
)


class Relaxed(Method):
    """s - beta D of each response."""

    logged = ("reward_relaxed", "kl_exact")
    needs = ("score_relaxed", "kl_exact")

    def __init__(self, config: dict[str, Any]):
        self.beta, self.responses = float(config.get("beta", 0.0)), int(config.get("batch_size", 1))
        self.expected = config.get("choice") == "expected"

    def missing(self, row: Row) -> str:
        """Why this response's objective cannot be written out."""
        if row.get("kl_exact") is None:
            return "This trace was written by an earlier version, without the terms of the objective."
        return ""

    def sums(self, rows: list[Row]) -> dict[str, Any]:
        """Both terms, means over the step's responses."""
        rows = [row for row in rows if not self.missing(row)]
        score = sum(row["score_relaxed"] for row in rows) / self.responses
        divergence = sum(float(np.array(row["kl_exact"], np.float64).sum()) for row in rows) / self.responses
        return {"whole": len(rows) == self.responses, "updates": int(bool(rows)), "reward_relaxed": score, "kl_exact": divergence}

    def written(self, row: Row, group: list[Row], at: int, number: int) -> list[Block]:
        """The divergence at the token, the response's objective, and its part of the loss."""
        if self.missing(row):
            return []
        each = np.array(row["kl_exact"], np.float64)
        score, divergence = row["score_relaxed"], float(each.sum())
        objective = score - self.beta * divergence
        read = (
            "mixtures of all tokens, each with its probability: not this text"
            if self.expected
            else "the sampled tokens: in value the reward of this text"
        )
        token = Line("D_t = Σ_v π_θ(v) (log π_θ(v) − log π_{ref}(v))", "over the whole vocabulary", n(each[at]), "token")
        whole = [
            Line("D = Σ_t D_t", total(each.tolist()), n(divergence), "kl"),
            Line("J = s − β D", f"{n(score)} − {n(self.beta)} × {p(divergence)}", n(objective), "objective"),
            Line("ℓ / n = −J / n", f"−{p(objective)} / {self.responses}", n(-objective / self.responses), "part"),
        ]
        price = Line("β D_t / n", f"{n(self.beta)} × {p(each[at])} / {self.responses}", n(self.beta * each[at] / self.responses), "price")
        return [
            Block("Divergence", [token, price], "Exact at this place, whichever token was drawn, and the price of it in the loss."),
            Block("Reward", [Line("s", f"the reward model’s score of {read}", n(score), "score")], UNWRITTEN),
            Block("Objective", whole, f"n = {self.responses} responses of the step; its loss is the sum of all their parts."),
        ]
