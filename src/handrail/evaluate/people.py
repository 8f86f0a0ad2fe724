"""People as a judge: their rankings of exactly the pairs that were put up."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

from pydantic import Field

from handrail.config import Settings
from handrail.data import Source, load_verdicts
from handrail.errors import DataError
from handrail.evaluate.winrate import WinRate, judged_rate
from handrail.records import Pair, Ranking


class PeopleSettings(Settings):
    """People who compare the pairs."""

    path: str = Field("", description="their rankings of pairs.jsonl; empty: they are still to be asked")


@dataclass(frozen=True, slots=True)
class Said:
    """What people said of pairs."""

    win_rate: WinRate | None
    gains: list[float | None]  # of each pair, for its second response: mean over labellers; None where nobody judged it
    labellers: int
    rankings: int
    pairs: int  # judged
    of: int  # pairs that were put up: those whose responses differ

    def told(self) -> dict:
        """For a summary."""
        found = asdict(self)
        del found["gains"]
        return found


def read_verdicts(path: str) -> list[Ranking]:
    """Rankings of pairs.  Raises DataError, where they are not all of two responses and by one criterion."""
    rankings = load_verdicts(Source(path=path)).records
    if several := sum(len(r.responses) != 2 for r in rankings):
        raise DataError(f"{path}: {several} of {len(rankings)} rankings are not of two responses", "rankings of the pairs in pairs.jsonl")
    if len(criteria := sorted({r.criterion for r in rankings})) > 1:
        raise DataError(f"{path}: rankings by {', '.join(map(repr, criteria))}", "one criterion: a win rate is by one", "keep those of one")
    return rankings


def people(pairs: Sequence[Pair], rankings: Sequence[Ranking], path: str, seed: int = 0) -> Said:
    """Their win rate.  What one labeller says of a pair again is averaged first, then the labellers of the pair.

    A labeller without a name is somebody else every time.

    Raises:
        DataError: a ranking of other responses than the pairs'.
    """
    number = {(p.prompt.text, frozenset(p.responses)): i for i, p in enumerate(pairs)}
    of_pair: list[dict[str, list[float]]] = [{} for _ in pairs]
    strange = [r for r in rankings if (r.prompt.text, frozenset(r.responses)) not in number]
    if strange:
        raise DataError(
            f"{path}: {len(strange)} of {len(rankings)} rankings are of other responses, the first to {strange[0].prompt.text[:60]!r}",
            "rankings of the pairs in pairs.jsonl, letter by letter",
            "put the new pairs before people, or evaluate with the settings that the old ones were made with",
        )
    for place, ranking in enumerate(rankings):
        i = number[ranking.prompt.text, frozenset(ranking.responses)]
        before, after = (ranking.places[ranking.responses.index(text)] for text in pairs[i].responses)
        gain = 0.5 if before == after else float(after < before)
        of_pair[i].setdefault(ranking.labeller or f"\0{place}", []).append(gain)
    gains = [fmean(map(fmean, of.values())) if of else None for of in of_pair]
    same = [p.responses[0] == p.responses[1] for p in pairs]
    return Said(
        win_rate=judged_rate(gains, same, seed),
        gains=gains,
        labellers=len({name for of in of_pair for name in of}),
        rankings=len(rankings),
        pairs=sum(bool(of) and not equal for of, equal in zip(of_pair, same, strict=True)),
        of=len(pairs) - sum(same),
    )
