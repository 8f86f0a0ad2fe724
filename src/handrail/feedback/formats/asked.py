"""What a labelling tool shows once and several people answer: labels gathered by what they are about."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import ceil, floor
from typing import Generic

from handrail.feedback.formats.lines import json_text
from handrail.feedback.formats.options import Options
from handrail.feedback.formats.said import R, Said
from handrail.records import Prompt, Ranking, Rating


@dataclass(frozen=True, slots=True)
class Asked(Generic[R]):
    """One thing that was shown, and for each label what it says of it, in the labels' order."""

    prompt: Prompt
    responses: tuple[str, ...]
    models: tuple[str, ...]
    answers: dict[str, list[Said[R]]] = field(default_factory=dict)  # by id of the label


def gathered(some: Iterable[Said[R]]) -> list[Asked[R]]:
    """Records of the same prompt, responses and models together, in the order in which they first come."""
    found: dict[str, Asked[R]] = {}
    for said in some:
        record = said.record
        responses = record.responses if isinstance(record, Ranking) else (record.response,) if isinstance(record, Rating) else ()
        models = record.models if isinstance(record, Ranking) else ()
        key = json_text([record.prompt.model_dump(mode="json"), responses, models])
        found.setdefault(key, Asked(record.prompt, responses, models)).answers.setdefault(said.label.id, []).append(said)
    return list(found.values())


def slugs(criteria: Iterable[str]) -> dict[str, str]:
    """For each criterion a name as tags and questions have: small letters, digits and underscores, all different."""
    found: dict[str, str] = {}
    for name in dict.fromkeys(criteria):
        plain = "rating_" + (re.sub("[^a-z0-9]+", "_", name.lower()).strip("_") or "overall")
        number = 1 + sum(slug == plain or slug.rpartition("__")[0] == plain for slug in found.values())
        found[name] = plain if number == 1 else f"{plain}__{number}"
    return found


def scale(criterion: str, ratings: Sequence[Said[Rating]], options: Options) -> tuple[int, int]:
    """The widest under which these ratings were given; where none is told, 1 to 5, or wider if the scores are."""
    some = [s for s in ratings if s.record.criterion == criterion]
    under = {(s.label.task, s.label.revision): options.asked(s.label) for s in some}
    known = [c for settings in under.values() if settings for c in settings.criteria if c.name == criterion]
    scores = [s.record.score for s in some]
    low, high = min((c.low for c in known), default=1), max((c.high for c in known), default=5)
    return min(low, floor(min(scores))), max(high, ceil(max(scores)))
