"""The settings of a whole round, and what follows from them for each stage."""

import re
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from handrail.config import Settings, override, validate
from handrail.data import Source
from handrail.errors import ConfigError
from handrail.models import ModelSettings, NewModel
from handrail.recipes.best_of_n_parts import BestOfN
from handrail.recipes.dpo import DPO
from handrail.recipes.evaluate import Evaluate
from handrail.recipes.ppo_parts import PPO
from handrail.recipes.reinforce_parts import Reinforcement
from handrail.recipes.relaxed import Relaxed
from handrail.recipes.reward_parts import Reward
from handrail.recipes.sample import Sample
from handrail.recipes.sft import SFT
from handrail.rollout import Sampling
from handrail.tasks import TASKS

Method = Literal["ppo", "reinforce", "best_of_n", "dpo", "relaxed"]
METHODS = get_args(Method)
GROUPED = "method=reinforce reinforce.credit=whole_return reinforce.baseline.kind"
KNOWN_AS = {  # names under which a method is known, and what to write for it
    "RLOO": "method=reinforce",
    "REINFORCE++": "method=reinforce reinforce.baseline.kind=batch_normalised",
    "GRPO": f"{GROUPED}=group_normalised",
    "Dr. GRPO": f"{GROUPED}=group",
    "GSPO": f"{GROUPED}=group_normalised reinforce.objective.kind=gspo reinforce.objective.clip=0.003",
    "PPO with a KL penalty": "method=ppo ppo.objective.kind=ppo_penalty",
    "best-of-n": "method=best_of_n",
    "rejection sampling": "method=best_of_n",
    "reward-weighted regression": "method=best_of_n best_of_n.weighting=reward",
    "advantage-weighted regression": "method=best_of_n best_of_n.weighting=advantage",
    "IPO": "method=dpo dpo.loss.name=ipo",
    "KTO": "method=dpo dpo.loss.name=kto",
    "ORPO": "method=dpo dpo.loss.name=orpo dpo.loss.odds_weight=1.0",
    "SimPO": "method=dpo dpo.loss.name=simpo",
    "online DPO": "method=dpo dpo.online.responses=4",
    "the differentiated reward": "method=relaxed",
}


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
    comparisons: Source | None = Field(None, description="comparisons, rankings or ratings by people")
    responses: Source | None = Field(None, description="answers of several models, ranked by model_order")
    model_order: list[list[str]] = Field(
        [], description="the models of `responses`, the best first, those in one list tied, others left out"
    )
    prompts: Source | None = Field(None, description="for PPO")
    held_out: Source | float = Field(0.1, description="prompts for the evaluation alone: a file, or a share")


class People(Settings):
    """How people rank the responses, in the feedback app; for `labels: people`."""

    db: str = Field("feedback.db", description="the app's store: a path, a URL, or $NAME of the environment variable that holds it")
    project: str = Field("round", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="made where it is absent")
    instructions: str = Field("", description="a file of markdown for the labellers")
    prompts: int = Field(0, ge=0, description="whose responses people rank; 0: all")
    overlap: int = Field(1, ge=1, description="people for each prompt")
    enough: float = Field(1.0, gt=0, le=1, description="share of the wanted rankings after which training goes on")
    weights: bool = Field(False, description="weigh rankings by their labellers' estimated reliability; wants an overlap of 2 or more")
    simulated: bool = Field(False, description="simulated labellers rank the responses to the other prompts; with a built-in task")
    pairs: int = Field(0, ge=0, description="of the evaluation that people compare, before against after; 0: none")
    wait: bool = Field(True, description="wait for people; false: end, and go on when the command is given again")
    poll: float = Field(2.0, gt=0, description="seconds between looks at the store")


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
    method: Method = Field("ppo", description="the stage that improves the policy; the sections of the others are not used")
    labels: Literal["given", "simulated", "people"] = Field(
        "given", description="rankings from data.comparisons, by simulated labellers, or by people in the feedback app"
    )
    people: People = People()
    sampling: Sampling = Sampling()
    sft: dict[str, Any] = {}
    sample: dict[str, Any] = {}
    reward: dict[str, Any] = {}
    ppo: dict[str, Any] = {}
    reinforce: dict[str, Any] = {}
    best_of_n: dict[str, Any] = {}
    dpo: dict[str, Any] = {}
    relaxed: dict[str, Any] = {}
    evaluate: dict[str, Any] = {}

    @field_validator("method", mode="before")
    @classmethod
    def _known_as(cls, given: Any) -> Any:
        squeezed = {squeeze(name): settings for name, settings in KNOWN_AS.items()}
        if given not in METHODS and isinstance(given, str) and (settings := squeezed.get(squeeze(given))):
            raise ValueError(f"is written as {settings}")
        return given

    @model_validator(mode="after")
    def _one_source(self) -> "Round":
        if (self.task is None) == (self.data is None):
            raise ValueError("give either a built-in `task` or your own `data`")
        if self.labels == "simulated" and self.task is None:
            raise ValueError("labels: simulated needs a built-in task, whose labellers know what they like")
        if self.labels == "people" and self.people.simulated and (self.task is None or not self.people.prompts):
            raise ValueError("people.simulated needs a built-in task, and people.prompts: how many are for people")
        if self.labels == "given" and (self.data is None or not (self.data.comparisons or self.data.responses)):
            raise ValueError("labels: given needs data.comparisons, or data.responses with data.model_order")
        if self.data and not self.data.demonstrations and not self.model.path:
            raise ValueError("a new model needs data.demonstrations to learn from; without them give model.path")
        if self.task and self.task.name not in TASKS:
            raise ValueError(f"task.name is {self.task.name!r}; the built-in tasks are {', '.join(TASKS)}")
        return self


SCHEMAS: dict[str, type[Settings]] = {
    "sft": SFT,
    "sample": Sample,
    "reward": Reward,
    "ppo": PPO,
    "reinforce": Reinforcement,
    "best_of_n": BestOfN,
    "dpo": DPO,
    "relaxed": Relaxed,
    "evaluate": Evaluate,
}


Round.SECTIONS = SCHEMAS  # so that a key that belongs into one of them is known there


def squeeze(name: str) -> str:
    """The letters and plus signs of a name."""
    return re.sub(r"[^a-z+]", "", name.lower())


def stage_settings(cfg: Round, out: Path, also: str = "") -> list[dict]:
    """The settings of every stage of every round: the section of the file over what follows from the round.

    Of the methods those of the round's own, and of `also`.
    """
    rounds: list[dict] = []
    for number in range(1, cfg.rounds + 1):
        made = {name: base for name, base in implied(cfg, out, number).items() if name not in METHODS or name in (cfg.method, also)}
        rounds.append({name: validate(SCHEMAS[name], merge(base, getattr(cfg, name)), f"section {name}") for name, base in made.items()})
    return rounds


def is_round(found: dict) -> bool:
    """Whether the mapping of a file is a whole round's: it has a task, or data of several kinds."""
    data = found.get("data")
    return "task" in found or (isinstance(data, dict) and bool(data.keys() & {"demonstrations", "comparisons", "responses", "prompts"}))


def of_round(found: dict, name: str, config: Path, assignments: list[str]) -> Settings:
    """The settings with which `handrail run` would do the stage in the first round; assignments are to its section."""
    whole = validate(Round, {**found, name: override(found.get(name) or {}, assignments)}, str(config))
    stages = stage_settings(whole, Path(whole.out), name)[0]
    if name not in stages:
        raise ConfigError(f"{config}: this round has no stage '{name}'", f"one of {', '.join(stages)}")
    return stages[name]


def implied(cfg: Round, out: Path, number: int) -> dict[str, dict]:
    """What the round itself says of each stage: where it reads and writes, and which model it starts from."""
    data, folder, sft = out / "round-1/data", out / f"round-{number}", str(out / "round-1/sft")
    demonstrated = cfg.task is not None or (cfg.data is not None and cfg.data.demonstrations is not None)
    model = cfg.model.model_dump()
    start = {**model, "path": sft, "new": None} if demonstrated else model
    judged = start["path"] if number == 1 else str(out / f"round-{number - 1}/{cfg.method}")  # whose responses are ranked
    gold = TASKS[cfg.task.name].gold_function if cfg.task else ""
    answered = cfg.task is not None or (demonstrated and not isinstance(cfg.data and cfg.data.held_out, Source))
    rankings = data / "rankings.jsonl" if cfg.labels == "given" else folder / "labels/rankings.jsonl"
    shared = {"seed": cfg.seed, "template": cfg.template}
    sampled = shared | {"sampling": cfg.sampling.model_dump(), "prompts": {"path": str(data / "prompts.jsonl")}}
    rewarded = {"model": str(folder / "reward"), "monitor": gold}
    asked = {key: sampled[key] for key in ("prompts", "sampling")} | {"reward": rewarded}
    preferences = {"data": {"path": str(rankings)}} if cfg.dpo.get("online") is None else {"data": None, "online": asked}
    rated = {"prompts": None, "reward": None} if cfg.reinforce.get("ratings") else {}
    made: dict[str, dict] = {
        "sft": shared | {"out": sft, "model": model, "data": {"path": str(data / "demonstrations.jsonl")}},
        "sample": sampled | {"out": str(folder / "responses/responses.jsonl"), "model": {**start, "path": judged, "lora": None}},
        "reward": shared
        | {
            "out": str(folder / "reward"),
            "model": start,
            "data": {"path": str(rankings)},
            "sampling": cfg.sampling.model_dump(),
        },
        **{name: sampled | {"out": str(folder / name), "policy": start, "reward": rewarded} for name in ("ppo", "reinforce", "best_of_n")},
        "dpo": shared | {"out": str(folder / "dpo"), "policy": start} | preferences,
        "relaxed": sampled | {"out": str(folder / "relaxed"), "policy": start, "reward": str(folder / "reward"), "monitor": gold},
        "evaluate": sampled
        | {
            "out": str(folder / "evaluation"),
            "before": {**start, "lora": None},
            "after": {**start, "path": str(folder / cfg.method), "lora": None},
            "prompts": {"path": str(data / "held_out.jsonl")},
            "references": {"path": str(data / "references.jsonl")} if answered else None,
            "function": gold,
            "reward": str(folder / "reward"),
        },
    }
    made["reinforce"] |= rated
    return made if demonstrated else {name: stage for name, stage in made.items() if name != "sft"}


def merge(base: dict, over: dict) -> dict:
    """`base` with the values of `over`, mappings merged key by key."""
    merged = dict(base)
    for key, value in over.items():
        merged[key] = merge(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
    return merged
