"""Run folders to look at: real ones of the tiny recipes, and made ones that hold whatever a test wants."""

import json
import re
from pathlib import Path
from typing import Any

from handrail.track.traces import write_trace


def made_run(folder: Path, steps: int = 5, rows: int = 3, finished: bool = True, **config: Any) -> Path:
    """A run folder as the recipes leave it, with a trace a step; `config` goes over what a PPO run has."""
    folder.mkdir(parents=True)
    settings = {"out": str(folder), "seed": 0, "steps": steps, "lr": 0.001, "kl": {"beta": 0.1}} | config
    (folder / "config.yaml").write_text(json.dumps(settings))
    (folder / "inputs.json").write_text(json.dumps({"stage": "ppo", "inputs": {}}))
    for step in range(steps):
        add_step(folder, step, rows)
    if finished:
        (folder / "summary.json").write_text("{}")
    return folder


def add_step(folder: Path, step: int, rows: int, text: str = "An answer of step {step}, number {row}.", **columns: list) -> None:
    """One more step: a line of numbers, a line of seconds and a trace."""
    with (folder / "metrics.jsonl").open("a") as stream:
        line = {"step": step, "reward": 0.1 * step, "kl": 0.5 * step, "length": 4.0, "entropy": 1.0}
        stream.write(json.dumps(line) + "\n")
    with (folder / "timing.jsonl").open("a") as stream:
        stream.write(
            json.dumps({"step": step, "time": 1.7e9 + 3 * step, "act": 1.0, "judge": 0.5, "improve": 1.0, "memory_mib": 100.0}) + "\n"
        )
    texts = [text.format(step=step, row=row) for row in range(rows)]
    found = {
        "prompt_id": [f"p{row}" for row in range(rows)],
        "prompt": [f"The question {row}" for row in range(rows)],
        "response": texts,
        "ended": [True] * rows,
        "score": [float(step - row) for row in range(rows)],
        "tokens": [re.findall(r" ?\S+", text) for text in texts],
    }
    numbers = {
        "logp_old": -1.0,
        "logp_ref": -1.2,
        "kl": 0.2,
        "reward": -0.02,
        "value": 0.5,
        "return": 0.7,
        "advantage": 0.3,
        "entropy": 1.0,
    }
    found |= {name: [[value + 0.01 * row] * len(tokens) for row, tokens in enumerate(found["tokens"])] for name, value in numbers.items()}
    write_trace(folder / "tokens", step, found | columns)


NUMBER = re.compile(r"[−-]?\d+(?:\.\d+)?(?:e[−-]?\d+)?")


def numbers(text: str) -> list[float]:
    """The numbers of a line as a reader takes them from the page, in their order; a sign after another sign belongs to its number."""
    return [float(found.replace("−", "-")) for found in NUMBER.findall(re.sub(r" − (?=[\d(])", " minus ", text))]
