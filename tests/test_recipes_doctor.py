"""The doctor beside the real recipes: it changes nothing, has the same to say after a resume, and stops all processes together."""

import os
import signal
from pathlib import Path

import pytest

from handrail.doctor import NAMES
from handrail.track import read_run
from killing import assert_same_run
from ranks import start
from recipe_runs import World, in_child, make_world, metrics

pytestmark = pytest.mark.slow
HOT = {"lr": 0.1, "steps": 8, "kl": {"target": 0.0}}  # steps that are far too large


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize("stage", ["ppo", "reinforce", "best_of_n", "relaxed", "dpo"])
def test_a_run_is_the_same_to_the_bit_whether_it_is_watched_or_not(world, tmp_path, stage):
    for mode in ("watch", "off"):
        assert in_child(world.work(stage, tmp_path / mode / stage, {"run": {"doctor": mode}})) == 0
    assert_same_run(tmp_path / "watch" / stage, tmp_path / "off" / stage)
    watched, alone = (read_run(tmp_path / mode / stage) for mode in ("watch", "off"))
    assert not alone.preflight and not alone.findings
    if stage != "dpo":
        assert {"kl", "engine_difference", "ended", "double_start", "reward_mean", "reward_shuffled"} <= watched.preflight.keys()
        assert ("slice_mib" in watched.preflight) == (stage != "relaxed")
        assert watched.preflight["kl"] == 0 and watched.preflight["engine_difference"] < 1e-5 and watched.preflight["double_start"] == 0


def test_a_run_killed_and_taken_up_again_has_the_same_findings(world, tmp_path):
    whole, torn = tmp_path / "a" / "ppo", tmp_path / "b" / "ppo"
    assert in_child(world.work("ppo", whole, HOT)) == 0
    assert in_child(world.work("ppo", torn, HOT), "ppo:5") == -signal.SIGKILL
    assert in_child(world.work("ppo", torn, HOT)) == 0
    found = read_run(whole).findings
    assert found and {line["name"] for line in found} <= set(NAMES)
    assert (whole / "findings.jsonl").read_bytes() == (torn / "findings.jsonl").read_bytes()


def test_a_sick_run_stops_in_all_processes_with_its_step_saved(world, tmp_path):
    out = tmp_path / "ppo"
    work = world.work("ppo", out, HOT | {"run": {"doctor": "stop"}})
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in start(2, work)]
    assert codes == [1, 1]
    steps = len(metrics(out))
    assert 0 < steps < 8 and newest(out) == steps
    assert "stopped: sick" in (out / "log.txt").read_text()


def newest(out: Path) -> int:
    return max(int(path.name.removeprefix("step-")) for path in (out / "checkpoints").glob("step-*"))
