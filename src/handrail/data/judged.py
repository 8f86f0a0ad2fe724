"""A row that ranks responses, as a ranking."""

from pydantic import ValidationError

from handrail.data import fields
from handrail.data.fields import Drop, wrong
from handrail.data.files import Row
from handrail.records import Prompt, Ranking

EQUAL = "equal responses in different places"


def judged(row: Row, prompt: Prompt, responses: tuple[str, ...], places: tuple[int, ...], scores: tuple[float, ...] = ()) -> Ranking:
    """A ranking, with what the row says about it besides: labeller, criterion, margin, weight, models, label."""
    weight = fields.number_or(row, "weight", 1.0)
    if weight < 0:
        raise wrong(row, f"'weight' is {weight:g}", "0 or more")
    try:
        ranking = Ranking(
            prompt=prompt,
            responses=responses,
            places=places,
            labeller=fields.text_or(row, "labeller"),
            criterion=fields.text_or(row, "criterion"),
            margin=fields.number_or(row, "margin", 0.0),
            weight=weight,
            models=fields.texts(row, "models") if row.values.get("models") else (),
            scores=scores,
            label=fields.label(row),
        )
    except ValidationError as error:
        found = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise wrong(row, found, "two or more responses and a place for each, 1 for the best, equal places for ties") from None
    if any(responses[better] == responses[worse] for better, worse in ranking.pairs()):
        raise Drop(EQUAL)
    return ranking
