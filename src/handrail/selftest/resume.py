"""A PPO run that is killed by force and started again, beside one that was left alone.

The two halves of the killed run are processes of their own, made from this interpreter and not forked from it.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from safetensors.torch import load_file

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
    """(the largest difference of a weight or a logged number, how many numbers were compared) of the two runs; 0 is equal bits."""
    worst, count = 0.0, 0
    one, other = (load_file(folder / name / "model" / "model.safetensors") for name in ("killed", "whole"))
    for name, tensor in one.items():
        worst, count = max(worst, float((tensor.double() - other[name].double()).abs().max())), count + tensor.numel()
    read = ((folder / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines() for name in ("killed", "whole"))
    for first, second in zip(*read, strict=True):
        found, expected = json.loads(first), json.loads(second)
        for name in expected:
            worst, count = max(worst, abs(found[name] - expected[name])), count + 1
    return worst, count


def both(folder: Path) -> str:
    """The run that is killed and the one that is not; returns what went wrong."""
    wrong = kill_and_resume(folder)
    if not wrong:
        ppo.run(settings(folder, "whole"))
    return wrong


if __name__ == "__main__":
    ppo.run(settings(Path(sys.argv[1]), "killed"))
