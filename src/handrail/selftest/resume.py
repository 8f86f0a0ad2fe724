"""A PPO run that is killed by force and started again, beside one that was left alone.

The two halves of the killed run are processes of their own, made from this interpreter and not forked from it.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from handrail.recipes import ppo
from handrail.recipes.ppo_parts import PPO
from handrail.selftest import tiny

STEPS, KILLED_AFTER = 12, 5  # steps; a checkpoint is written every third
SECONDS = 300


def settings(folder: Path, name: str) -> PPO:
    """A short run on the tiny model, with an adaptive beta, several epochs and traces."""
    run = {"save_every": 3, "trace_every": 1, "trace_rows": 4}
    sizes = {"steps": STEPS, "batch_size": 32, "minibatches": 2, "lr": 3e-3, "kl": {"target": 0.5, "horizon": 100}}
    return tiny.settings(folder, folder / name, run=run, **sizes)


def start(folder: Path) -> subprocess.Popen:
    """A process that does the run "killed" of this folder, or what is left of it."""
    command = [sys.executable, "-m", __name__, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def lines(path: Path) -> int:
    """Whole lines of a file that another process writes."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_and_resume(folder: Path) -> str:
    """Kill a run on its way, start it again, let it end; returns what went wrong, "" where nothing did."""
    metrics, deadline = folder / "killed" / "metrics.jsonl", time.monotonic() + SECONDS
    first = start(folder)
    try:
        while lines(metrics) < KILLED_AFTER and first.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
    finally:
        first.kill()
    said = first.communicate()[1]
    done = lines(metrics)
    if not KILLED_AFTER <= done < STEPS:
        return f"the run to be killed had done {done} of {STEPS} steps: {last_line(said)}"
    second = start(folder)
    try:
        said = second.communicate(timeout=SECONDS)[1]
    except subprocess.TimeoutExpired:
        return f"the resumed run had not ended after {SECONDS} s"
    finally:
        second.kill()
    return f"the resumed run ended with {second.returncode}: {last_line(said)}" if second.returncode else ""


def last_line(said: str) -> str:
    """The end of what a process said."""
    return (said.strip().splitlines() or ["it said nothing"])[-1]


def difference(folder: Path) -> tuple[float, int]:
    """(the largest difference of a weight or a logged number, how many were compared) of the two runs.

    0 is equal bits; NaN where one run has a number that the other has not, or that is none.
    """
    one, other = (numbers(folder / name) for name in ("killed", "whole"))
    if one.shape != other.shape:
        return float("nan"), len(one)
    return float((one - other).abs().max()), len(one)


def numbers(run: Path) -> Tensor:
    """[n] float64: all weights of a finished run, and all that it logged."""
    weights = load_file(run / "model" / "model.safetensors")
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    values = torch.tensor([step[name] for step in logged for name in sorted(step)], dtype=torch.float64)
    return torch.cat([*(weights[name].double().flatten() for name in sorted(weights)), values])


def both(folder: Path) -> str:
    """The run that is killed and the one that is not; returns what went wrong."""
    wrong = kill_and_resume(folder)
    if not wrong:
        ppo.run(settings(folder, "whole"))
    return wrong


if __name__ == "__main__":
    ppo.run(settings(Path(sys.argv[1]), "killed"))
