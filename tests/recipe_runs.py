"""The real recipes at their smallest: a made world of a few dozen records, models that train in a second."""

import os
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from handrail.data import write_records
from handrail.pipeline.settings import merge
from handrail.recipes import best_of_n, dpo, ppo, progress, reinforce, relaxed, reward, sft
from handrail.recipes.best_of_n_parts import BestOfN
from handrail.recipes.dpo import DPO
from handrail.recipes.ppo_parts import PPO
from handrail.recipes.reinforce_parts import Reinforcement
from handrail.recipes.relaxed import Relaxed
from handrail.recipes.reward_parts import Reward
from handrail.recipes.sft import SFT
from handrail.records import Ranking
from handrail.tasks import TASKS, crew
from handrail.track import Run, read_run
from killing import arm

NEW = {"hidden": 32, "layers": 1, "heads": 2, "vocabulary": 600, "context": 96}
SAMPLING = {"max_new_tokens": 12}

progress.console.quiet = True  # a bar refreshes itself in a thread, and forks want none


@dataclass(frozen=True)
class World:
    """Files of records, a model after SFT, a reward model, and settings that stand on them."""

    folder: Path

    def sft(self, out: Path, over: dict | None = None) -> SFT:
        data = {"path": str(self.folder / "demonstrations.jsonl")}
        base = {"out": str(out), "model": {"new": NEW}, "data": data}
        sizes = {"epochs": 2, "batch_tokens": 700, "micro_tokens": 300, "eval_every": 2}
        return SFT.model_validate(merge(base | sizes | {"run": {"save_every": 2}}, over or {}))

    def reward(self, out: Path, over: dict | None = None) -> Reward:
        base = {"out": str(out), "model": {"path": str(self.folder / "sft")}, "data": {"path": str(self.folder / "rankings.jsonl")}}
        sizes = {"held_out": 0.3, "epochs": 3, "batch_size": 5, "micro_tokens": 300, "normalise_on": 8}
        return Reward.model_validate(merge(base | sizes | {"sampling": SAMPLING, "run": {"save_every": 2}}, over or {}))

    def ppo(self, out: Path, over: dict | None = None) -> PPO:
        base = {"out": str(out), "policy": {"path": str(self.folder / "sft")}, "prompts": {"path": str(self.folder / "prompts.jsonl")}}
        base |= {"reward": {"model": str(self.folder / "reward")}, "kl": {"target": 1.0, "horizon": 50}, "sampling": SAMPLING}
        sizes = {"steps": 6, "batch_size": 8, "minibatches": 2, "micro_tokens": 300, "lr": 2e-3, "warmup": 0}
        return PPO.model_validate(merge(base | sizes | {"run": {"save_every": 2, "trace_every": 1, "trace_rows": 4}}, over or {}))

    def reinforce(self, out: Path, over: dict | None = None) -> Reinforcement:
        base = {"out": str(out), "policy": {"path": str(self.folder / "sft")}, "prompts": {"path": str(self.folder / "prompts.jsonl")}}
        base |= {"reward": {"model": str(self.folder / "reward")}, "sampling": SAMPLING, "responses": 2}
        sizes = {"steps": 6, "batch_size": 8, "minibatches": 2, "micro_tokens": 300, "lr": 2e-3, "warmup": 0}
        return Reinforcement.model_validate(merge(base | sizes | {"run": {"save_every": 2, "trace_every": 1, "trace_rows": 4}}, over or {}))

    def relaxed(self, out: Path, over: dict | None = None) -> Relaxed:
        base = {"out": str(out), "policy": {"path": str(self.folder / "sft")}, "prompts": {"path": str(self.folder / "prompts.jsonl")}}
        base |= {"reward": str(self.folder / "reward"), "sampling": SAMPLING, "rows": 3}
        sizes = {"steps": 6, "batch_size": 8, "lr": 2e-3, "warmup": 0}
        return Relaxed.model_validate(merge(base | sizes | {"run": {"save_every": 2, "trace_every": 1, "trace_rows": 4}}, over or {}))

    def dpo(self, out: Path, over: dict | None = None) -> DPO:
        base = {"out": str(out), "policy": {"path": str(self.folder / "sft")}, "data": {"path": str(self.folder / "rankings.jsonl")}}
        sizes = {"held_out": 0.3, "epochs": 3, "batch_size": 5, "micro_tokens": 300, "lr": 2e-3, "eval_every": 2}
        return DPO.model_validate(merge(base | sizes | {"run": {"save_every": 2, "trace_every": 1, "trace_rows": 4}}, over or {}))

    def online(self, function: str = "") -> dict:
        """What makes `dpo` learn from the policy's own responses instead, judged by the reward model or a function."""
        reward = {"function": function} if function else {"model": str(self.folder / "reward")}
        prompts = {"path": str(self.folder / "prompts.jsonl")}
        settings = {"prompts": prompts, "reward": reward, "sampling": SAMPLING, "responses": 3, "pairs": "all", "steps": 6}
        return {"data": None, "online": settings}

    def best_of_n(self, out: Path, over: dict | None = None) -> BestOfN:
        base = {"out": str(out), "policy": {"path": str(self.folder / "sft")}, "prompts": {"path": str(self.folder / "prompts.jsonl")}}
        base |= {"reward": {"model": str(self.folder / "reward")}, "sampling": SAMPLING, "eval_every": 2, "eval_responses": 4}
        sizes = {"steps": 6, "rounds": 2, "batch_size": 4, "n": 3, "epochs": 2, "minibatches": 2, "micro_tokens": 300, "lr": 2e-3}
        return BestOfN.model_validate(merge(base | sizes | {"run": {"save_every": 2, "trace_every": 1, "trace_rows": 4}}, over or {}))

    def work(self, stage: str, out: Path, over: dict | None = None) -> Callable[[], Run]:
        """The stage on this world, ready to be run."""
        return {
            "sft": lambda: sft.run(self.sft(out, over)),
            "reward": lambda: reward.run(self.reward(out, over)),
            "ppo": lambda: ppo.run(self.ppo(out, over)),
            "relaxed": lambda: relaxed.run(self.relaxed(out, over)),
            "reinforce": lambda: reinforce.run(self.reinforce(out, over)),
            "dpo": lambda: dpo.run(self.dpo(out, over)),
            "best_of_n": lambda: best_of_n.run(self.best_of_n(out, over)),
        }[stage]


def make_world(folder: Path) -> World:
    """Records of the built-in movie night, then SFT and a reward model on them."""
    world = make_records(folder)
    sft.run(world.sft(folder / "sft"))
    reward.run(world.reward(folder / "reward"))
    return world


def make_records(folder: Path) -> World:
    """The records alone."""
    task, rng, labeller = TASKS["movie-night"], random.Random(0), crew(1, 0)[0]
    write_records(folder / "demonstrations.jsonl", task.demonstrations(40, 0))
    write_records(folder / "prompts.jsonl", task.prompts(12, 1))
    rankings: list[Ranking] = []
    for prompt in task.prompts(16, 2):
        texts = list(dict.fromkeys(task.draw_response(rng, prompt) for _ in range(3)))
        if len(texts) > 1:
            rankings.append(labeller.rank(prompt, texts, task.gold, np.random.default_rng(len(rankings))))
    write_records(folder / "rankings.jsonl", rankings)
    return World(folder)


def metrics(run: Run | Path) -> list[dict]:
    """What was logged, a dict a step."""
    return read_run(run if isinstance(run, Path) else run.folder).metrics


def in_child(work: Callable[[], object], killed_at: str = "", method: str = "log") -> int:
    """`work` in a fork of this process, killed at `killed_at`, "ppo:3" (see `killing.arm`).  Exit status, or minus the signal."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            if killed_at:
                arm(killed_at, method)
            work()
            status = 0
        except SystemExit as end:
            status = int(str(end.code))
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
