"""The account of long work, in a terminal and in a pipe, and what stands at the end of a verb."""

import io
import re

import pytest
from rich.console import Console

from handrail.cli import frame, results
from handrail.cli.demo import busy
from handrail.cli.selftest import line as told
from handrail.recipes import progress as module
from handrail.recipes.progress import clock, cumulative, progress
from handrail.selftest.checks import ENDS, below
from handrail.selftest.loops import LOOPS


def watched(monkeypatch, terminal: bool, width: int = 80) -> io.StringIO:
    stream = io.StringIO()
    monkeypatch.setattr(module, "console", Console(file=stream, force_terminal=terminal, width=width, color_system=None))
    return stream


def plainly(stream: io.StringIO) -> list[str]:
    return [line for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue()).replace("\r", "\n").split("\n") if line.strip()]


def test_a_bar_fits_into_eighty_columns(monkeypatch):
    stream = watched(monkeypatch, terminal=True)
    with progress("reinforce", 2000, 995) as advance:
        for _ in range(5):
            advance(1, "reward +0.69  kl 10.6  length 118")
    assert plainly(stream)
    for line in plainly(stream):
        assert len(line.rstrip()) <= 80 and line.startswith("reinforce")
    assert "1000/2000" in plainly(stream)[-1] and "length 118" in plainly(stream)[-1]


def test_in_a_pipe_there_is_a_line_now_and_then_and_one_at_the_end(monkeypatch):
    stream = watched(monkeypatch, terminal=False)
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    with progress("ppo", 10) as advance:
        for step in range(10):
            now[0] += 12.0
            advance(1, f"reward {step}")
    assert plainly(stream) == [
        "ppo       3/10  12.0 s  0:36 of 2:00  reward 2",
        "ppo       6/10  12.0 s  1:12 of 2:00  reward 5",
        "ppo       9/10  12.0 s  1:48 of 2:00  reward 8",
        "ppo       10/10  12.0 s  2:00  reward 9",
    ]


def test_what_was_done_before_is_not_taken_for_speed(monkeypatch):
    stream = watched(monkeypatch, terminal=False)
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    with progress("sample", 100, 50) as advance:
        to = cumulative(advance)
        now[0] = 40.0
        to(10)
    assert plainly(stream)[0] == "sample    60/100  4.0 s  0:40 of 3:20"


@pytest.mark.parametrize("seconds, said", [(5, "0:05"), (125.4, "2:05"), (3725, "1:02:05")])
def test_times_have_hours_only_where_there_are_some(seconds, said):
    assert clock(seconds) == said


@pytest.mark.parametrize("width, lines", [(160, 2), (80, 4)])
def test_a_command_can_be_copied_from_a_narrow_terminal(monkeypatch, width, lines):
    stream = io.StringIO()
    monkeypatch.setattr(results, "out", Console(file=stream, width=width))
    long = "handrail chat runs/demo-movie-night-0/round-1/sft runs/demo-movie-night-0/round-1/ppo"
    results.following([(long, "before and after, side by side"), ("handrail init my-project", "your own")])
    printed = stream.getvalue().splitlines()
    assert len(printed) == lines and printed[0].startswith("Next:")
    if lines == 4:
        assert long in printed and "handrail init my-project" in printed


def test_a_terminal_is_told_that_something_is_loading(monkeypatch):
    for terminal in (True, False):
        stream = io.StringIO()
        monkeypatch.setattr(frame, "console", Console(file=stream, force_terminal=terminal, width=80))
        with frame.loading():
            pass
        assert ("loading" in stream.getvalue()) == terminal


def test_a_busy_machine_is_told_of():
    assert busy(8.4, 2) == "This machine is busy (load 8.4 on 2 cores): it may take several times as long."
    assert busy(0.3, 2) == ""


def test_the_figures_of_the_selftest_stand_below_each_other():
    names = [f"{name}: the mean update is the gradient of J" for name in LOOPS]
    names += [f"{name}: the loop ends at the best policy" for name in ENDS]
    drawn = [told(below(name, figure, 0.5, 1.0)).plain for name in names for figure in ("share", "relative error")]
    assert len({text.index("0.5 <") for text in drawn}) == 1
