"""Seconds and peak memory of one PPO step: Handrail against TRL 1.12.0, the last release with PPO, in one run.

    python benchmarks/ppo_step.py                   # both models; installs the peer in an environment of its own
    python benchmarks/ppo_step.py --models S --pairs 2

Random Llama models, 64 prompts of 32 tokens, responses of 5 to 64 tokens (uniform; the ends are forced, the same on
both sides), separate policy, reference, critic and reward model, AdamW, one minibatch.  S takes 4 epochs a step, M one.
The sides take turns, each in a process of its own that does one step to warm up and then `--steps` more; a ratio is the
median of TRL's steps over the median of Handrail's.
"""

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

SHAPES = {
    "S": {
        "hidden_size": 192,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "intermediate_size": 512,
        "vocab_size": 2048,
    },
    "M": {
        "hidden_size": 512,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "intermediate_size": 1408,
        "vocab_size": 8192,
    },
}
EPOCHS = {"S": 4, "M": 1}
ROWS, PROMPT, NEW = 64, 32, 64
SIDES = ("handrail", "handrail-compiled", "handrail-bf16", "handrail-compiled-bf16", "handrail-one-trunk", "trl", "trl-onednn", "trl-bf16")


def lengths() -> list[int]:
    """The length of each response, the same in every step and on every side."""
    rng = random.Random(0)
    return [rng.randint(5, NEW) for _ in range(ROWS)]


def prompts(vocabulary: int) -> list[list[int]]:
    """Token ids of the prompts; 0 and 1 are padding and end."""
    rng = random.Random(1)
    return [[rng.randrange(2, vocabulary) for _ in range(PROMPT)] for _ in range(ROWS)]


def peak() -> float:
    """Peak memory of this process, GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def make_models(folder: Path, size: str, own: bool) -> None:
    """A causal model, a reward model and a tokenizer, saved for both sides."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = LlamaConfig(**SHAPES[size], max_position_embeddings=256, bos_token_id=None, eos_token_id=1, pad_token_id=0)
    LlamaForCausalLM(config).save_pretrained(folder / "policy")
    config.num_labels = 1
    LlamaForSequenceClassification(config).save_pretrained(folder / "reward")
    words = {"<pad>": 0, "<end>": 1} | {f"w{i}": i for i in range(2, config.vocab_size)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>")
    for name in ("policy", "reward"):
        fast.save_pretrained(folder / name)
    if own:
        from handrail.models import Lora, ModelSettings, ScalarModel, load_causal

        trunk = load_causal(ModelSettings(path=str(folder / "policy"), lora=Lora()))
        ScalarModel.from_causal(trunk, "normal").save(folder / "reward-adapter", fast)


def handrail_side(folder: Path, size: str, steps: int, variant: str) -> dict:
    """Steps of `handrail ppo` as the command runs them, without traces and checkpoints."""
    from handrail.data import Source
    from handrail.models import Lora, ModelSettings
    from handrail.recipes import ppo
    from handrail.recipes.parts import RunSettings
    from handrail.recipes.ppo_parts import PPO
    from handrail.recipes.progress import console
    from handrail.recipes.rewards import RewardSettings
    from handrail.rollout import Sampling, native

    console.quiet = True
    wanted = lengths()

    def finished(self: native._Flight, row: native._Row) -> bool:
        row.ended = len(row.response) == wanted[row.index]
        return row.ended

    native._Flight._finished = finished
    with open(folder / "prompts.jsonl", "w") as file:
        for row in prompts(SHAPES[size]["vocab_size"]):
            file.write(json.dumps({"prompt": " ".join(f"w{i}" for i in row)}) + "\n")
    one_trunk = variant == "handrail-one-trunk"
    cfg = PPO(
        out=str(folder / f"run-{os.getpid()}"),
        policy=ModelSettings(
            path=str(folder / "policy"),
            autocast=variant.endswith("bf16"),
            compile="compiled" in variant,
            lora=Lora() if one_trunk else None,
        ),
        roles="one_trunk_shared" if one_trunk else "separate",
        prompts=Source(path=str(folder / "prompts.jsonl")),
        template="plain",
        reward=RewardSettings(model=str(folder / ("reward-adapter" if one_trunk else "reward"))),
        sampling=Sampling(max_new_tokens=NEW),
        steps=steps + 1,
        batch_size=ROWS,
        epochs=EPOCHS[size],
        run=RunSettings(save_every=10_000, trace_every=0),
    )
    run = ppo.run(cfg)
    lines = [json.loads(line) for line in (run.folder / "timing.jsonl").read_text().splitlines()][1:]
    parts = {name: [line[name] for line in lines] for name in ("act", "judge", "improve")}
    return {"seconds": [sum(p[i] for p in parts.values()) for i in range(steps)], "parts": parts, "peak_gb": peak()}


def trl_side(folder: Path, size: str, steps: int, variant: str) -> dict:
    """Steps of TRL's PPOTrainer.train(), from one batch to the next."""
    import functools

    import torch
    from datasets import Dataset
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        LogitsProcessor,
        LogitsProcessorList,
        TrainerCallback,
    )
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    if variant == "trl-onednn":
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"

    class Forced(LogitsProcessor):
        def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            now = ids.shape[1] - PROMPT + 1
            ends = torch.tensor([n <= now for n in lengths()])
            scores[:, 1] = torch.where(ends, 0.0, -torch.inf)
            scores[ends, 2:] = -torch.inf
            scores[ends, 0] = -torch.inf
            return scores

    class Clock(TrainerCallback):
        ticks: list[float] = []

        def on_step_end(self, *args: object, **named: object) -> None:
            self.ticks.append(time.perf_counter())

    policy, reference = (AutoModelForCausalLM.from_pretrained(folder / "policy", dtype=torch.float32) for _ in range(2))
    reward, value = (
        AutoModelForSequenceClassification.from_pretrained(folder / "reward", num_labels=1, dtype=torch.float32) for _ in range(2)
    )
    policy.generate = functools.partial(policy.generate, logits_processor=LogitsProcessorList([Forced()]))
    args = PPOConfig(
        output_dir=str(folder / f"trl-{os.getpid()}"),
        per_device_train_batch_size=ROWS,
        gradient_accumulation_steps=1,
        num_mini_batches=1,
        num_ppo_epochs=EPOCHS[size],
        local_rollout_forward_batch_size=ROWS,
        total_episodes=ROWS * (steps + 1),
        response_length=NEW,
        stop_token="eos",
        temperature=1.0,
        learning_rate=1e-5,
        num_sample_generations=0,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        bf16=variant == "trl-bf16",
        gradient_checkpointing=False,
    )
    rows = Dataset.from_dict({"input_ids": prompts(SHAPES[size]["vocab_size"])})
    clock = Clock()
    trainer = PPOTrainer(
        args=args,
        processing_class=AutoTokenizer.from_pretrained(folder / "policy", padding_side="left"),
        model=policy,
        ref_model=reference,
        reward_model=reward,
        value_model=value,
        train_dataset=rows,
        eval_dataset=rows,
        callbacks=[clock],
    )
    trainer.train()
    return {"seconds": [b - a for a, b in zip(clock.ticks, clock.ticks[1:], strict=False)], "peak_gb": peak()}


def peer(folder: Path) -> Path:
    """The interpreter of an environment that holds TRL; made when it is not there."""
    python = folder / "bin/python"
    if not (folder / "ready").exists():
        print(f"installing trl 1.12.0 in {folder}", flush=True)
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "torch==2.13.0", "transformers==5.23.0", "trl==1.12.0"], check=True)
        (folder / "ready").touch()
    return python


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["S", "M"], choices=SHAPES)
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=SIDES)
    parser.add_argument("--pairs", type=int, default=3, help="how often the sides take turns")
    parser.add_argument("--steps", type=int, default=2, help="timed steps a turn")
    parser.add_argument("--peer", type=Path, default=Path("benchmarks/.peer"), help="environment of the peer")
    parser.add_argument("--out", type=Path, help="figures as JSON")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        side = trl_side if args.side.startswith("trl") else handrail_side
        print(json.dumps(side(args.folder, args.models[0], args.steps, args.side)))
        return
    python, figures = peer(args.peer) if any(s.startswith("trl") for s in args.sides) else None, {}
    for size in args.models:
        turns: dict[str, list[dict]] = {side: [] for side in args.sides}
        with tempfile.TemporaryDirectory() as folder:
            make_models(Path(folder), size, "handrail-one-trunk" in args.sides)
            for _ in range(args.pairs):
                for side in args.sides:
                    interpreter = python if side.startswith("trl") else sys.executable
                    command = [
                        interpreter,
                        __file__,
                        "--side",
                        side,
                        "--models",
                        size,
                        "--steps",
                        str(args.steps),
                        "--folder",
                        folder,
                    ]
                    done = subprocess.run(command, capture_output=True, text=True)
                    if done.returncode:
                        sys.exit(f"{side} failed:\n{done.stderr[-3000:]}")
                    turns[side].append(json.loads(done.stdout.strip().splitlines()[-1]))
        figures[size] = {side: describe(found) for side, found in turns.items()}
        show(size, figures[size])
    if args.out:
        args.out.write_text(json.dumps(figures, indent=2) + "\n")


def describe(turns: list[dict]) -> dict:
    """Median, least and greatest seconds over all turns, and the greatest peak memory."""
    seconds = [s for turn in turns for s in turn["seconds"]]
    found = {
        "median": statistics.median(seconds),
        "min": min(seconds),
        "max": max(seconds),
        "peak_gb": max(t["peak_gb"] for t in turns),
    }
    if "parts" in turns[0]:
        found["parts"] = {name: statistics.median(s for t in turns for s in t["parts"][name]) for name in turns[0]["parts"]}
    return found


def show(size: str, sides: dict[str, dict]) -> None:
    """A table of one model."""
    columns = f"{'':22}{'median s':>10}{'min':>8}{'max':>8}{'peak GB':>9}"
    print(f"\n{size}: {SHAPES[size]}, {EPOCHS[size]} epoch(s) a step")
    print(columns + "   faster than trl / trl-onednn, share of trl's memory, seconds by part")
    for side, found in sides.items():
        ratios = [f"{sides[p]['median'] / found['median']:.2f}x" for p in ("trl", "trl-onednn") if p in sides]
        share = f"{found['peak_gb'] / sides['trl']['peak_gb']:.2f}" if "trl" in sides else ""
        parts = "  ".join(f"{k} {v:.2f}" for k, v in found.get("parts", {}).items())
        row = f"{side:22}{found['median']:10.2f}{found['min']:8.2f}{found['max']:8.2f}{found['peak_gb']:9.2f}"
        print(f"{row}   {' / '.join(ratios)}  {share}  {parts}")


if __name__ == "__main__":
    main()
