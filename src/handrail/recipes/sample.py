"""Responses of a model to prompts, K to each, as records for people or labellers to judge."""

from collections.abc import Callable
from itertools import groupby
from typing import Literal

from pydantic import Field
from torch import Tensor

from handrail.algo.selection import disagreement, information_gain
from handrail.batch import Rollout
from handrail.config import Settings
from handrail.data import Codec, Source, load_prompts, within_context, write_records
from handrail.errors import ConfigError
from handrail.evaluate import RewardModelJudge
from handrail.models import LanguageModel, ModelSettings, ScalarModel, load_tokenizer, same_vocabulary
from handrail.recipes.parts import derive, machine, shuffled
from handrail.recipes.progress import console, cumulative, progress
from handrail.records import Prompt, Response
from handrail.rollout import NativeEngine, Sampling

BY: dict[str, Callable[[Tensor], Tensor]] = {"information": information_gain, "disagreement": disagreement}


class Priority(Settings):
    """Which prompts people are asked about first: those on whose responses an ensemble has most to learn."""

    reward: str = Field(min_length=1, description="the folder of a reward model that was trained with heads=2 or more")
    by: Literal["information", "disagreement"] = Field(
        "information", description="expected information about the preference, or variance of the heads' differences; mean over pairs"
    )


class Sample(Settings):
    """Settings of `handrail sample`."""

    out: str = Field("responses.jsonl", description="the file of records")
    seed: int = 0
    model: ModelSettings
    prompts: Source
    template: Literal["auto", "chat", "plain"] = "auto"
    responses: int = Field(4, ge=1, description="to each prompt")
    limit: int = Field(0, ge=0, description="prompts drawn at random, 0: all")
    sampling: Sampling = Sampling()
    priority: Priority | None = Field(None, description="how much there is to learn from each prompt's responses, kept with them")


def run(cfg: Sample) -> list[Response]:
    """Sample, write the file, return the records."""
    machine()
    prompts = load_prompts(cfg.prompts).records
    if cfg.limit and cfg.limit < len(prompts):
        prompts = [prompts[i] for i in shuffled(len(prompts), cfg.limit, 0, derive(cfg.seed, "limit"))]
    codec = Codec(load_tokenizer(cfg.model), cfg.template)
    ensemble = ensemble_of(cfg.priority, codec) if cfg.priority else None
    policy = LanguageModel.load(cfg.model).freeze()
    prompts, left_out = within_context(codec, prompts, policy.context - cfg.sampling.max_new_tokens)
    for reason, count in left_out.items():
        console.print(f"{count} prompts left out: {reason}")
    records = sample(policy, codec, prompts, cfg.responses, cfg.sampling, cfg.seed, cfg.model.path)
    if cfg.priority and ensemble:
        records = prioritised(ensemble, BY[cfg.priority.by], records)
    write_records(cfg.out, records)
    return records


def sample(policy: LanguageModel, codec: Codec, prompts: list[Prompt], k: int, sampling: Sampling, seed: int, name: str) -> list[Response]:
    """K responses to each prompt, those to one prompt next to each other."""
    rollout, seeds = draw(policy, codec, prompts, k, sampling, seed)
    repeated = [prompt for prompt in prompts for _ in range(k)]
    rows = zip(repeated, rollout.responses(), rollout.ended.tolist(), seeds, strict=True)
    return [
        Response(prompt=prompt, text=codec.decode(ids), model=name, finish="stop" if ended else "length", seed=row_seed)
        for prompt, ids, ended, row_seed in rows
    ]


def draw(policy: LanguageModel, codec: Codec, prompts: list[Prompt], k: int, sampling: Sampling, seed: int) -> tuple[Rollout, list[int]]:
    """The same as tokens, and the seed of each."""
    engine = NativeEngine(codec.tokenizer, codec.end_ids)
    engine.sync(policy)
    seeds = [derive(seed, "sample", i) for i in range(k * len(prompts))]
    with progress("sample", len(seeds)) as advance:
        encoded = [ids for prompt in prompts for ids in [codec.encode_prompt(prompt)] * k]
        return engine.generate(encoded, seeds, sampling, cumulative(advance)), seeds


def ensemble_of(cfg: Priority, codec: Codec) -> RewardModelJudge:
    """The reward model whose heads are asked.  Raises ConfigError where it has but one, ModelError."""
    settings = ModelSettings(path=cfg.reward)
    same_vocabulary(codec.tokenizer, load_tokenizer(settings))
    model = ScalarModel.load(settings).freeze()
    if model.heads.members < 2:
        raise ConfigError(
            f"priority.reward: {cfg.reward} has one head, which nothing can disagree with",
            "an ensemble: a reward model with several heads",
            "train it with `handrail reward ... heads=8`",
        )
    return RewardModelJudge(model, codec)


def prioritised(ensemble: RewardModelJudge, by: Callable[[Tensor], Tensor], records: list[Response]) -> list[Response]:
    """The records with the priority of their prompt: `by` of its distinct responses, the mean over criteria; 0 where they are all one.

    A response that the ensemble cannot read does not count: no ranking of it could be learned from.
    """
    groups = [list(group) for _, group in groupby(records, key=lambda r: r.prompt.text)]
    texts = [list(dict.fromkeys(r.text for r in group if ensemble.fits(r.prompt, r.text))) for group in groups]
    if not any(len(different) > 1 for different in texts):
        return records
    prompts = [group[0].prompt for group, different in zip(groups, texts, strict=True) for _ in different]
    scores = ensemble.log_odds(prompts, [text for different in texts for text in different]).double()
    each = scores.split([len(different) for different in texts])  # [K, C, M] of each group
    priorities = [float(by(s.transpose(0, 1)).mean()) if len(s) > 1 else 0.0 for s in each]
    return [r.model_copy(update={"priority": p}) for group, p in zip(groups, priorities, strict=True) for r in group]
