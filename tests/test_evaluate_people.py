"""People as a judge: what they said of exactly the pairs that were put up, by hand."""

import pytest

from handrail.data import write_records
from handrail.errors import DataError
from handrail.evaluate import people, read_verdicts
from handrail.records import Pair, Prompt, Ranking

PAIRS = [Pair(prompt=Prompt.of(f"q{i}"), responses=(f"old {i}", f"new {i}"), models=("m/old", "m/new")) for i in range(4)]
PAIRS.append(Pair(prompt=Prompt.of("same"), responses=("one", "one"), models=("m/old", "m/new")))


def ranked(i: int, places: tuple[int, int], labeller: str = "labeller-1", turned: bool = False) -> Ranking:
    """Places of (old, new); `turned` writes the new response first."""
    way = slice(None, None, -1) if turned else slice(None)
    pair = PAIRS[i]
    return Ranking(
        prompt=pair.prompt, responses=pair.responses[way], places=places[way], models=pair.models[way], labeller=labeller, criterion=""
    )


def test_labellers_are_averaged_within_a_pair_and_their_repeats_before_that():
    said = [
        ranked(0, (2, 1)),
        ranked(0, (2, 1), turned=True),  # the same labeller again
        ranked(0, (1, 2), "labeller-2"),
        ranked(1, (1, 1)),
        ranked(2, (1, 2), "labeller-2", turned=True),
        ranked(2, (2, 1)),
        ranked(2, (1, 2)),  # changed their mind
    ]
    found = people(PAIRS, said, "rankings.jsonl")
    assert found.gains == [0.5, 0.5, 0.25, None, None]
    assert (found.labellers, found.rankings, found.pairs, found.of) == (2, 7, 3, 4)
    assert found.win_rate is not None and found.win_rate.n == 4
    assert found.win_rate.value == pytest.approx((0.5 + 0.5 + 0.25 + 0.75 / 2) / 3.75, abs=1e-12)  # the equal pair counts 3/4
    assert found.told().keys() == {"win_rate", "labellers", "rankings", "pairs", "of"}


def test_without_a_name_each_is_somebody_else():
    found = people(PAIRS, [ranked(0, (2, 1), ""), ranked(0, (2, 1), ""), ranked(0, (1, 2), "labeller-1")], "r")
    assert found.gains[0] == pytest.approx(2 / 3) and found.labellers == 3


def test_the_interval_is_over_pairs_and_not_over_rankings():
    once = [ranked(i, (2, 1) if i % 2 else (1, 2)) for i in range(4)]
    often = [ranked(i, r.places, f"labeller-{n}") for n in range(50) for i, r in enumerate(once)]  # type: ignore[arg-type]
    few, many = people(PAIRS, once, "r").win_rate, people(PAIRS, often, "r").win_rate
    assert few is not None and few == many and few.low < 0.3 < 0.7 < few.high


def test_before_anybody_was_asked_there_is_no_win_rate():
    found = people(PAIRS, [], "")
    assert found.win_rate is None and (found.pairs, found.of, found.labellers) == (0, 4, 0)


def test_a_file_of_rankings_keeps_what_contradicts_itself(tmp_path):
    path = tmp_path / "rankings.jsonl"
    write_records(path, [ranked(0, (2, 1), ""), ranked(0, (1, 2), ""), ranked(1, (1, 1))])
    assert people(PAIRS, read_verdicts(str(path)), str(path)).gains[:2] == [0.5, 0.5]


def test_rankings_of_something_else_are_refused(tmp_path):
    path = tmp_path / "rankings.jsonl"
    strange = Ranking(prompt=Prompt.of("q0"), responses=("old 0", "new 0 "), places=(1, 2))
    with pytest.raises(DataError, match=r"rankings\.jsonl: 1 of 2 rankings are of other responses, the first to 'q0'"):
        people(PAIRS, [ranked(0, (1, 2)), strange], str(path))
    write_records(path, [Ranking(prompt=Prompt.of("q"), responses=("a", "b", "c"), places=(1, 2, 3))])
    with pytest.raises(DataError, match="1 of 1 rankings are not of two responses"):
        read_verdicts(str(path))
    write_records(path, [ranked(0, (1, 2)).model_copy(update={"criterion": c}) for c in ("kind", "true")])
    with pytest.raises(DataError, match="'kind', 'true'"):
        read_verdicts(str(path))
    with pytest.raises(DataError):
        read_verdicts(str(tmp_path / "missing.jsonl"))
