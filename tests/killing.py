"""Kill a run at a chosen moment, start it again, and compare it with one that was never interrupted."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from handrail.track import Run, read_run

_WRAPPER = """
import runpy, sys
from killing import arm

arm(sys.argv[1], sys.argv[2])
sys.argv = sys.argv[3:]
if sys.argv[0].endswith(".py"):
    runpy.run_path(sys.argv[0], run_name="__main__")
else:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def arm(stage_step: str, method: str) -> None:
    """From now on this process kills itself as soon as `Run.<method>` of the stage has done step n, "ppo:3"."""
    stage, _, step = stage_step.rpartition(":")
    original = getattr(Run, method)
    calls = [0]

    def patched(self, *given, **named):
        result = original(self, *given, **named)
        if self.stage == stage:
            moment = given[0] if given and isinstance(given[0], int) else calls[0]
            calls[0] += 1
            if moment == int(step):
                os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(Run, method, patched)


def run_command(argv: Sequence[str], timeout: float = 300) -> subprocess.CompletedProcess:
    """`python argv` to its end: argv[0] is a script or the name of a module, such as `handrail`."""
    start = [argv[0]] if argv[0].endswith(".py") else ["-m", argv[0]]
    return _python([*start, *argv[1:]], timeout)


def run_killed(argv: Sequence[str], stage_step: str, method: str = "log", timeout: float = 300) -> subprocess.CompletedProcess:
    """`python argv`, killed with SIGKILL as soon as `Run.<method>` of the stage has done step n, "ppo:3".

    For a method that takes no step, n counts its calls from 0.  Fails unless the kill happened.
    """
    ended = _python(["-c", _WRAPPER, stage_step, method, *argv], timeout)
    assert ended.returncode == -signal.SIGKILL, (
        f"was not killed at {stage_step} but ended with {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
    )
    return ended


def _python(arguments: Sequence[str], timeout: float) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=timeout, check=False)


def assert_same_run(a: Path, b: Path) -> None:
    """Two finished run folders are the same bit by bit: weights, metrics, traces, last checkpoint."""
    assert (a / "summary.json").exists() and (b / "summary.json").exists()
    weights = sorted(path.relative_to(a) for path in (a / "model").rglob("*.safetensors"))
    assert weights == sorted(path.relative_to(b) for path in (b / "model").rglob("*.safetensors"))
    for path in weights:
        assert (a / path).read_bytes() == (b / path).read_bytes(), f"{path} differs"
    assert (a / "metrics.jsonl").read_bytes() == (b / "metrics.jsonl").read_bytes(), "metrics.jsonl differs"
    one, other = read_run(a), read_run(b)
    assert one.traces == other.traces
    for step in one.traces:
        assert one.read_trace(step).equals(other.read_trace(step)), f"the trace of step {step} differs"
    _assert_same_checkpoint(a, b)


def _assert_same_checkpoint(a: Path, b: Path) -> None:
    names = sorted(path.name for path in (a / "checkpoints").iterdir())
    assert names and names == sorted(path.name for path in (b / "checkpoints").iterdir())
    one, other = a / "checkpoints" / names[-1], b / "checkpoints" / names[-1]
    first, second = load_file(one / "tensors.safetensors"), load_file(other / "tensors.safetensors")
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        found = second[name]
        same = tensor.dtype == found.dtype and tensor.shape == found.shape
        assert same and torch.equal(_bytes(tensor), _bytes(found)), f"{name} differs"
    assert json.loads((one / "state.json").read_bytes()) == json.loads((other / "state.json").read_bytes())


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)
