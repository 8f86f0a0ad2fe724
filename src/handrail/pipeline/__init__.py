"""A whole round from one file: demonstrations, SFT, responses, labels, reward model, a better policy (by
PPO or another method), evaluation, report.

Each stage reads files and leaves files.  A stage that is finished is skipped as long as the hash of its settings and
of what it read stays the same; one that was interrupted goes on; one whose settings changed is moved aside and redone.
"""

import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from handrail.config import dump
from handrail.data import load_rankings, split_by_prompt
from handrail.inspector import write_report
from handrail.pipeline.agreement import agree
from handrail.pipeline.labels import ask_people, simulate
from handrail.pipeline.records import make_data, provide
from handrail.pipeline.settings import Round, stage_settings
from handrail.pipeline.stages import Log, files, plain, reads, stage, write
from handrail.pipeline.verdicts import ask_which, row
from handrail.recipes import evaluate as evaluate_recipe
from handrail.recipes import reward as reward_recipe
from handrail.recipes import sample as sample_recipe
from handrail.recipes import sft as sft_recipe
from handrail.recipes.parts import fingerprint
from handrail.tasks import TASKS, ceiling, spoken

__all__ = ["Round", "make_data", "prepare", "run", "stage_settings"]


def run(cfg: Round, peers: Sequence[Path] = ()) -> dict:
    """The whole round; returns what stands in its summary.json.

    A stage that one of the rounds in `peers` has done from the same settings and inputs is taken over from there.
    """
    out = Path(cfg.out)
    settings, log = begin(cfg, peers)
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


def prepare(cfg: Round, peers: Sequence[Path] = ()) -> None:
    """All of the first round that comes before the policy is improved: data, SFT, labels, reward model."""
    settings, log = begin(cfg, peers)
    judge(cfg, settings[0], 1, Path(cfg.out), log)


def begin(cfg: Round, peers: Sequence[Path]) -> tuple[list[dict], Log]:
    """Data and SFT; the settings of every stage, and the log."""
    out = Path(cfg.out)
    settings = stage_settings(cfg, out)  # a wrong key in the last section is found before the first stage begins
    log = Log(out, peers)
    provide(cfg, settings[0]["reward"], log)
    if "sft" in settings[0]:
        sft = settings[0]["sft"]
        stage(
            log,
            "sft",
            Path(sft.out),
            plain(sft),
            reads(sft),
            lambda: sft_recipe.run(sft),
        )
    return settings, log


def one_round(cfg: Round, here: dict, number: int, out: Path, log: Log) -> None:
    """Labels and reward model, then policy and evaluation, and what people say of it where they are asked."""
    judge(cfg, here, number, out, log)
    policy, evaluation = here[cfg.method], here["evaluate"]
    recipe = import_module(f"handrail.recipes.{cfg.method}")
    stage(log, cfg.method, Path(policy.out), plain(policy), reads(policy), lambda: recipe.run(policy))
    stage(log, "evaluation", Path(evaluation.out), plain(evaluation), reads(evaluation), lambda: evaluate_recipe.run(evaluation))
    if cfg.labels == "people" and cfg.people.pairs:
        folder, answers = out / f"round-{number}/verdicts", Path(evaluation.out)
        about = cfg.people.model_dump(include={"project", "overlap", "enough", "pairs"}) | {"seed": cfg.seed}
        stage(log, "verdicts", folder, about, files(answers / "pairs.jsonl"), lambda: ask_which(cfg, number, answers, folder))


def judge(cfg: Round, here: dict, number: int, out: Path, log: Log) -> None:
    """Responses and labels where they are simulated, then the reward model."""
    folder = out / f"round-{number}"
    rankings = folder / "labels/rankings.jsonl"
    if cfg.labels != "given":
        sample = here["sample"]
        stage(log, "responses", folder / "responses", plain(sample), reads(sample), lambda: sample_recipe.run(sample))
        earlier = [out / f"round-{n}/labels/rankings.jsonl" for n in range(1, number)]
        responses = folder / "responses/responses.jsonl"
        asked = {"people": cfg.people.model_dump(exclude={"db", "wait", "poll", "pairs"})} if cfg.labels == "people" else {}
        label = ask_people if cfg.labels == "people" else simulate
        stage(
            log,
            "labels",
            folder / "labels",
            cfg.model_dump(include={"task", "seed"}) | {"round": number} | asked,
            files(responses, *earlier),
            lambda: label(cfg, number, responses, earlier, rankings),
        )
    reward = here["reward"]
    stage(log, "reward", Path(reward.out), plain(reward), reads(reward), lambda: reward_recipe.run(reward))
    if cfg.labels == "people":
        split = {"seed": reward.seed, "held_out": reward.held_out, "simulated": cfg.people.simulated}
        learned = files(rankings) | {reward.out: fingerprint(reward.out)}
        stage(log, "agreement", folder / "agreement", split, learned, lambda: agree(cfg, reward, rankings, folder / "agreement"))


def summarise(cfg: Round, settings: list[dict], out: Path, log: Log) -> dict:
    """The figures of the last round, the reward model's beside what the labels allow, and the seconds of each stage."""
    last = settings[-1]
    evaluation = json.loads((Path(last["evaluate"].out) / "summary.json").read_text(encoding="utf-8"))
    if cfg.labels == "people" and cfg.people.pairs:
        evaluation["judges"].append(row(out / f"round-{len(settings)}/verdicts"))
    tested = json.loads((Path(last["reward"].out) / "summary.json").read_text(encoding="utf-8"))
    reached = {
        **tested["accuracy"],
        "length_baseline": tested["length_baseline"]["value"],
        "length_rule": tested["length_baseline"],
    }
    reached["agreement"] = tested["agreement"]
    if cfg.task:
        test = load_rankings(last["reward"].test or last["reward"].data).records
        if not last["reward"].test:
            _, test = split_by_prompt(test, last["reward"].held_out, last["reward"].seed)
        task = TASKS[cfg.task.name]
        reached["ceiling"] = ceiling(test, task.gold)
        room = reached["ceiling"] - 0.5  # 0 where the gold tells none of the responses apart, NaN where all are tied
        reached["share_of_ceiling"] = (reached["value"] - 0.5) / room if room > 0 else None
        evaluation["judged_by"] = spoken(str(evaluation.get("judge", "")))
        evaluation |= {"content_parts": list(task.content_parts), "manner_parts": list(task.manner_parts)}
    if cfg.labels == "people":
        evaluation["agreement"] = json.loads((out / f"round-{len(settings)}/agreement/agreement.json").read_text(encoding="utf-8"))
    seconds: dict[str, float] = {}
    for done in log.stages:
        seconds[done["name"]] = seconds.get(done["name"], 0.0) + done["seconds"]
    rounds = [json.loads((Path(s["evaluate"].out) / "summary.json").read_text(encoding="utf-8")).get("win_rate") for s in settings]
    return {**evaluation, "reward_accuracy": reached, "rounds": rounds, "seconds": seconds}
