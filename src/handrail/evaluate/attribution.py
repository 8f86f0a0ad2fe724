"""Which tokens the scores of held-out pairs come from: of some that a reward model orders wrongly, some rightly, some by chance."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from handrail.batch import Sequences
from handrail.data import Codec
from handrail.errors import ModelError
from handrail.records import Ranking

if TYPE_CHECKING:  # importing a model costs seconds that a judge by function need not wait
    from handrail.models import ScalarModel

OF_EACH_KIND = 8  # pairs: the surest mistakes, the surest that are right, others
LARGEST = 6 * OF_EACH_KIND  # responses, at most
NEAR = 0.1  # standard deviations of the score, by which what embeddings give may differ from it

Found = tuple[Tensor, Tensor, Tensor]  # what `token_attributions` gives
Ask = Callable[[Sequences, Tensor, Tensor, Tensor], Found]  # of sequences, varied [B, T], neutral [B, D], criterion [B]


@dataclass(frozen=True, slots=True)
class Asked:
    """A pair of responses that is looked into."""

    why: str  # mistake, right or drawn
    ranking: int
    better: int  # as people said
    worse: int
    scores: tuple[float, float]  # of the two, by the ranking's criterion


def chosen_pairs(model: "ScalarModel", rankings: Sequence[Ranking], scores: Sequence[Tensor], seed: int) -> list[Asked]:
    """The pairs over which the model is surest and wrong, those over which it is surest and right, and others by chance.

    At most `OF_EACH_KIND` of a kind, and of a kind at most one of a ranking.  `scores` are what `scores_of` says of the
    rankings.
    """
    units, every = model.units().tolist(), []
    for row, (ranking, heads) in enumerate(zip(rankings, scores, strict=True)):
        criterion = model.heads.criteria.index(ranking.criterion)
        found = model.by_criterion(heads)[:, criterion].tolist()
        for i, j in ranking.pairs():
            if ranking.responses[i] != ranking.responses[j]:
                every.append((units[criterion] * (found[i] - found[j]), Asked("", row, i, j, (found[i], found[j]))))
    every.sort(key=lambda one: one[0])
    drawn = torch.randperm(len(every), generator=torch.Generator().manual_seed(seed)).tolist()
    kinds: dict[str, Iterable[Asked]] = {
        "mistake": (pair for margin, pair in every if margin < 0),
        "right": (pair for margin, pair in reversed(every) if margin > 0),
        "drawn": (every[i][1] for i in drawn),
    }
    chosen: dict[Asked, str] = {}
    for why, pairs in kinds.items():
        seen: set[int] = set()
        for pair in pairs:
            if len(seen) < OF_EACH_KIND and pair.ranking not in seen and pair not in chosen:
                seen.add(pair.ranking)
                chosen[pair] = why
    return [Asked(why, pair.ranking, pair.better, pair.worse, pair.scores) for pair, why in chosen.items()]


def responses_of(asked: Sequence[Asked]) -> list[tuple[int, int]]:
    """(ranking, which) of each response of the pairs, once."""
    return sorted({(pair.ranking, which) for pair in asked for which in (pair.better, pair.worse)})


def attributions(model: "ScalarModel", codec: Codec, rankings: Sequence[Ranking], asked: Sequence[Asked], ask: Ask) -> list[dict[str, Any]]:
    """Of each pair both responses token by token, with what each token adds to the score by the ranking's criterion.

    The baseline is the prompt with as many tokens that are all the mean of the held-out responses' tokens.  What frames
    a response, such as the token that ends it, stays as it is and has None.  `ask` is `token_attributions` of the
    model, of several processes together.

    Raises ModelError where embeddings do not give the score that tokens do.
    """
    if not asked:
        return []
    rows = responses_of(asked)
    opening = len(codec.encode_response("", end=False))
    ids = [codec.encode_response(rankings[row].responses[which], end=True) for row, which in rows]
    sequences = Sequences.of([(codec.encode_prompt(rankings[row].prompt), one) for (row, _), one in zip(rows, ids, strict=True)])
    place = torch.arange(sequences.mask.shape[1])
    varied = (place >= opening) & (place < sequences.response_lengths[:, None] - 1)
    criterion = torch.tensor([model.heads.criteria.index(rankings[row].criterion) for row, _ in rows])
    found = ask(sequences, varied, neutral(model, codec, rankings).expand(len(rows), -1), criterion)
    tokens, scores, baselines = (x.tolist() for x in found)
    told: dict[tuple[int, int], dict[str, Any]] = {}
    for row, one, added, varies, score, baseline in zip(rows, ids, tokens, varied.tolist(), scores, baselines, strict=True):
        values = [round(x, 6) if free else None for x, free in zip(added, varies, strict=True)]
        told[row] = {"tokens": codec.pieces(one), "attributions": values[: len(one)], "score": score, "baseline": baseline}
    for pair in asked:
        for which, score in zip((pair.better, pair.worse), pair.scores, strict=True):
            check(model, told[pair.ranking, which], score)
    return [line(rankings[pair.ranking], pair, told) for pair in asked]


def check(model: "ScalarModel", told: dict[str, Any], score: float) -> None:
    """Raises ModelError where a response's score is not what embeddings make it, or a gradient was no number."""
    if not abs(told["score"] - score) <= NEAR or not all(math.isfinite(x) for x in told["attributions"] if x is not None):
        raise ModelError(
            f"{type(model.hf).__name__}: a score of {score:.3g} that embeddings make {told['score']:.3g}, or a gradient that is no number",
            "a model that reads no more of a token than its embedding",
        )


def line(ranking: Ranking, pair: Asked, told: dict[tuple[int, int], dict[str, Any]]) -> dict[str, Any]:
    """A pair as JSON."""
    return {
        "prompt_id": ranking.prompt.id,
        "prompt": ranking.prompt.text,
        "criterion": ranking.criterion,
        "labeller": ranking.labeller,
        "why": pair.why,
        "better": told[pair.ranking, pair.better],
        "worse": told[pair.ranking, pair.worse],
    }


def neutral(model: "ScalarModel", codec: Codec, rankings: Sequence[Ranking]) -> Tensor:
    """[D] the mean embedding of all tokens of these rankings' responses, without what frames them."""
    from handrail.models import mean_embedding

    opening = len(codec.encode_response("", end=False))
    texts = [codec.encode_response(text, end=False)[opening:] for ranking in rankings for text in ranking.responses]
    return mean_embedding(model, torch.tensor([token for text in texts for token in text], dtype=torch.int64))
