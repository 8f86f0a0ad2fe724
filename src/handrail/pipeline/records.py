"""The records that a round stands on: made by a built-in task or read from the user's files."""

import random
from pathlib import Path

from handrail.data import (
    Source,
    load_demonstrations,
    load_prompts,
    load_rankings,
    load_responses,
    split_by_prompt,
    write_records,
)
from handrail.errors import DataError
from handrail.pipeline.settings import Round
from handrail.pipeline.stages import files
from handrail.recipes.parts import derive
from handrail.recipes.reward_parts import Reward
from handrail.records import Demonstration, Prompt, Ranking, Response
from handrail.tasks import TASKS


def given(cfg: Round, reward: Reward) -> dict[str, str]:
    """SHA-256 of each of the user's local files: a file, what is in a folder, or what a pattern matches."""
    if cfg.data is None:
        return {}
    data = cfg.data
    sources = (data.demonstrations, data.comparisons, data.responses, data.prompts, data.held_out, reward.test)
    return files(*(Path(source.path) for source in sources if isinstance(source, Source)))


def make_data(cfg: Round, folder: Path, reward: Reward) -> None:
    """demonstrations, prompts, held_out, references and, where given, rankings, as files of records.

    Some of the given rankings will test the reward model.  No demonstration has one of their prompts, or the model that
    the reward model starts from would have seen the answers.
    """
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
    write_records(folder / "demonstrations.jsonl", [d for d in demonstrations if d.prompt.text not in unseen])
    write_records(folder / "rankings.jsonl", rankings)
    write_records(folder / "prompts.jsonl", prompts)
    write_records(folder / "references.jsonl", [d for d in demonstrations if d.prompt.text in away])
    write_records(folder / "held_out.jsonl", held_out)


def ranked_by_model(source: Source, order: list[list[str]]) -> list[Ranking]:
    """One ranking for each prompt, from a known order of the models that answered it; models not in it are left out."""
    place = {model: number for number, tied in enumerate(order, 1) for model in tied}
    answers: dict[str, dict[str, Response]] = {}
    responses = load_responses(source).records
    if absent := place.keys() - {r.model for r in responses}:
        raise DataError(
            f"{source.path}: no response by {', '.join(sorted(absent))}",
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
