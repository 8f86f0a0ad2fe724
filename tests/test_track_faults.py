"""Faults from outside: kill -9, SIGTERM, Ctrl-C, a full or read-only disk, a second process."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import track_stage
from handrail.config import Settings
from handrail.errors import RunLocked
from handrail.track import Run
from handrail.track.checkpoint import Checkpoints, load
from killing import arm, assert_same_run, run_killed

STAGE = str(Path(track_stage.__file__))


class Forked:
    """A child of this process that does `work`; cheaper than one that has to import torch."""

    def __init__(self, work: Callable[[], None]):
        reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.dup2(writer, 1)
            sys.stdout = os.fdopen(1, "w", buffering=1)
            status = 1
            try:
                work()
                status = 0
            except SystemExit as end:
                status = int(str(end.code))
            finally:
                os._exit(status)
        os.close(writer)
        self._printed = os.fdopen(reader)

    def wait_for(self, line: str) -> None:
        for printed in self._printed:
            if printed.strip() == line:
                return
        pytest.fail(f"ended without printing {line}")

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        """The exit status, or minus the signal."""
        self._printed.close()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def stage(folder: Path, save_every: int = 3, pause: float = 0.0) -> Forked:
    return Forked(lambda: track_stage.main(folder, save_every, pause))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert stage(folder).wait() == 0
    return folder


def test_killed_and_started_again_it_ends_the_same(whole, tmp_path):
    argv = [STAGE, str(tmp_path / "run"), "3", "0"]
    run_killed(argv, "toy:7")
    assert (tmp_path / "run/metrics.jsonl").read_text().count("\n") == 8
    assert stage(tmp_path / "run").wait() == 0
    assert_same_run(tmp_path / "run", whole)
    assert "recovered the lock of process" in (tmp_path / "run/log.txt").read_text()


def stage_killed(folder: Path, stage_step: str, method: str) -> None:
    def work() -> None:
        arm(stage_step, method)
        track_stage.main(folder, 3, 0)

    assert Forked(work).wait() == -signal.SIGKILL


@pytest.mark.parametrize("step", range(10))
def test_killed_twice_at_any_step_it_ends_the_same(whole, tmp_path, step):
    stage_killed(tmp_path / "run", f"toy:{step}", method=random.Random(step).choice(["log", "trace", "due"]))
    stage_killed(tmp_path / "run", "toy:9", method="save" if step < 9 else "due")
    assert stage(tmp_path / "run").wait() == 0
    assert_same_run(tmp_path / "run", whole)


def test_killed_at_the_very_end_it_ends_the_same(whole, tmp_path):
    stage_killed(tmp_path / "run", "toy:10", method="save")
    assert stage(tmp_path / "run").wait() == 0
    assert_same_run(tmp_path / "run", whole)
    stage_killed(tmp_path / "other", "toy:0", method="finish")
    assert_same_run(tmp_path / "other", whole)


def test_the_comparison_of_runs_sees_one_changed_bit(whole, tmp_path):
    for name, file in {
        "weights": "model/model.safetensors",
        "metrics": "metrics.jsonl",
        "checkpoint": "checkpoints/step-00000010/tensors.safetensors",
    }.items():
        copy = tmp_path / name
        shutil.copytree(whole, copy)
        content = bytearray((copy / file).read_bytes())
        content[-4 if name != "metrics" else -3] ^= 1
        (copy / file).write_bytes(bytes(content))
        with pytest.raises(AssertionError):
            assert_same_run(copy, whole)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_finishes_the_step_saves_and_ends(whole, tmp_path, number, status):
    process = stage(tmp_path / "run", save_every=100, pause=0.3)
    process.wait_for("1")
    process.send(number)
    assert process.wait() == status
    saved = Checkpoints(tmp_path / "run/checkpoints", 2).newest()
    assert saved is not None and load(saved).step == 2
    assert "asked to stop" in (tmp_path / "run/log.txt").read_text()
    assert stage(tmp_path / "run").wait() == 0
    assert_same_run(tmp_path / "run", whole)


def test_a_second_signal_ends_at_once(tmp_path):
    process = stage(tmp_path / "run", save_every=1, pause=60)
    process.wait_for("0")
    process.send(signal.SIGTERM)
    time.sleep(0.3)
    assert os.waitpid(process.pid, os.WNOHANG) == (0, 0)
    process.send(signal.SIGTERM)
    assert process.wait() == 143
    assert not (tmp_path / "run/checkpoints").exists()


class Empty(Settings):
    pass


def test_a_signal_after_due_was_asked_still_leads_to_a_checkpoint(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with Run.open(tmp_path / "run", "toy", Empty(), {}, save_every=100) as run:
        assert not run.asked_to_stop and not run.due(0)
        os.kill(os.getpid(), signal.SIGTERM)
        assert run.asked_to_stop
        run.check()
        assert run.due(1)
        run.save(2, {}, {})
        with pytest.raises(SystemExit) as end:
            run.check()
    assert end.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_process_is_refused_and_a_dead_ones_lock_recovered(tmp_path):
    folder = tmp_path / "run"
    process = stage(folder, save_every=1, pause=60)
    process.wait_for("0")
    with pytest.raises(RunLocked, match=f"process {process.pid} on "):
        Run.open(folder, "toy", Empty(), {}, save_every=1)
    process.send(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert json.loads((folder / "lock").read_text())["pid"] == process.pid
    assert stage(folder).wait() == 0
    assert f"recovered the lock of process {process.pid}" in (folder / "log.txt").read_text()
    assert (folder / "lock").read_text() == ""


def test_a_forked_worker_does_not_keep_the_lock(tmp_path):
    run = Run.open(tmp_path / "run", "toy", Empty(), {}, save_every=1)
    awake, wake = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(wake, b"!")  # what runs after a fork has run
        time.sleep(30)
        os._exit(0)
    os.read(awake, 1)
    run.close()
    try:
        with Run.open(tmp_path / "run", "toy", Empty(), {}, save_every=1):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _save_for_ever(folder: Path) -> None:
    checkpoints = Checkpoints(folder, 2)
    newest = checkpoints.newest()
    step = load(newest).step if newest else 0
    print("ready", flush=True)
    while True:
        step += 1
        tensors = {f"p{i}": torch.full((100_000,), float(step)) for i in range(5)}
        checkpoints.write(step, tensors, {"step": step})


@pytest.mark.slow
def test_killed_at_random_moments_inside_saves_a_checkpoint_loads(tmp_path):
    folder = tmp_path / "checkpoints"
    chance = random.Random(0)
    reached = []
    for _ in range(20):
        process = Forked(lambda: _save_for_ever(folder))
        process.wait_for("ready")
        time.sleep(chance.uniform(0.005, 0.12))
        process.send(signal.SIGKILL)
        process.wait()
        newest = Checkpoints(folder, 2).newest()
        if newest is None:
            assert not reached
            continue
        saved = load(newest)
        assert saved.state["step"] == saved.step
        assert all((tensor == saved.step).all() for tensor in saved.tensors.values())
        reached.append(saved.step)
    assert reached == sorted(reached) and reached[-1] > 20


FULL_DISK = """
import os, subprocess, sys
from pathlib import Path
disk = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)], check=True)
import torch
from handrail.config import Settings
from handrail.errors import StorageError
from handrail.track import Run, checkpoint, read_run
from handrail.track.checkpoint import load

class Config(Settings):
    pass

def tensors(kilobytes):
    return {"weight": torch.ones(kilobytes * 256)}

def fails(work):
    try:
        work()
    except StorageError as error:
        assert str(disk) in str(error) and "free on its disk" in str(error), error
        return str(error)
    raise AssertionError("no StorageError")

folder = disk / "run"
with Run.open(folder, "toy", Config(), {}, 1) as run:
    run.log(0, {"loss": 1.0})
    run.save(1, tensors(200), {})
    fails(lambda: run.save(2, tensors(2000), {}))
    checkpoint.require_space = lambda folder, needed: None
    assert "No space left" in fails(lambda: run.save(2, tensors(2000), {}))
    assert [p.name for p in (folder / "checkpoints").iterdir()] == ["step-00000001"]
    ballast = open(disk / "ballast", "wb", buffering=0)
    while True:
        try:
            if not ballast.write(bytes(4096)):
                break
        except OSError:
            break
    def log_much():
        for step in range(1, 1000):
            run.log(step, {"loss": 0.5, "text": "x" * 300})
    assert "No space left" in fails(log_much)
    content = (folder / "metrics.jsonl").read_bytes()
    assert content.endswith(b"\\n")
    fails(lambda: run.trace(1, {"response": ["y" * 9000]}))
    assert not list((folder / "tokens").glob("*.parquet")) if (folder / "tokens").exists() else True
    fails(lambda: run.finish({"text": "z" * 9000}))
    assert not (folder / "summary.json").exists() and not run.finished
ballast.close()
fails(lambda: Run.open(disk / "other", "toy", Config(), {}, 1))
(disk / "ballast").unlink()
with Run.open(folder, "toy", Config(), {}, 1) as run:
    assert run.step == 1 and run.restore().tensors["weight"].numel() == 200 * 256
    assert [line["step"] for line in read_run(folder).metrics] == [0]
    run.log(1, {"loss": 0.5})
    run.finish({})
subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
assert "Read-only" in fails(lambda: Run.open(folder, "toy", Config(), {}, 1))
print("all held")
"""


def _unshare() -> list[str]:
    command = ["unshare", "-rm"]
    permitted = shutil.which("unshare") is not None
    if not permitted or subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("`unshare -rm` is not permitted here, so no small disk can be made")
    return command


@pytest.mark.slow
def test_a_full_and_a_read_only_disk(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [*_unshare(), sys.executable, "-c", FULL_DISK, str(tmp_path)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ended.stdout.strip() == "all held", ended.stdout + ended.stderr
