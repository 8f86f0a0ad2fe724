"""One response under the microscope: its tokens, what can be seen at each of them, and what else might have stood there."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from handrail.inspector.folders import finite
from handrail.inspector.lines import Method
from handrail.inspector.server.said import said


@dataclass(frozen=True)
class Quantity:
    """What cells can be coloured by."""

    label: str
    said: str
    signed: bool = False  # coloured from zero to both sides, not from the least to the most


QUANTITIES = {
    "advantage": Quantity("advantage", "how much better than expected the token turned out; above 0 it is made more likely", True),
    "logp": Quantity("log p", "log-probability under the policy before the update, in nats; 0 is certain"),
    "logp_old": Quantity("log p, old", "log-probability under the policy that sampled it, in nats; 0 is certain"),
    "logp_ref": Quantity("log p, reference", "the same under the reference, the model that the policy began as"),
    "kl": Quantity("KL", "log p − log p of the reference: above 0 where the policy has grown fonder of the token", True),
    "reward": Quantity("reward", "what the token earns: −β KL each, and the whole response’s score on its last", True),
    "token_reward": Quantity("own reward", "what a reward of single tokens gave it", True),
    "value": Quantity("value", "what the critic expected to be earned from here on, before the token was chosen", True),
    "return": Quantity("return", "what was earned from here on: what the critic should have said", True),
    "entropy": Quantity("entropy", "how undecided the policy was at this place, in nats"),
    "kl_exact": Quantity("exact KL", "divergence from the reference at this place, over the whole vocabulary: it is what the loss has"),
}
OF_PASSES = {
    "pass_logp": Quantity("log p, this pass", "log-probability under the policy as it is in this pass"),
    "ratio": Quantity("log ratio", "log p in this pass − log p of the policy that sampled it", True),
    "clipped": Quantity("clipped", "where the clip acts: the token has moved far enough and gives no gradient"),
    "pass_value": Quantity("value, this pass", "what the critic says in this pass", True),
    "loss": Quantity("loss", "the token’s terms together, before they are divided by the count", True),
}

SCORES = ("score", "score_relaxed", "gold", "implicit_reward", "kl_sum", "advantage_mean", "weight")  # of a whole response


def response(row: dict[str, Any], method: Method | None) -> dict[str, Any]:
    """All that the page shows of one response."""
    tokens = row.get("tokens") or []
    found = [told(name, one, row[name]) for name, one in QUANTITIES.items() if isinstance(row.get(name), list) and row[name]]
    if method:
        found += [told(name, OF_PASSES[name], values, True) for name, values in method.coloured(row).items()]
    scores = {name: finite(row.get(name)) for name in SCORES}
    return {
        "prompt": said(str(row.get("prompt") or "")),
        "prompt_id": str(row.get("prompt_id") or ""),
        "response": said(str(row.get("response") or "")),
        "ended": row.get("ended"),
        "scores": {name: value for name, value in scores.items() if value is not None},
        "tokens": [said(str(token), 400) for token in tokens],
        "ids": row.get("ids") or [],
        "quantities": found,
        "passes": method.passes(row) if method else [],
        "alternatives": [alternatives(row, at) for at in range(len(tokens))] if row.get("policy_top") else [],
        "note": method.missing(row) if method else "The loss of this stage is not written out; what its trace has is coloured.",
    }


def beside(method: Method, row: dict[str, Any], group: list[dict[str, Any]], short: int) -> list[dict[str, Any]]:
    """The responses that this one is weighed against, with their figures; `in_step` of each says where it stands."""
    return [
        {
            "in_step": one.row["in_step"],
            "mine": one.row["in_step"] == row["in_step"],
            "heading": one.heading,
            "response": said(str(one.row.get("response") or ""), short),
            "figures": one.figures,
        }
        for one in method.beside(row, group)
    ]


def told(name: str, one: Quantity, values: list[Any], of_passes: bool = False) -> dict[str, Any]:
    return {"name": name, "label": one.label, "said": one.said, "signed": one.signed, "passes": of_passes, "values": values}


def alternatives(row: dict[str, Any], at: int) -> dict[str, Any]:
    """What policy and reference held likely at a place, with probabilities, before the update; the token itself among them."""
    ids = row["ids"][at]
    found: dict[str, Any] = {}
    for name, own in (("policy", "logp" if row.get("logp") else "logp_old"), ("reference", "logp_ref")):
        of = zip(row[f"{name}_top"][at], row[f"{name}_top_ids"][at], row[f"{name}_top_logp"][at], strict=True)
        found[name] = [{"token": said(text, 100), "id": i, "p": float(np.exp(logp))} for text, i, logp in of]
        if all(one["id"] != ids for one in found[name]):
            found[name].append({"token": said(str(row["tokens"][at]), 100), "id": ids, "p": float(np.exp(row[own][at]))})
    return found
