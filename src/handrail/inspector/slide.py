"""Responses of a run's last traced step, token by token: the best and the worst by their reward, and the way of one token to the loss."""

from dataclasses import dataclass
from statistics import median
from typing import Any

from markupsafe import Markup

from handrail.config import read_yaml
from handrail.errors import HandrailError
from handrail.inspector.arithmetic import derivation
from handrail.inspector.folders import RunFolder, finite, read_trace
from handrail.inspector.formula import formula
from handrail.inspector.replies import visible
from handrail.inspector.terms import Rules

COLUMNS = ("logp", "logp_old", "logp_ref", "kl", "reward", "value", "return", "advantage", "entropy")
MOST = 300  # tokens of a response that are shown
TEXT = 4000  # characters of a prompt


@dataclass(frozen=True)
class TokenRow:
    """One token of a traced response with its quantities, as numbers or None."""

    text: str
    quantities: list[float | None]
    shade: float  # the advantage as a share of the largest in this response, -1 to 1


@dataclass(frozen=True)
class Step:
    """One step of a derivation: (formula, the same with numbers, what comes out), line by line."""

    title: str
    lines: list[tuple[Markup, Markup, str]]
    note: str


@dataclass(frozen=True)
class Traced:
    """One response, token by token."""

    why: str
    step: int
    prompt: str
    score: float | None
    gold: float | None
    weight: float | None
    ended: bool | None
    columns: list[str]
    tokens: list[TokenRow]
    left_out: int  # tokens beyond MOST
    chosen: int  # the token whose way to the loss is written out
    derived: list[Step]


def traced(run: RunFolder) -> list[Traced]:
    """The best and the worst response of the last traced step; of a trace without rewards one of usual length."""
    if not run.traces:
        return []
    rows = [row for row in read_trace(run.traces[-1]) if row.get("tokens")]
    scored = sorted((row for row in rows if finite(row.get("score")) is not None), key=lambda row: row["score"])
    if not rows:
        return []
    if not scored:
        usual = median(len(row["tokens"]) for row in rows)
        return [_traced(run, "A response of usual length", min(rows, key=lambda row: abs(len(row["tokens"]) - usual)), True)]
    found = [_traced(run, "The highest reward", scored[-1], True)]
    return [*found, _traced(run, "The lowest reward", scored[0], False)] if scored[1:] else found


def _traced(run: RunFolder, why: str, row: dict[str, Any], written_out: bool) -> Traced:
    columns = [c for c in COLUMNS if isinstance(row.get(c), list)]
    advantage = [finite(x) or 0.0 for x in row.get("advantage") or []][:MOST]
    largest = max((abs(a) for a in advantage), default=0.0) or 1.0
    tokens = [
        TokenRow(
            text=visible(str(token)).replace("\n", "↵"),
            quantities=[finite(row[c][i]) if i < len(row[c]) else None for c in columns],
            shade=advantage[i] / largest if i < len(advantage) else 0.0,
        )
        for i, token in enumerate(row["tokens"][:MOST])
    ]
    number, ended = run.traces[-1].stem.removeprefix("step-"), row.get("ended")
    step = int(number) if number.isdigit() else 0
    chosen = max(range(len(advantage)), key=lambda i: abs(advantage[i])) if advantage else 0
    return Traced(
        why=why,
        step=step,
        prompt=shortened(str(row.get("prompt") or "")),
        score=finite(row.get("score")),
        gold=finite(row.get("gold")),
        weight=finite(row.get("weight")),
        ended=ended if isinstance(ended, bool) else None,
        columns=columns,
        tokens=tokens,
        left_out=len(row["tokens"]) - len(tokens),
        chosen=chosen,
        derived=derived(run, row, step, chosen) if written_out and advantage else [],
    )


def derived(run: RunFolder, row: dict[str, Any], step: int, token: int) -> list[Step]:
    """A token's way from its reward to its part of the loss in the last pass; nothing of a stage whose loss is not known."""
    try:
        rules = Rules.of(run.kind, read_yaml(run.folder / "config.yaml"))
    except (OSError, HandrailError):
        return []
    if rules is None:
        return []
    penalty = next((finite(line.get("penalty")) for line in run.metrics if line.get("step") == step), None) or 0.0
    blocks = derivation(row, rules, step, token, len(row.get("pass_logp") or [0]) - 1, penalty)
    return [
        Step(
            block.title,
            [(formula(line.formula), formula(line.numbers), line.value) for line in block.lines],
            block.note,
        )
        for block in blocks
    ]


def shortened(text: str, most: int = TEXT) -> str:
    """The text with what cannot be seen in it written out, cut where it is very long."""
    return visible(text if len(text) <= most else text[: most - 1].rstrip() + "…")
