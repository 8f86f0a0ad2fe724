"""The gate has teeth: a fault that no test catches, or that no longer fits the code, ends it with 1."""

from dataclasses import replace
from pathlib import Path

import pytest

from faults.faults import FAULTS
from faults.gate import ROOT, Fault, gate, plant

TESTS = """
import toy

def test_sum():
    assert toy.add(2, 3) == 5

def test_name():
    assert toy.NAME == "toy"

def test_difference():
    assert toy.subtract(5, 3) == 2
"""
SWAPPED = Fault("swapped", "adds the second number twice", "__init__.py", "return a + b", "return b + b", "test_toy.py")


@pytest.fixture
def toy(tmp_path) -> Path:
    (tmp_path / "src" / "toy").mkdir(parents=True)
    source = "NAME = 'toy'\n\ndef add(a, b):\n    return a + b\n\ndef subtract(a, b):\n    return add(a, -b)\n"
    (tmp_path / "src" / "toy" / "__init__.py").write_text(source)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_toy.py").write_text(TESTS)
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\nmarkers = ["slow: none"]\n')
    return tmp_path


def test_a_fault_that_a_test_catches_passes_and_the_source_stays_as_it_was(toy, capsys):
    before = (toy / "src/toy/__init__.py").read_text()
    assert gate([SWAPPED], toy, [], 1) == 0
    assert "test_toy.py::test_sum" in capsys.readouterr().out
    assert (toy / "src/toy/__init__.py").read_text() == before


def test_without_the_tests_that_catch_it_a_fault_survives(toy, capsys):
    assert gate([SWAPPED], toy, ["test_toy.py::test_sum"], 1) == 0, "another test catches it too"
    assert gate([SWAPPED], toy, ["test_toy.py::test_sum", "test_toy.py::test_difference"], 1) == 1
    assert "survived" in capsys.readouterr().out
    assert gate([replace(SWAPPED, tests="test_toy.py::test_name")], toy, [], 1) == 1
    assert gate([replace(SWAPPED, tests="test_toy.py::test_sum")], toy, ["test_toy.py::test_sum"], 1) == 1
    assert "no test is left" in capsys.readouterr().out


def test_a_patch_that_does_not_fit_or_only_breaks_the_program_counts_as_missed(toy, capsys):
    changes = {
        "occurs 0 times": {"old": "return a * b"},
        "occurs 2 times": {"old": "(a, b)"},
        "there is no gone.py": {"file": "gone.py"},
        "the patched file is no Python": {"new": "return (b"},
        "the patch is broken: NameError": {"new": "return c + b"},
        "no test failed": {"old": "NAME = 'toy'", "new": "NAME = undefined"},
        "survived": {"new": "return sum([a, b])"},
    }
    assert gate([replace(SWAPPED, name=said, **change) for said, change in changes.items()], toy, [], 1) == 1
    lines = {said: line for line in capsys.readouterr().out.splitlines() for said in changes if line.startswith("MISSED") and said in line}
    assert lines.keys() == changes.keys() and all(line.count(said) >= 2 for said, line in lines.items())


def test_a_test_that_fails_without_a_fault_ends_the_gate_at_once(toy, capsys):
    (toy / "tests" / "test_toy.py").write_text(TESTS.replace("== 5", "== 6"))
    assert gate([SWAPPED], toy, [], 1) == 1
    assert "without any fault" in capsys.readouterr().out
    assert gate([replace(SWAPPED, tests="test_gone.py")], toy, [], 1) == 1


def test_every_fault_has_its_own_name_and_still_fits_the_code(tmp_path):
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 40
    for fault in FAULTS:
        source = ROOT / "src" / "handrail" / fault.file
        copy = tmp_path / fault.name / fault.file
        copy.parent.mkdir(parents=True)
        copy.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
        assert plant(fault, tmp_path / fault.name) == "", fault.name
        assert copy.read_text(encoding="utf-8") != source.read_text(encoding="utf-8"), fault.name
        for test in fault.tests.split():
            file, _, name = test.partition("::")
            assert f"def {name.partition('[')[0]}" in (ROOT / "tests" / file).read_text(encoding="utf-8"), test


def test_the_faults_that_correct_code_must_not_have_are_all_in_the_list():
    named = {fault.name for fault in FAULTS}
    assert named >= {
        "log-probabilities shifted by one",
        "reward on the last column",
        "end of sequence masked out",
        "padding leaks into GAE",
        "length mean for sum",
        "wrong sign of KL",
        "k3 in the reward",
        "min and max swapped in the clip",
        "scoring at another temperature",
        "dropout on",
        "whitening over padding",
        "truncation taken for an end",
    }
