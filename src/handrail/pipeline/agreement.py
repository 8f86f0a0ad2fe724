"""Whether the reward model learned what the people meant: how often it orders responses as they themselves did."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from handrail.data import Codec, Source, load_rankings, split_by_prompt, within_context
from handrail.evaluate.accuracy import accuracy
from handrail.evaluate.reward_model import scores_of
from handrail.models import ModelSettings, ScalarModel, load_tokenizer
from handrail.pipeline.settings import Round
from handrail.pipeline.stages import write
from handrail.recipes.reward_parts import Reward
from handrail.records import Ranking
from handrail.tasks import crew


def agree(cfg: Round, reward: Reward, labels: Path, folder: Path) -> None:
    """Score the people's own rankings, and write the share of their pairs that come out in their order.

    Of all their rankings, from most of which the model learned, and of those whose prompts were held out from it.
    """
    every = load_rankings(Source(path=str(labels))).records
    saved = ModelSettings(path=reward.out)
    codec, model = Codec(load_tokenizer(saved), reward.template), ScalarModel.load(saved).freeze()
    theirs, _ = within_context(codec, by_people(cfg, every), model.context)
    scores = [model.combined(row).tolist() for row in scores_of(model, codec, theirs)] if theirs else []
    unseen = unseen_prompts(reward, every)
    new = [i for i, ranking in enumerate(theirs) if ranking.prompt.text in unseen]
    told = {
        "labellers": sorted({ranking.labeller for ranking in theirs}),
        "all": share(theirs, scores),
        "held_out": share([theirs[i] for i in new], [scores[i] for i in new]),
    }
    write(folder / "agreement.json", told)


def by_people(cfg: Round, rankings: Sequence[Ranking]) -> list[Ranking]:
    """Without those of simulated labellers."""
    simulated = {labeller.id for labeller in crew(cfg.task.labellers, cfg.seed)} if cfg.task and cfg.people.simulated else set()
    return [ranking for ranking in rankings if ranking.labeller not in simulated]


def unseen_prompts(reward: Reward, rankings: list[Ranking]) -> set[str]:
    """The prompts that the reward model was tested on, and not trained."""
    test = load_rankings(reward.test).records if reward.test else split_by_prompt(rankings, reward.held_out, reward.seed)[1]
    return {ranking.prompt.text for ranking in test}


def share(rankings: Sequence[Ranking], scores: Sequence[Sequence[float]]) -> dict | None:
    """The pairs that the scores order as the people did, with an interval over prompts; None where all are tied."""
    if not any(ranking.pairs() for ranking in rankings):
        return None
    found = accuracy(scores, [ranking.places for ranking in rankings], [ranking.prompt.id for ranking in rankings])
    return asdict(found) | {"rankings": len(rankings)}
