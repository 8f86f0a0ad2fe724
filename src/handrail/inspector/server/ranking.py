"""A reward model's loss written out: the scores of a ranking's responses, and what people's order makes of them.

Plain arithmetic in float64 beside the trainer's own, so that the two can be held against each other.
"""

from itertools import combinations
from typing import Any

import numpy as np

from handrail.inspector.lines import SPELT, Beside, Block, Line, Method, Row, n, p, total
from handrail.inspector.server.preference import log_sigmoid, sigmoid

READINGS = ("member_scores", "member_means")  # of the last token, and the mean over a response's tokens


class Ranking(Method):
    """Bradley-Terry of each pair, or Plackett-Luce of the whole ranking; the mean over an ensemble's members."""

    logged = ("loss",)
    needs = ("group", "size", "place", "rank", "length", *READINGS, "member_weights", "lead", "margin", "count")

    def __init__(self, config: dict[str, Any]):
        self.whole, self.smoothing = config.get("loss") == "plackett_luce", float(config.get("label_smoothing", 0.0))
        self.token_weight, self.centring = float(config.get("token_weight", 0.0)), float(config.get("centring", 0.0))
        self.rankings, self.heads = int(config.get("batch_size", 1)), int(config.get("heads", 1))
        self.terms = [(name, c) for name, c in zip(READINGS, (1.0, self.token_weight), strict=True) if c]

    def passes(self, row: Row) -> list[dict[str, Any]]:
        """The members of an ensemble, each of which has a loss of its own."""
        weights = row["member_weights"]
        return [{"named": "Member", "said": f"sees this ranking with a weight of {n(w)}"} for w in weights] if len(weights) > 1 else []

    # ---- numbers -----------------------------------------------------------------------------------------------------

    def asked(self, row: Row, member: int, name: str) -> float:
        """What is compared: a reading, less what people's points let one expect."""
        return float(row[name][member]) - float(row["lead"])

    def apart(self, one: Row, other: Row, member: int, name: str) -> float:
        """By how much the better of two is ahead, less the margin; of a tie, the first."""
        better, worse = (one, other) if one["rank"] <= other["rank"] else (other, one)
        margin = 0.0 if one["rank"] == other["rank"] else float(one["margin"])
        return self.asked(better, member, name) - self.asked(worse, member, name) - margin

    def pair(self, one: Row, other: Row, member: int, name: str) -> float:
        """The loss of a pair; a tie is half a win for each side."""
        x, eps = self.apart(one, other, member, name), 0.5 if one["rank"] == other["rank"] else self.smoothing
        return -(1 - eps) * log_sigmoid(x) - eps * log_sigmoid(-x)

    def order(self, group: list[Row], member: int, name: str) -> float:
        """The loss of choosing the best, then the best of the rest; of ties the mean over the orders that break them."""
        loss, margin = 0.0, float(group[0]["margin"])
        for rank in sorted({row["rank"] for row in group}):
            tied = [self.asked(row, member, name) for row in group if row["rank"] == rank]
            worse = [self.asked(row, member, name) + margin for row in group if row["rank"] > rank]
            for left in range(1, len(tied) + 1):
                stages = [float(np.logaddexp.reduce([*some, *worse])) for some in combinations(tied, left)]
                loss += sum(stages) / len(stages)
            loss -= sum(tied)
        return loss

    def loss(self, group: list[Row], member: int, name: str) -> float:
        """Of a ranking by one reading of one member."""
        if self.whole:
            return self.order(group, member, name)
        pairs = list(combinations(group, 2))
        return sum(self.pair(*pair, member, name) for pair in pairs) / max(1, len(pairs))

    def centre(self, group: list[Row], member: int) -> float:
        """What keeps a ranking's scores near 0."""
        return float(np.mean([row["member_scores"][member] for row in group])) ** 2

    def sums(self, rows: list[Row]) -> dict[str, Any]:
        """The loss of the batch: a mean over rankings, and over members."""
        groups: dict[int, list[Row]] = {}
        for row in rows:
            groups.setdefault(row["group"], []).append(row)
        loss = 0.0
        for group in groups.values():
            for member, weight in enumerate(group[0]["member_weights"]):
                told = sum(c * self.loss(group, member, name) for name, c in self.terms)
                loss += (weight / rows[0]["count"] * told + self.centring * self.centre(group, member) / self.rankings) / self.heads
        return {"whole": len(groups) == self.rankings and all(map(complete, groups.values())), "updates": 1, "loss": loss}

    # ---- what the page shows -----------------------------------------------------------------------------------------

    def beside(self, row: Row, group: list[Row]) -> list[Beside]:
        """The responses to the prompt as people ranked them."""
        if len(group) < 2:
            return []
        order = sorted(group, key=lambda one: one["rank"])
        names = [f"place {one['rank']}" for one in order]
        if len(group) == 2 and order[0]["rank"] < order[1]["rank"]:
            names = ["chosen", "rejected"]
        return [Beside(one, name, self.figures(one)) for one, name in zip(order, names, strict=True)]

    def figures(self, row: Row) -> list[tuple[str, str]]:
        """Of a response, each member's numbers."""
        names = zip(READINGS, ("score", "mean over tokens"), strict=True)
        rated = [("points ask for", n(row["lead"]))] if row["lead"] else []
        return [*((told, ", ".join(map(n, row[name]))) for name, told in names), *rated, ("tokens", n(row["length"]))]

    def written(self, row: Row, group: list[Row], at: int, number: int) -> list[Block]:
        """The response's score, what it is compared with, and the ranking's part of the batch's loss."""
        member = min(max(number, 0), len(row["member_weights"]) - 1)
        lines = [Line("r(x, y)", "the head at the response’s last token", n(row["member_scores"][member]), "score")]
        if self.token_weight:
            told = f"the head’s mean over the response’s {row['length']} tokens"
            lines.append(Line("r̄(x, y)", told, n(row["member_means"][member]), "mean"))
        if row["lead"]:
            lines.append(Line("a", "what people’s points let one expect of it", n(row["lead"]), "lead"))
        blocks = [Block("Score", lines, "The score is of the whole response.")]
        if not complete(group):
            note = "Not all responses of this ranking are in the trace: run.trace_rows says how many are kept."
            return [*blocks, Block("Ranking", [], note)]
        if self.whole:
            blocks += [self.chosen(group, member, name) for name, _ in self.terms]
        else:
            blocks += [self.compared(row, other, member) for other in group if other["place"] != row["place"]]
        return [*blocks, self.ranked(group, member)]

    def compared(self, row: Row, other: Row, member: int) -> Block:
        """A pair, by the scores and by the means."""
        better, worse = (row, other) if row["rank"] <= other["rank"] else (other, row)
        lines = [line for name, _ in self.terms for line in self.differing(better, worse, member, name)]
        if better["rank"] == worse["rank"]:
            title, note = "Tied with", "A tie is half a win for each side: ε = ½."
        else:
            title, note = "Chosen over" if better is row else "Rejected for", "+ is the chosen one, − the other."
        return Block(f"{title} response {other['in_step'] + 1}", lines, note)

    def differing(self, better: Row, worse: Row, member: int, name: str) -> list[Line]:
        """From what is compared of a pair to its loss."""
        tie, x = better["rank"] == worse["rank"], self.apart(better, worse, member, name)
        r, key = ("r", "") if name == READINGS[0] else ("r̄", "mean_")
        formula, numbers = f"x = {r}_{{+}} − {r}_{{−}}", f"{n(better[name][member])} − {p(worse[name][member])}"
        if better["lead"] or worse["lead"]:
            formula, numbers = f"{formula} − (a_{{+}} − a_{{−}})", f"{numbers} − ({n(better['lead'])} − {p(worse['lead'])})"
        if better["margin"] and not tie:
            formula, numbers = f"{formula} − margin", f"{numbers} − {n(better['margin'])}"
        eps, lost = 0.5 if tie else self.smoothing, ("ℓ = −log σ(x)", f"−log({n(sigmoid(x))})")
        if eps:
            told = f"−(1 − {n(eps)}) × log({n(sigmoid(x))}) − {n(eps)} × log({n(sigmoid(-x))})"
            lost = ("ℓ = −(1 − ε) log σ(x) − ε log σ(−x)", told)
        return [
            Line(formula, numbers, n(x), f"{key}difference"),
            Line("σ(x)", f"1 / (1 + exp(−{p(x)}))", n(sigmoid(x)), f"{key}sigmoid"),
            Line(*lost, n(self.pair(better, worse, member, name)), f"{key}loss"),
        ]

    def chosen(self, group: list[Row], member: int, name: str) -> Block:
        """The whole order: a line a choice."""
        r, key, of = ("r", "", "scores") if name == READINGS[0] else ("r̄", "mean_", "means over tokens")
        order, margin = sorted(group, key=lambda one: one["rank"]), float(group[0]["margin"])
        values, lines = [self.asked(one, member, name) for one in order], []
        tied = len({one["rank"] for one in order}) < len(order)
        for k, value in enumerate(values[:-1]) if not tied else ():
            rest = [value, *(x + margin for x in values[k + 1 :])]
            numbers = f"log({' + '.join(f'exp({n(x)})' for x in rest)}) − {p(value)}"
            found = n(float(np.logaddexp.reduce(rest)) - value)
            lines.append(Line(f"log Σ_{{j ≥ {k + 1}}} exp({r}_j) − {r}_{k + 1}", numbers, found, f"{key}choice"))
        told = "over the orders that break the ties, in the mean" if tied else "the sum over the choices"
        lines.append(Line("ℓ", told, n(self.order(group, member, name)), f"{key}loss"))
        lead = f" The worse have {n(margin)} added." if margin else ""
        return Block(f"Choices by the {of}", lines, f"The best is chosen from all, then the best of the rest.{lead}")

    def ranked(self, group: list[Row], member: int) -> Block:
        """The ranking's part of the batch's loss."""
        weight, count = group[0]["member_weights"][member], group[0]["count"]
        found = [Line(name, self.together(group, member, of), n(self.loss(group, member, of)), key) for name, of, key in self.named()]
        told, centre = sum(c * self.loss(group, member, name) for name, c in self.terms), self.centre(group, member)
        if len(found) > 1:
            numbers = f"{found[0].value} + {n(self.token_weight)} × {found[1].value}"
            found.append(Line("L = L_r + c L_{mean}", numbers, n(told), "both"))
        part, formula, numbers = weight * told / count, "w L / n", f"{n(weight)} × {p(told)} / {n(count)}"
        if self.centring:
            scores = total([row["member_scores"][member] for row in group])
            found.append(Line("m^2 = (mean_k r_k)^2", f"(({scores}) / {len(group)})²", n(centre), "centre"))
            part += self.centring * centre / self.rankings
            formula, numbers = f"{formula} + c_0 m^2 / N", f"{numbers} + {n(self.centring)} × {n(centre)} / {self.rankings}"
        found.append(Line(formula, numbers, n(part), "part"))
        note = f"The ranking weighs w, all of the batch n = {n(count)}; its loss is the sum of all parts"
        return Block("Ranking", found, f"{note}, the mean over {self.heads} members." if self.heads > 1 else f"{note}.")

    def named(self) -> list[tuple[str, str, str]]:
        """The losses of a ranking: the formula's name, the reading, and the line's name."""
        both = [("L_r", READINGS[0], "ranking"), ("L_{mean}", READINGS[1], "mean_ranking")]
        return both if self.token_weight else [("L", READINGS[0], "ranking")]

    def together(self, group: list[Row], member: int, name: str) -> str:
        """What the loss of a ranking is made of."""
        if self.whole:
            return "the ℓ of its choices"
        pairs = [p(self.pair(*pair, member, name)) for pair in combinations(group, 2)]
        return f"({' + '.join(pairs)}) / {len(pairs)}" if len(pairs) <= SPELT else f"the mean ℓ of its {len(pairs)} pairs"


def complete(group: list[Row]) -> bool:
    """Whether all responses of a ranking are traced."""
    return bool(group) and len(group) == group[0]["size"]
