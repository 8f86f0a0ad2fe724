"""Where the clinic's runs begin: tiny models that really learned a built-in task, made once and kept."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from handrail.config import Settings
from handrail.data import write_records
from handrail.pipeline.settings import merge
from handrail.recipes import best_of_n, dpo, ppo, reinforce, relaxed, reward, sft
from handrail.recipes.best_of_n_parts import BestOfN
from handrail.recipes.dpo import DPO
from handrail.recipes.ppo_parts import PPO
from handrail.recipes.reinforce_parts import Reinforcement
from handrail.recipes.relaxed import Relaxed
from handrail.recipes.reward_parts import Reward
from handrail.recipes.sft import SFT
from handrail.records import Prompt, Ranking
from handrail.tasks import TASKS, crew
from handrail.track import Run, read_run

NEW = {"hidden": 64, "layers": 2, "heads": 4, "vocabulary": 1024, "context": 192}
SAMPLING = {"max_new_tokens": 40}
HERE = Path(__file__).parent

RECIPES: dict[str, tuple[type[Settings], Any]] = {
    "sft": (SFT, sft),
    "reward": (Reward, reward),
    "ppo": (PPO, ppo),
    "reinforce": (Reinforcement, reinforce),
    "best_of_n": (BestOfN, best_of_n),
    "dpo": (DPO, dpo),
    "relaxed": (Relaxed, relaxed),
}


@dataclass(frozen=True)
class World:
    """One task at one seed: records, a model after SFT, a reward model."""

    folder: Path
    task: str
    seed: int

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def settings(self, stage: str, out: Path, over: dict[str, Any]) -> Settings:
        """The settings of a healthy run of the stage, and `over` them."""
        shape, _ = RECIPES[stage]
        return shape.model_validate(merge(getattr(self, f"_{stage}")() | {"out": str(out), "seed": self.seed}, over))

    def run(self, stage: str, out: Path, over: dict[str, Any]) -> Run:
        """Do the stage."""
        _, recipe = RECIPES[stage]
        return recipe.run(self.settings(stage, out, over))

    @property
    def gold(self) -> str:
        """The function that tells the truth."""
        return TASKS[self.task].gold_function

    def _sft(self) -> dict[str, Any]:
        sizes = {"epochs": 3, "batch_tokens": 1500, "eval_every": 25, "lr": 4e-3}
        return {"model": {"new": NEW}, "data": {"path": self.path("demonstrations.jsonl")}, **sizes, "run": {"save_every": 1000}}

    def _reward(self) -> dict[str, Any]:
        data = {"data": {"path": self.path("rankings.jsonl")}, "test": {"path": self.path("test.jsonl")}}
        sizes = {"epochs": 2, "batch_size": 8, "lr": 1e-3, "normalise_on": 128, "token_weight": 1.0}
        return {"model": {"path": self.path("sft")}, **data, **sizes, "sampling": SAMPLING, "run": {"save_every": 1000}}

    def _online(self) -> dict[str, Any]:
        begins = {"policy": {"path": self.path("sft")}, "prompts": {"path": self.path("prompts.jsonl")}, "sampling": SAMPLING}
        return begins | {"run": {"save_every": 1000, "trace_every": 2, "trace_rows": 16}}

    def _ppo(self) -> dict[str, Any]:
        sizes = {"steps": 15, "batch_size": 24, "epochs": 2, "lr": 5e-4, "critic_lr": 1e-3, "warmup": 1}
        return self._online() | sizes | {"reward": {"model": self.path("reward"), "monitor": self.gold}, "kl": {"beta": 0.1}}

    def _reinforce(self) -> dict[str, Any]:
        sizes = {"steps": 15, "batch_size": 24, "responses": 4, "lr": 1e-3, "warmup": 1, "baseline": {"kind": "leave_one_out"}}
        return self._online() | sizes | {"reward": {"model": self.path("reward"), "monitor": self.gold}, "kl": {"beta": 0.1}}

    def _best_of_n(self) -> dict[str, Any]:
        sizes = {"steps": 12, "rounds": 12, "batch_size": 8, "n": 4, "lr": 3e-4, "warmup": 1}
        return self._online() | sizes | {"reward": {"model": self.path("reward"), "monitor": self.gold}}

    def _relaxed(self) -> dict[str, Any]:
        sizes = {"steps": 12, "batch_size": 24, "lr": 3e-4, "warmup": 1, "beta": 0.2}
        return self._online() | sizes | {"reward": self.path("reward"), "monitor": self.gold}

    def _dpo(self) -> dict[str, Any]:
        data = {"data": {"path": self.path("rankings.jsonl")}, "test": {"path": self.path("test.jsonl")}}
        sizes = {"epochs": 1, "batch_size": 16, "lr": 5e-4, "eval_every": 5}
        return {"policy": {"path": self.path("sft")}, **data, **sizes, "run": {"save_every": 1000, "trace_every": 5}}


def world(root: Path, task: str, seed: int) -> World:
    """The world of a task and a seed, made where it is not there yet."""
    found = World(root / f"{task}-{seed}", task, seed)
    if not (found.folder / "reward" / "summary.json").is_file():
        _records(found)
        found.run("sft", found.folder / "sft", {})
        found.run("reward", found.folder / "reward", {})
    return found


def _records(found: World) -> None:
    task, seed = TASKS[found.task], 10 * found.seed
    write_records(found.folder / "demonstrations.jsonl", task.demonstrations(2500, seed))
    write_records(found.folder / "prompts.jsonl", task.prompts(300, seed + 1))
    write_records(found.folder / "rankings.jsonl", rankings(found.task, 700, seed + 2))
    write_records(found.folder / "test.jsonl", rankings(found.task, 80, seed + 3))


def rankings(name: str, count: int, seed: int) -> list[Ranking]:
    """Three replies to each of `count` prompts, ranked by eight people who look well enough."""
    task, rng, people = TASKS[name], random.Random(seed), crew(8, seed)
    found: list[Ranking] = []
    for number, prompt in enumerate(task.prompts(count, seed)):
        texts = replies(name, rng, prompt)
        if len(texts) > 1:
            found.append(people[number % len(people)].rank(prompt, texts, task.gold, np.random.default_rng([seed, number])))
    return found


def replies(name: str, rng: random.Random, prompt: Prompt) -> list[str]:
    """Different replies to a prompt, three at most."""
    return list(dict.fromkeys(TASKS[name].draw_response(rng, prompt) for _ in range(3)))


def last(run: Run) -> dict[str, Any]:
    """The last line of a run's metrics."""
    return read_run(run.folder).metrics[-1]
