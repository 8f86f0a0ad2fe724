"""The clinic: what the doctor says of planted illnesses and of healthy runs is counted."""

from dataclasses import replace

import pytest

from handrail.doctor import NAMES, Finding
from illness.clinic import Diagnosis, counted, hold
from illness.illnesses import HEALTHY, ILLNESSES, Illness


def said(name: str) -> Finding:
    return Finding(name, "sick", "ppo", 3, ((3, 9),), "7 of 9", "a cause", "a remedy")


def diagnosis(causes: tuple[str, ...], *names: str, seen: float = 0.1) -> Diagnosis:
    return Diagnosis(Illness("run", "what", "ppo", causes), 0, [said(name) for name in names], [], seen, 1.0)


def test_there_are_enough_runs_and_each_names_findings_that_exist():
    assert len(ILLNESSES) >= 24 and len(HEALTHY) >= 12
    assert len({i.name for i in [*ILLNESSES, *HEALTHY]}) == len(ILLNESSES) + len(HEALTHY)
    assert {cause for i in ILLNESSES for cause in i.causes} <= set(NAMES) and all(i.causes for i in ILLNESSES)
    assert {i.task for i in HEALTHY} == {"movie-night", "short-version"} and len({i.stage for i in HEALTHY}) == 7


def test_what_is_counted():
    right, second, missed = (diagnosis(("a",), *names) for names in (("a", "b"), ("b", "a"), ("b",)))
    well, alarm = diagnosis(()), diagnosis((), "b")
    assert [d.named for d in (right, second, missed, well, alarm)] == [True, True, False, True, False]
    assert [d.first for d in (right, second, missed)] == [True, False, False]
    assert counted([right] * 22 + [missed] * 2 + [well])[1] and not counted([right] * 21 + [missed] * 3)[1]
    assert not counted([right, alarm])[1] and not replace(well, alarms=["b"]).named  # also while it goes on
    assert counted([right, second, missed, well]) == (
        "2 of 3 causes named, 1 of them first, 2 within the first fifth; 0 false alarms in 1 healthy runs",
        False,
    )


@pytest.mark.slow
def test_the_doctor_names_the_causes_and_leaves_healthy_runs_alone(tmp_path):
    found = hold([i for i in [*ILLNESSES, *HEALTHY] if not i.seldom], [0], tmp_path)
    ill = [d for d in found if d.illness.causes]
    assert len(ill) >= 24
    told, good = counted(found)
    assert good, (told, [(d.illness.name, [f.name for f in d.causes]) for d in found if not d.named])
