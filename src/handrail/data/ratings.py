"""Ratings of several responses to one prompt are a ranking of them."""

from collections.abc import Sequence

from handrail.records import Ranking, Rating, places_of


def rankings_of(ratings: Sequence[Rating]) -> tuple[list[Ranking], int]:
    """A ranking for each labeller, prompt and criterion, and how many ratings stand alone in theirs.

    Scores are compared within a ranking only: one labeller's 4 may be another's 3.  The same response twice is one.
    """
    groups: dict[tuple[str, str, str], dict[str, Rating]] = {}
    for rating in ratings:
        groups.setdefault((rating.prompt.text, rating.criterion, rating.labeller), {}).setdefault(rating.response, rating)
    together = [list(group.values()) for group in groups.values()]
    rankings = [_ranking(group) for group in together if len(group) > 1]
    return rankings, sum(len(group) == 1 for group in together)


def _ranking(ratings: list[Rating]) -> Ranking:
    scores = tuple(rating.score for rating in ratings)
    return Ranking(
        prompt=ratings[0].prompt,
        responses=tuple(rating.response for rating in ratings),
        places=places_of(scores),
        labeller=ratings[0].labeller,
        criterion=ratings[0].criterion,
        scores=scores,
    )
