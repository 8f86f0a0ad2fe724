"""Supervised fine-tuning written out: the cross-entropy of each token of a demonstration.

Plain arithmetic in float64 beside the trainer's own, so that the two can be held against each other.
"""

from typing import Any

import numpy as np

from handrail.inspector.lines import Block, Line, Method, Row, n, p


class Supervised(Method):
    """-log pi of each token, the mean over the tokens of the batch."""

    logged = ("loss",)
    needs = ("logp", "count")

    def sums(self, rows: list[Row]) -> dict[str, Any]:
        """The loss of the batch."""
        count = rows[0]["count"]
        loss = -sum(float(np.array(row["logp"], np.float64).sum()) for row in rows) / count
        return {"whole": sum(len(row["logp"]) for row in rows) == count, "updates": 1, "loss": loss}

    def written(self, row: Row, group: list[Row], at: int, number: int) -> list[Block]:
        """A token's cross-entropy and its part of the loss."""
        logp, count = float(row["logp"][at]), row["count"]
        lines = [
            Line("ℓ_t = −log π_θ(y_t)", f"−{p(logp)}", n(-logp), "loss"),
            Line("ℓ_t / n", f"{n(-logp)} / {count}", n(-logp / count), "part"),
        ]
        return [Block("Cross-entropy", lines, f"n = {count} tokens of the batch’s demonstrations; its loss is the sum of all their parts.")]
