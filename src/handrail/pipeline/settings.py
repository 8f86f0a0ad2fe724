"""The settings of a whole round, and what follows from them for each stage."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from handrail.config import Settings, validate
from handrail.data import Source
from handrail.models import ModelSettings, NewModel
from handrail.recipes.evaluate import Evaluate
from handrail.recipes.ppo_parts import PPO
from handrail.recipes.reward import Reward
from handrail.recipes.sample import Sample
from handrail.recipes.sft import SFT
from handrail.rollout import Sampling
from handrail.tasks import TASKS


class TaskSettings(Settings):
    """How much text a built-in task makes, and who labels it."""

    name: str = Field(description="movie-night or short-version")
    demonstrations: int = Field(6000, ge=10)
    prompts: int = Field(2000, ge=10, description="for responses that are ranked, and for PPO")
    held_out: int = Field(512, ge=10, description="prompts for the evaluation alone")
    labellers: int = Field(8, ge=1)


class DataSettings(Settings):
    """The user's own files.  What is missing is derived: prompts from the demonstrations and the comparisons."""

    demonstrations: Source | None = None
    comparisons: Source | None = Field(None, description="comparisons or rankings by people")
    responses: Source | None = Field(None, description="answers of several models, ranked by model_order")
    model_order: list[list[str]] = Field([], description="the models of `responses`, the best first; those in one list are tied")
    prompts: Source | None = Field(None, description="for PPO")
    held_out: Source | float = Field(0.1, description="prompts for the evaluation alone: a file, or a share")


class Round(Settings):
    """Settings of `handrail run`.  A stage's section takes all settings of its verb; what is given here stands for all."""

    out: str = Field("runs/round", description="the folder of the whole round")
    title: str = ""
    seed: int = 0
    rounds: int = Field(1, ge=1, description="each later round ranks responses of the policy before it")
    task: TaskSettings | None = Field(None, description="a built-in task, instead of data")
    data: DataSettings | None = None
    model: ModelSettings = ModelSettings(new=NewModel())
    template: Literal["auto", "chat", "plain"] = "auto"
    labels: Literal["given", "simulated"] = Field("given", description="rankings from data.comparisons, or simulated labellers")
    sampling: Sampling = Sampling()
    sft: dict[str, Any] = {}
    sample: dict[str, Any] = {}
    reward: dict[str, Any] = {}
    ppo: dict[str, Any] = {}
    evaluate: dict[str, Any] = {}

    @model_validator(mode="after")
    def _one_source(self) -> "Round":
        if (self.task is None) == (self.data is None):
            raise ValueError("give either a built-in `task` or your own `data`")
        if self.labels == "simulated" and self.task is None:
            raise ValueError("labels: simulated needs a built-in task, whose labellers know what they like")
        if self.labels == "given" and (self.data is None or not (self.data.comparisons or self.data.responses)):
            raise ValueError("labels: given needs data.comparisons, or data.responses with data.model_order")
        if self.data and not self.data.demonstrations and not self.model.path:
            raise ValueError("a new model needs data.demonstrations to learn from; without them give model.path")
        if self.task and self.task.name not in TASKS:
            raise ValueError(f"task.name is {self.task.name!r}; the built-in tasks are {', '.join(TASKS)}")
        return self


def stage_settings(cfg: Round, out: Path) -> list[dict]:
    """The settings of every stage of every round: the section of the file over what follows from the round."""
    data, sft, rounds = out / "round-1/data", str(out / "round-1/sft"), []
    shared = {"seed": cfg.seed, "template": cfg.template}
    demonstrated = cfg.task is not None or (cfg.data is not None and cfg.data.demonstrations is not None)
    after_sft = {**cfg.model.model_dump(), "path": sft, "new": None} if demonstrated else cfg.model.model_dump()
    monitor = TASKS[cfg.task.name].gold_function if cfg.task else ""
    policy = after_sft["path"]
    for number in range(1, cfg.rounds + 1):
        folder = out / f"round-{number}"
        prompts, held_out = {"path": str(data / "prompts.jsonl")}, {"path": str(data / "held_out.jsonl")}
        sampling = cfg.sampling.model_dump()
        made: dict[str, tuple[type[Settings], dict]] = {
            "sft": (
                SFT,
                {"out": sft, "model": cfg.model.model_dump(), "data": {"path": str(data / "demonstrations.jsonl")}},
            ),
            "sample": (
                Sample,
                {
                    "out": str(folder / "responses/responses.jsonl"),
                    "model": {**after_sft, "path": policy, "lora": None},
                    "prompts": prompts,
                    "sampling": sampling,
                },
            ),
            "reward": (
                Reward,
                {
                    "out": str(folder / "reward"),
                    "model": after_sft,
                    "data": {"path": str(folder / "labels/rankings.jsonl")},
                    "sampling": sampling,
                },
            ),
            "ppo": (
                PPO,
                {
                    "out": str(folder / "ppo"),
                    "policy": after_sft,
                    "prompts": prompts,
                    "sampling": sampling,
                    "reward": {"model": str(folder / "reward"), "monitor": monitor},
                },
            ),
            "evaluate": (
                Evaluate,
                {
                    "out": str(folder / "evaluation"),
                    "before": {**after_sft, "lora": None},
                    "after": {**after_sft, "path": str(folder / "ppo"), "lora": None},
                    "prompts": held_out,
                    "references": {"path": str(data / "references.jsonl")} if cfg.task else None,
                    "function": monitor,
                    "reward": str(folder / "reward"),
                    "sampling": sampling,
                },
            ),
        }
        if cfg.labels == "given":
            made["reward"][1]["data"] = {"path": str(data / "rankings.jsonl")}
        if not demonstrated:
            del made["sft"]
        policy = str(folder / "ppo")
        rounds.append(
            {name: validate(schema, merge(shared | base, getattr(cfg, name)), f"section {name}") for name, (schema, base) in made.items()}
        )
    return rounds


def merge(base: dict, over: dict) -> dict:
    """`base` with the values of `over`, mappings merged key by key."""
    merged = dict(base)
    for key, value in over.items():
        merged[key] = merge(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
    return merged
