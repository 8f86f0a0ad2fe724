"""The records that a round stands on: made by a built-in task or read from the user's files."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

from rich.markup import escape

from handrail.data import (
    Loaded,
    Source,
    load_demonstrations,
    load_prompts,
    load_rankings,
    load_responses,
    split_by_prompt,
    write_records,
)
from handrail.errors import DataError
from handrail.models import load_tokenizer
from handrail.pipeline.settings import Round
from handrail.pipeline.stages import Log, files, stage, write
from handrail.recipes.parts import derive
from handrail.recipes.progress import console
from handrail.recipes.reward_parts import Reward
from handrail.records import Demonstration, Prompt, Ranking, Response
from handrail.tasks import TASKS

R = TypeVar("R", Demonstration, Ranking, Response, Prompt)

SOURCES = "sources.json"  # beside the records: how each source was read


def given(cfg: Round, reward: Reward) -> dict[str, str]:
    """SHA-256 of each of the user's local files: a file, what is in a folder, or what a pattern matches."""
    if cfg.data is None:
        return {}
    data = cfg.data
    sources = (data.demonstrations, data.comparisons, data.responses, data.prompts, data.held_out, reward.test)
    return files(*(Path(source.path) for source in sources if isinstance(source, Source)))


def provide(cfg: Round, reward: Reward, log: Log) -> None:
    """The stage of the data.  All of it is read, and the model to start from is looked for, before anything is moved or made."""
    gathered = cache(lambda: gather(cfg, reward))

    def check() -> None:
        if cfg.model.path:
            load_tokenizer(cfg.model)
        for name, said in gathered().said.items():
            console.print(f"[dim]{name}: {escape(said)}[/]", soft_wrap=True)

    folder = log.root / "round-1/data"
    stage(log, "data", folder, made_from(cfg, reward), given(cfg, reward), lambda: keep(gathered(), folder), check)


def made_from(cfg: Round, reward: Reward) -> dict:
    """The settings that the records follow from."""
    return cfg.model_dump(include={"task", "data", "seed"}) | ({} if cfg.task else {"tested": [reward.held_out, reward.seed]})


@dataclass(frozen=True)
class Records:
    """All that a round stands on.  Rankings are none where a task's labellers are still to give them."""

    demonstrations: list[Demonstration]
    rankings: list[Ranking] | None
    prompts: list[Prompt]
    references: list[Demonstration]
    held_out: list[Prompt]
    said: dict[str, str]  # of each source that was read: its format, what became what, what was left out


def make_data(cfg: Round, folder: Path, reward: Reward) -> None:
    """The files of records that a round stands on."""
    keep(gather(cfg, reward), folder)


def keep(records: Records, folder: Path) -> None:
    """A file for each kind of record, and what is to be said of where they come from."""
    for name in ("demonstrations", "rankings", "prompts", "references", "held_out"):
        if (found := getattr(records, name)) is not None:
            write_records(folder / f"{name}.jsonl", found)
    write(folder / SOURCES, records.said)


def gather(cfg: Round, reward: Reward) -> Records:
    """The records of a round, from a built-in task or from the user's files.  Raises DataError, ConfigError; nothing is written."""
    return of_task(cfg) if cfg.task else of_files(cfg, reward)


def of_task(cfg: Round) -> Records:
    """What a built-in task writes: no prompt stands on both sides."""
    assert cfg.task is not None
    task, size = TASKS[cfg.task.name], cfg.task
    held_out = task.prompts(size.held_out, derive(cfg.seed, "held_out"))
    away = frozenset(p.text for p in held_out)
    rng = random.Random(derive(cfg.seed, "references"))
    return Records(
        demonstrations=task.demonstrations(size.demonstrations, derive(cfg.seed, "demonstrations"), away),
        rankings=None,
        prompts=task.prompts(size.prompts, derive(cfg.seed, "prompts"), away),
        references=[Demonstration(prompt=p, response=task.draw_response(rng, p)) for p in held_out],
        held_out=held_out,
        said={},
    )


def of_files(cfg: Round, reward: Reward) -> Records:
    """What the user's files give.

    Some of the given rankings will test the reward model.  No demonstration has one of their prompts, or the model that
    the reward model starts from would have seen the answers.
    """
    assert cfg.data is not None
    said: dict[str, str] = {}

    def read(name: str, load: Callable[[Source], Loaded[R]]) -> list[R]:
        source = getattr(cfg.data, name)
        if not isinstance(source, Source):
            return []
        loaded = load(source)
        said[f"{name}, {source.path}"] = loaded.described
        return loaded.records

    demonstrations, rankings = read("demonstrations", load_demonstrations), read("comparisons", load_rankings)
    if cfg.data.responses:
        rankings = rankings + ranked_by_model(read("responses", load_responses), cfg.data.responses.path, cfg.data.model_order)
    given = read("prompts", load_prompts)
    known: dict[str, Prompt] = {}
    for prompt in [*given, *(r.prompt for r in rankings), *(d.prompt for d in demonstrations)]:
        known.setdefault(prompt.text, prompt)
    if isinstance(cfg.data.held_out, Source):
        held_out = list({p.text: p for p in read("held_out", load_prompts)}.values())
    else:
        _, held_out = split_by_prompt(list(known.values()), cfg.data.held_out, cfg.seed)
    away = frozenset(p.text for p in held_out)
    wanted = {p.text for p in given} or known.keys()
    prompts = [p for text, p in known.items() if text in wanted and text not in away]
    if not prompts or not held_out:
        raise DataError(
            f"{len(prompts)} prompts to train on and {len(held_out)} held out",
            "at least one of each",
            "see data.held_out",
        )
    rankings = [r for r in rankings if r.prompt.text not in away]
    if reward.test:
        test = load_rankings(reward.test).records
    else:
        test = split_by_prompt(rankings, reward.held_out, reward.seed)[1] if rankings else []
    unseen = away | {r.prompt.text for r in test}
    return Records(
        demonstrations=[d for d in demonstrations if d.prompt.text not in unseen],
        rankings=rankings,
        prompts=prompts,
        references=[d for d in demonstrations if d.prompt.text in away],
        held_out=held_out,
        said=said,
    )


def ranked_by_model(responses: list[Response], path: str, order: list[list[str]]) -> list[Ranking]:
    """One ranking for each prompt, from a known order of the models that answered it; models not in it are left out."""
    place = {model: number for number, tied in enumerate(order, 1) for model in tied}
    answers: dict[str, dict[str, Response]] = {}
    if absent := place.keys() - {r.model for r in responses}:
        raise DataError(
            f"{path}: no response by {', '.join(sorted(absent))}",
            f"data.model_order names models among {', '.join(sorted({r.model for r in responses}))}",
        )
    for response in responses:
        if response.model in place:
            answers.setdefault(response.prompt.text, {}).setdefault(response.text, response)
    rankings = []
    for different in answers.values():
        shown = list(different.values())
        if len({place[r.model] for r in shown}) > 1:
            texts, models = tuple(r.text for r in shown), tuple(r.model for r in shown)
            places = tuple(place[m] for m in models)
            rankings.append(Ranking(prompt=shown[0].prompt, responses=texts, places=places, models=models, labeller="model order"))
    return rankings
