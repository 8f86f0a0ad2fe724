"""What a reward model shows on held-out rankings: by itself, by criterion, head by head."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch

from handrail.batch import Sequences
from handrail.data import Codec, ranking_batch
from handrail.evaluate.accuracy import (
    accuracy,
    calibration,
    expected_calibration_error,
    labeller_agreement,
    length_rule_accuracy,
    margins,
    pair_differences,
)
from handrail.evaluate.disagreement import disagreement
from handrail.records import Ranking

if TYPE_CHECKING:  # importing a model costs seconds that a judge by function need not wait
    from handrail.models import Heads, ScalarModel

Read = Callable[[Sequences], torch.Tensor]  # [B, H] the score of each head
Scores = Sequence[Sequence[float]]  # [N][K], a score for each response of each ranking


def held_out(model: "ScalarModel", rankings: Sequence[Ranking], scores: list[torch.Tensor]) -> dict:
    """Accuracy with its interval, what length alone reaches, the labellers' own agreement, calibration, margins.

    `scores` are what `scores_of` says of the rankings.  Each ranking is judged by the score of its own criterion.  Of
    several criteria also one by one, and what the sum of them reaches; of several heads also one by one, and what their
    disagreement is worth.
    """
    heads, units = model.heads, model.units().tolist()
    own = [heads.criteria.index(r.criterion) for r in rankings]
    by_criterion = [model.by_criterion(s)[:, c].tolist() for s, c in zip(scores, own, strict=True)]
    lengths = [[float(len(response)) for response in r.responses] for r in rankings]
    agreement = labeller_agreement(rankings)
    found = judged(rankings, by_criterion, [units[c] for c in own])
    found["length_baseline"] = asdict(length_rule_accuracy(lengths, [r.places for r in rankings], [r.prompt.id for r in rankings]))
    found["agreement"] = asdict(agreement) if agreement else None
    if len(heads.criteria) > 1:
        found["criteria"] = {
            name: judged(*some(own, c, rankings, by_criterion), [units[c]] * own.count(c)) for c, name in enumerate(heads.criteria)
        }
        found["combination"] = combination(heads, rankings, own, [model.combined(s).tolist() for s in scores])
    if heads.count > 1:
        found["heads"] = [each(heads, rankings, own, scores, head) for head in range(heads.count)]
    if heads.members > 1:
        members = [heads.apart(s)[:, c].tolist() for s, c in zip(scores, own, strict=True)]
        found["disagreement"] = disagreeing(rankings, members, by_criterion)
    return found


def verdicts(model: "ScalarModel", rankings: Sequence[Ranking], scores: list[torch.Tensor]) -> list[dict]:
    """Of each ranking its texts, people's places, and each response's score by the ranking's own criterion; `unit` is what
    one of its scores is in the loss's unit, so that sigmoid(unit (a - b)) is how likely people are to prefer a.
    `scores` are what `scores_of` says of the rankings."""
    units = model.units().tolist()
    own = [model.heads.criteria.index(r.criterion) for r in rankings]
    return [
        {
            "prompt_id": r.prompt.id,
            "prompt": r.prompt.text,
            "responses": list(r.responses),
            "places": list(r.places),
            "scores": model.by_criterion(s)[:, c].tolist(),
            "unit": units[c],
            "labeller": r.labeller,
            "criterion": r.criterion,
        }
        for r, s, c in zip(rankings, scores, own, strict=True)
    ]


@torch.no_grad()
def scores_of(model: "ScalarModel", codec: Codec, rankings: Sequence[Ranking], read: Read | None = None) -> list[torch.Tensor]:
    """[K, H] the score of each head for each response, a tensor for each ranking.

    `read` asks for the heads' scores of all responses in the model's place: of several processes together.
    """
    model.hf.eval()
    batch = ranking_batch(codec, rankings, model.context)
    flat = (read or model.head_scores)(batch.sequences).cpu()
    return [flat[row[mask]] for row, mask in zip(batch.index, batch.mask, strict=True)]


def judged(rankings: Sequence[Ranking], scores: Scores, units: Sequence[float]) -> dict:
    """Accuracy, calibration and margins; `units` are what one of a ranking's scores is in the loss's unit."""
    places, prompts = [r.places for r in rankings], [r.prompt.id for r in rankings]
    gaps = pair_differences(scores, places)
    flat = [gap for row in gaps for gap in row]
    if not flat:
        return {"accuracy": None, "calibration": [], "calibration_error": None, "margins": [], "test_rankings": len(rankings)}
    bins = calibration([gap * unit for row, unit in zip(gaps, units, strict=True) for gap in row])
    return {
        "accuracy": asdict(accuracy(scores, places, prompts)),
        "calibration": [asdict(b) for b in bins],
        "calibration_error": expected_calibration_error(bins),
        "margins": [asdict(b) for b in margins(flat)],
        "test_rankings": len(rankings),
    }


def some(own: list[int], criterion: int, rankings: Sequence[Ranking], scores: Scores) -> tuple[list[Ranking], Scores]:
    """The rankings of one criterion, and their scores."""
    rows = [row for row, c in enumerate(own) if c == criterion]
    return [rankings[row] for row in rows], [scores[row] for row in rows]


def combination(heads: "Heads", rankings: Sequence[Ranking], own: list[int], scores: Scores) -> dict:
    """How the weighted sum orders the pairs of all criteria together, and of each: what is given up for what."""
    places, prompts = [r.places for r in rankings], [r.prompt.id for r in rankings]
    gaps = [gap for row in pair_differences(scores, places) for gap in row]
    criteria = {name: some(own, c, rankings, scores) for c, name in enumerate(heads.criteria)}
    return {
        "weights": dict(zip(heads.criteria, heads.weights.tolist(), strict=True)),
        "accuracy": asdict(accuracy(scores, places, prompts)),
        "margins": [asdict(b) for b in margins(gaps)],
        "criteria": {name: judged(theirs, found, [1.0] * len(theirs))["accuracy"] for name, (theirs, found) in criteria.items()},
    }


def each(heads: "Heads", rankings: Sequence[Ranking], own: list[int], scores: list[torch.Tensor], head: int) -> dict:
    """One head on the rankings of its criterion, and what it is normalised by."""
    criterion, member = divmod(head, heads.members)
    theirs, found = some(own, criterion, rankings, [s[:, head].tolist() for s in scores])
    mean, std = float(heads.mean[head]), float(heads.std[head])
    about = {"criterion": heads.criteria[criterion], "member": member, "mean": mean, "std": std}
    return about | judged(theirs, found, [std] * len(theirs))


def disagreeing(rankings: Sequence[Ranking], members: Sequence[Sequence[Sequence[float]]], scores: Scores) -> dict:
    """Where the members, [N][K][M], differ over a pair: does it tell where the score errs?"""
    pairs = [(i, j, row) for row, r in enumerate(rankings) for i, j in r.pairs()]
    gaps = [[a - b for a, b in zip(members[row][i], members[row][j], strict=True)] for i, j, row in pairs]
    return asdict(disagreement(gaps, [scores[row][i] - scores[row][j] for i, j, row in pairs]))
