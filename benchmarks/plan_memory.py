"""What `handrail plan` foresees against what runs then use: peak memory and seconds of single stages.

    python benchmarks/plan_memory.py                       # the ten that count, about 20 minutes on two cores
    python benchmarks/plan_memory.py --only ppo-512 sft-256
    python benchmarks/plan_memory.py --calibrate           # the others, from which the two constants of the CPU were set

Each run is a process of its own with one thread, on models of random weights; its peak is the largest `memory_mib` in its
timing.jsonl, its seconds are those of the timing times the share of its processor that it had.  What is
foreseen comes from `handrail plan` in a process of its own, before the run.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from handrail.data import write_records
from handrail.models import ScalarModel, new_tokenizer
from handrail.records import Ranking
from handrail.tasks import TASKS

TASK = TASKS["movie-night"]
SIZES = {
    "256": (256, 3, 4, 1024),
    "512": (512, 6, 8, 8192),
    "768": (768, 12, 12, 32000),
    "640": (640, 8, 10, 16384),
    "384": (384, 4, 6, 4096),
}
AUTOCAST, FLOAT = {"autocast": True}, {}

# name: the stage, the size, what is set of the model, further settings.
COUNTED = {
    "sft-256": ("sft", "256", AUTOCAST, {"epochs": 1.0, "batch_tokens": 1024}),
    "sft-768": ("sft", "768", FLOAT, {"epochs": 0.05, "batch_tokens": 4096}),
    "reward-512": ("reward", "512", AUTOCAST, {"epochs": 1, "batch_size": 16, "normalise_on": 32}),
    "ppo-256": ("ppo", "256", FLOAT, {"steps": 15}),
    "ppo-512": ("ppo", "512", AUTOCAST, {"steps": 5}),
    "ppo-512-one-trunk": ("ppo", "512", AUTOCAST, {"steps": 5, "roles": "one_trunk_shared"}),
    "ppo-768-lora-checkpointing": (
        "ppo",
        "768",
        {"autocast": True, "lora": {"rank": 16}, "gradient_checkpointing": True},
        {"steps": 2, "batch_size": 32},
    ),
    "grpo-512": ("reinforce", "512", FLOAT, {"steps": 5, "baseline": {"kind": "group_normalised"}, "credit": "whole_return"}),
    "dpo-768": ("dpo", "768", AUTOCAST, {"epochs": 1, "batch_size": 16, "data": 96}),
    "best-of-n-256": ("best_of_n", "256", AUTOCAST, {"steps": 15}),
}
CALIBRATED = {
    "sft-384": ("sft", "384", AUTOCAST, {"epochs": 0.5, "batch_tokens": 2048}),
    "sft-640": ("sft", "640", AUTOCAST, {"epochs": 0.1, "batch_tokens": 2048}),
    "reward-384": ("reward", "384", AUTOCAST, {"epochs": 1, "batch_size": 8, "normalise_on": 32}),
    "ppo-384": ("ppo", "384", AUTOCAST, {"steps": 8}),
    "ppo-640": ("ppo", "640", AUTOCAST, {"steps": 3}),
    "rloo-384": ("reinforce", "384", FLOAT, {"steps": 8}),
    "dpo-640": ("dpo", "640", FLOAT, {"epochs": 1, "batch_size": 16, "data": 128}),
}


def made(folder: Path, size: str) -> None:
    """A model of random weights and a reward model beside it."""
    if (folder / size).exists():
        return
    hidden, layers, heads, vocabulary = SIZES[size]
    texts = [d.prompt.text + d.response for d in TASK.demonstrations(2000, 0)]
    tokenizer = new_tokenizer(texts, 1024)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=-(-8 * hidden // 96) * 32,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    hf = LlamaForCausalLM(config)
    with torch.no_grad():  # it says nothing that its tokenizer has no word for
        hf.get_input_embeddings().weight[len(tokenizer) :] = -1e-3
    hf.save_pretrained(folder / size)
    tokenizer.save_pretrained(folder / size)
    ScalarModel.from_causal(hf, "normal").save(folder / f"{size}-reward", tokenizer)


def settings(folder: Path, name: str, stage: str, size: str, model: dict, more: dict) -> dict:
    """The stage's settings in full."""
    place = {"path": str(folder / size), **model}
    found = {"out": str(folder / "runs" / name), "run": {"trace_every": 10}, **more}
    if stage in ("sft", "reward", "dpo"):
        kind = "demonstrations" if stage == "sft" else "rankings"
        found["data"] = {"path": str(folder / f"{kind}.jsonl"), **({"limit": more["data"]} if "data" in more else {})}
        return found | {"policy" if stage == "dpo" else "model": place}
    trunk = more.get("roles", "separate") != "separate"  # whose reward model would have to be an adapter on it
    return found | {
        "policy": place,
        "prompts": {"path": str(folder / "prompts.jsonl")},
        "reward": {"function": f"{folder / 'score.py'}:score"} if trunk else {"model": str(folder / f"{size}-reward")},
        "sampling": {"max_new_tokens": 48},
    }


def handrail(*arguments: str) -> str:
    """What a command prints, with one thread; its end where it fails."""
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "handrail", *arguments], capture_output=True, text=True, env=env)
    if done.returncode:
        raise SystemExit(f"handrail {' '.join(arguments)}\n{done.stderr[-2000:]}")
    return done.stdout


def compared(folder: Path, name: str, stage: str, size: str, model: dict, more: dict) -> dict:
    """What was foreseen and what was used, in MiB and seconds."""
    made(folder, size)
    file = folder / f"{name}.yaml"
    file.write_text(json.dumps(settings(folder, name, stage, size, model, more)))
    foreseen = json.loads(handrail("plan", str(file), "--stage", stage, "--json"))["stages"][0]
    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    handrail(stage, str(file), "--quiet")
    passed, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    share = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / passed  # what it had of its processor
    lines = [json.loads(line) for line in (folder / "runs" / name / "timing.jsonl").read_text().splitlines()]
    seconds = sum(v for line in lines for k, v in line.items() if k in ("act", "judge", "improve")) * min(1.0, share)
    return {
        "name": name,
        "foreseen": foreseen["memory"] / 2**20,
        "used": max(line["memory_mib"] for line in lines),
        "seconds_foreseen": sum(v for k, v in foreseen["seconds"].items() if k != "evaluate"),
        "seconds": seconds,
        "steps": len(lines),
        "steps_foreseen": foreseen["steps"],
    }


def main() -> None:
    """Run them and print a table."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--only", nargs="*", default=[])
    asked.add_argument("--calibrate", action="store_true")
    asked.add_argument("--folder", type=Path)
    given = asked.parse_args()
    chosen = CALIBRATED if given.calibrate else COUNTED
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        demonstrations = TASK.demonstrations(2000, 1)
        write_records(folder / "demonstrations.jsonl", demonstrations)
        write_records(folder / "prompts.jsonl", TASK.prompts(1000, 2))
        (folder / "score.py").write_text("def score(prompts, responses):\n    return [float(len(r)) for r in responses]\n")
        answers = [demonstrations[i::4][:400] for i in range(4)]
        write_records(
            folder / "rankings.jsonl",
            [
                Ranking(prompt=four[0].prompt, responses=tuple(f"{d.response} {i}" for i, d in enumerate(four)), places=(1, 2, 3, 4))
                for four in zip(*answers, strict=True)
            ],
        )
        print(f"{'':28}{'foreseen':>10}{'used':>10}{'':>8}{'s foreseen':>12}{'s':>8}", flush=True)
        for name, row in chosen.items():
            if given.only and name not in given.only:
                continue
            found = compared(folder, name, *row)
            error = found["foreseen"] / found["used"] - 1
            memory = f"{found['foreseen']:7.0f} MiB{found['used']:6.0f} MiB{error:+8.0%}"
            print(f"{name:28}{memory}{found['seconds_foreseen']:12.0f}{found['seconds']:8.0f}", flush=True)


if __name__ == "__main__":
    main()
