"""A whole round from one file: demonstrations, SFT, responses, labels, reward model, PPO, evaluation, report.

Each stage reads files and leaves files.  A stage that is finished is skipped as long as the hash of its settings and
of what it read stays the same; one that was interrupted goes on; one whose settings changed is moved aside and redone.
"""

import hashlib
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from handrail.config import Settings, dump, validate
from handrail.data import (
    Source,
    load_demonstrations,
    load_prompts,
    load_rankings,
    load_responses,
    split_by_prompt,
    write_records,
)
from handrail.errors import ConfigError, DataError
from handrail.inspector import write_report
from handrail.models import ModelSettings, NewModel
from handrail.recipes import evaluate as evaluate_recipe
from handrail.recipes import ppo as ppo_recipe
from handrail.recipes import reward as reward_recipe
from handrail.recipes import sample as sample_recipe
from handrail.recipes import sft as sft_recipe
from handrail.recipes.evaluate import Evaluate
from handrail.recipes.parts import derive, fingerprint
from handrail.recipes.ppo_parts import PPO
from handrail.recipes.progress import console
from handrail.recipes.reward import Reward
from handrail.recipes.sample import Sample
from handrail.recipes.sft import SFT
from handrail.records import Demonstration, Prompt, Ranking, Response
from handrail.rollout import Sampling
from handrail.tasks import TASKS, ceiling, crew


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


@dataclass
class Log:
    """What happened to each stage, for round.json."""

    stages: list[dict] = field(default_factory=list)

    def add(self, name: str, folder: Path, seconds: float, skipped: bool) -> None:
        self.stages.append({"name": name, "folder": str(folder), "seconds": seconds, "skipped": skipped})
        console.print(f"[green]✓[/] {name:<11} [dim]{'as before' if skipped else f'{seconds:.0f} s'}  {folder}[/]")


def run(cfg: Round) -> dict:
    """The whole round; returns what stands in its summary.json."""
    out = Path(cfg.out)
    settings = stage_settings(cfg, out)  # a wrong key in the last section is found before the first stage begins
    out.mkdir(parents=True, exist_ok=True)
    log = Log()
    first = out / "round-1"
    stage(
        log,
        "data",
        first / "data",
        cfg.model_dump(include={"task", "data", "seed"}),
        given(cfg),
        lambda: make_data(cfg, first / "data"),
    )
    if "sft" in settings[0]:
        sft = settings[0]["sft"]
        stage(
            log,
            "sft",
            Path(sft.out),
            plain(sft),
            files(first / "data/demonstrations.jsonl"),
            lambda: sft_recipe.run(sft),
        )
    for number, here in enumerate(settings, 1):
        one_round(cfg, here, number, out, log)
    summary = summarise(cfg, settings, out, log)
    write(out / "summary.json", summary)
    description = TASKS[cfg.task.name].description if cfg.task else ""
    write(
        out / "round.json",
        {
            "task": cfg.task.name if cfg.task else None,
            "title": cfg.title,
            "description": description,
            "rounds": cfg.rounds,
            "stages": log.stages,
        },
    )
    (out / "handrail.yaml").write_text(dump(cfg), encoding="utf-8")
    write_report(out, out / "report.html")
    return summary


def one_round(cfg: Round, here: dict, number: int, out: Path, log: Log) -> None:
    """Responses and labels where they are simulated, then reward model, PPO and evaluation."""
    folder = out / f"round-{number}"
    rankings = folder / "labels/rankings.jsonl"
    if cfg.labels == "simulated":
        sample = here["sample"]
        inputs = {"model": fingerprint(sample.model.path)} | files(Path(sample.prompts.path))
        stage(log, "responses", folder / "responses", plain(sample), inputs, lambda: sample_recipe.run(sample))
        earlier = [out / f"round-{n}/labels/rankings.jsonl" for n in range(1, number)]
        responses = folder / "responses/responses.jsonl"
        crew_settings = cfg.model_dump(include={"task", "seed"}) | {"round": number}
        inputs = files(responses, *earlier)
        stage(
            log,
            "labels",
            folder / "labels",
            crew_settings,
            inputs,
            lambda: simulate(cfg, number, responses, earlier, rankings),
        )
    reward, ppo, evaluation = here["reward"], here["ppo"], here["evaluate"]
    inputs = {"model": fingerprint(reward.model.path)} | files(rankings)
    stage(log, "reward", Path(reward.out), plain(reward), inputs, lambda: reward_recipe.run(reward))
    inputs = {"policy": fingerprint(ppo.policy.path), "reward": fingerprint(ppo.reward.model)} | files(Path(ppo.prompts.path))
    stage(log, "ppo", Path(ppo.out), plain(ppo), inputs, lambda: ppo_recipe.run(ppo))
    inputs = {"before": fingerprint(evaluation.before.path), "after": fingerprint(evaluation.after.path)}
    stage(log, "evaluation", Path(evaluation.out), plain(evaluation), inputs, lambda: evaluate_recipe.run(evaluation))


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


def plain(cfg: Settings) -> dict:
    """The settings that change a result."""
    return cfg.model_dump(mode="json", exclude={"run"})


def stage(log: Log, name: str, folder: Path, settings: dict, inputs: dict[str, str], work: Callable[[], Any]) -> None:
    """Do the work unless it is done; note what it was done from."""
    identity = hashlib.sha256(json.dumps([settings, inputs], sort_keys=True).encode()).hexdigest()
    note = folder / "stage.json"
    before = json.loads(note.read_text()) if note.exists() else None
    if before and before["identity"] == identity and before["finished"]:
        log.add(name, folder, before["seconds"], skipped=True)
        return
    if folder.exists() and (before is None or before["identity"] != identity):
        number = 1
        while (aside := folder.with_name(f"{folder.name}.before-{number}")).exists():
            number += 1
        folder.rename(aside)
    folder.mkdir(parents=True, exist_ok=True)
    spent = before["seconds"] if before and before["identity"] == identity else 0.0
    write(note, {"identity": identity, "finished": False, "seconds": spent})
    started = time.perf_counter()
    try:
        work()
    except BaseException:
        write(note, {"identity": identity, "finished": False, "seconds": spent + time.perf_counter() - started})
        raise
    seconds = spent + time.perf_counter() - started
    write(note, {"identity": identity, "finished": True, "seconds": seconds})
    log.add(name, folder, seconds, skipped=False)


def given(cfg: Round) -> dict[str, str]:
    """What the user's files hold, where they are local."""
    sources = (
        [
            s
            for s in (
                cfg.data.demonstrations,
                cfg.data.comparisons,
                cfg.data.responses,
                cfg.data.prompts,
                cfg.data.held_out,
            )
            if isinstance(s, Source)
        ]
        if cfg.data
        else []
    )
    return files(*(Path(s.path) for s in sources if Path(s.path).is_file()))


def files(*paths: Path) -> dict[str, str]:
    """SHA-256 of each file that exists."""
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths if p.exists()}


def write(path: Path, content: dict) -> None:
    """JSON that a person can read, replaced in one step."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def make_data(cfg: Round, folder: Path) -> None:
    """demonstrations, prompts, held_out, references and, where given, rankings, as files of records."""
    if cfg.task:
        task, size = TASKS[cfg.task.name], cfg.task
        held_out = task.prompts(size.held_out, derive(cfg.seed, "held_out"))
        away = frozenset(p.text for p in held_out)
        write_records(
            folder / "demonstrations.jsonl",
            task.demonstrations(size.demonstrations, derive(cfg.seed, "demonstrations"), away),
        )
        write_records(folder / "prompts.jsonl", task.prompts(size.prompts, derive(cfg.seed, "prompts"), away))
        rng = random.Random(derive(cfg.seed, "references"))
        answers = [Demonstration(prompt=p, response=task.draw_response(rng, p)) for p in held_out]
        write_records(folder / "references.jsonl", answers)
        write_records(folder / "held_out.jsonl", held_out)
        return
    assert cfg.data is not None
    demonstrations = load_demonstrations(cfg.data.demonstrations).records if cfg.data.demonstrations else []
    rankings = load_rankings(cfg.data.comparisons).records if cfg.data.comparisons else []
    if cfg.data.responses:
        rankings += ranked_by_model(cfg.data.responses, cfg.data.model_order)
    given = load_prompts(cfg.data.prompts).records if cfg.data.prompts else []
    known: dict[str, Prompt] = {}
    for prompt in [*given, *(r.prompt for r in rankings), *(d.prompt for d in demonstrations)]:
        known.setdefault(prompt.text, prompt)
    if isinstance(cfg.data.held_out, Source):
        held_out = list({p.text: p for p in load_prompts(cfg.data.held_out).records}.values())
    else:
        _, held_out = split_by_prompt(list(known.values()), cfg.data.held_out, cfg.seed)
    away = frozenset(p.text for p in held_out)
    prompts = [p for text, p in known.items() if text not in away and (not given or any(text == g.text for g in given))]
    if not prompts or not held_out:
        raise DataError(
            f"{len(prompts)} prompts to train on and {len(held_out)} held out",
            "at least one of each",
            "see data.held_out",
        )
    write_records(folder / "demonstrations.jsonl", [d for d in demonstrations if d.prompt.text not in away])
    write_records(folder / "rankings.jsonl", [r for r in rankings if r.prompt.text not in away])
    write_records(folder / "prompts.jsonl", prompts)
    write_records(folder / "references.jsonl", [d for d in demonstrations if d.prompt.text in away])
    write_records(folder / "held_out.jsonl", held_out)


def ranked_by_model(source: Source, order: list[list[str]]) -> list[Ranking]:
    """One ranking for each prompt, from a known order of the models that answered it."""
    place = {model: number for number, tied in enumerate(order, 1) for model in tied}
    answers: dict[str, dict[str, Response]] = {}
    for response in load_responses(source).records:
        if response.model not in place:
            raise DataError(
                f"{source.path}: a response by the model {response.model!r}",
                f"data.model_order names {', '.join(place)}",
                "add it there",
            )
        answers.setdefault(response.prompt.text, {}).setdefault(response.text, response)
    rankings = []
    for different in answers.values():
        shown = list(different.values())
        if len({place[r.model] for r in shown}) > 1:
            texts, models = tuple(r.text for r in shown), tuple(r.model for r in shown)
            places = tuple(place[m] for m in models)
            rankings.append(Ranking(prompt=shown[0].prompt, responses=texts, places=places, models=models, labeller="model order"))
    return rankings


def simulate(cfg: Round, number: int, responses: Path, earlier: list[Path], out: Path) -> None:
    """Simulated labellers rank the responses to each prompt; the rankings of earlier rounds stay in."""
    assert cfg.task is not None
    task, labellers = TASKS[cfg.task.name], crew(cfg.task.labellers, derive(cfg.seed, "crew"))
    rng = np.random.default_rng(derive(cfg.seed, "labels", number))
    answers: dict[str, tuple[Prompt, list[str]]] = {}
    for response in load_responses(Source(path=str(responses))).records:
        answers.setdefault(response.prompt.text, (response.prompt, []))[1].append(response.text)
    rankings: list[Ranking] = [r for path in earlier for r in load_rankings(Source(path=str(path))).records]
    for prompt, texts in answers.values():
        different = list(dict.fromkeys(texts))
        if len(different) > 1:
            labeller = labellers[int(rng.integers(len(labellers)))]
            rankings.append(labeller.rank(prompt, different, task.gold, rng))
    if not rankings:
        raise ConfigError(
            "the model gives one and the same response every time",
            "at least two different ones to rank",
            "raise sampling.temperature",
        )
    write_records(out, rankings)


def summarise(cfg: Round, settings: list[dict], out: Path, log: Log) -> dict:
    """The figures of the last round, the reward model's beside what the labels allow, and the seconds of each stage."""
    last = settings[-1]
    evaluation = json.loads((Path(last["evaluate"].out) / "summary.json").read_text(encoding="utf-8"))
    tested = json.loads((Path(last["reward"].out) / "summary.json").read_text(encoding="utf-8"))
    reached = {
        **tested["accuracy"],
        "length_baseline": tested["length_baseline"]["value"],
        "length_rule": tested["length_baseline"],
    }
    reached["agreement"] = tested["agreement"]
    if cfg.task:
        rankings = load_rankings(last["reward"].data).records
        _, test = split_by_prompt(rankings, last["reward"].held_out, cfg.seed)
        task = TASKS[cfg.task.name]
        reached["ceiling"] = ceiling(test, task.gold)
        reached["share_of_ceiling"] = (reached["value"] - 0.5) / (reached["ceiling"] - 0.5)
        evaluation |= {"content_parts": list(task.content_parts), "manner_parts": list(task.manner_parts)}
    seconds: dict[str, float] = {}
    for done in log.stages:
        seconds[done["name"]] = seconds.get(done["name"], 0.0) + done["seconds"]
    rounds = [json.loads((Path(s["evaluate"].out) / "summary.json").read_text(encoding="utf-8"))["win_rate"] for s in settings]
    return {**evaluation, "reward_accuracy": reached, "rounds": rounds, "seconds": seconds}
