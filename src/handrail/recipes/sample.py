"""Responses of a model to prompts, K to each, as records for people or labellers to judge."""

from typing import Literal

from pydantic import Field

from handrail.config import Settings
from handrail.data import Codec, Source, load_prompts, within_context, write_records
from handrail.models import LanguageModel, ModelSettings, load_tokenizer
from handrail.recipes.parts import derive, machine, shuffled
from handrail.recipes.progress import console, cumulative, progress
from handrail.records import Prompt, Response
from handrail.rollout import NativeEngine, Sampling


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


def run(cfg: Sample) -> list[Response]:
    """Sample, write the file, return the records."""
    machine()
    prompts = load_prompts(cfg.prompts).records
    if cfg.limit and cfg.limit < len(prompts):
        prompts = [prompts[i] for i in shuffled(len(prompts), cfg.limit, 0, derive(cfg.seed, "limit"))]
    codec = Codec(load_tokenizer(cfg.model), cfg.template)
    policy = LanguageModel.load(cfg.model).freeze()
    prompts, left_out = within_context(codec, prompts, policy.context - cfg.sampling.max_new_tokens)
    for reason, count in left_out.items():
        console.print(f"{count} prompts left out: {reason}")
    records = sample(policy, codec, prompts, cfg.responses, cfg.sampling, cfg.seed, cfg.model.path)
    write_records(cfg.out, records)
    return records


def sample(policy: LanguageModel, codec: Codec, prompts: list[Prompt], k: int, sampling: Sampling, seed: int, name: str) -> list[Response]:
    """K responses to each prompt, those to one prompt next to each other."""
    engine = NativeEngine(codec.tokenizer, codec.end_ids)
    engine.sync(policy)
    repeated = [prompt for prompt in prompts for _ in range(k)]
    seeds = [derive(seed, "sample", i) for i in range(len(repeated))]
    with progress("sample", len(repeated)) as advance:
        encoded = [ids for prompt in prompts for ids in [codec.encode_prompt(prompt)] * k]
        rollout = engine.generate(encoded, seeds, sampling, cumulative(advance))
    rows = zip(repeated, rollout.responses(), rollout.ended.tolist(), seeds, strict=True)
    return [
        Response(prompt=prompt, text=codec.decode(ids), model=name, finish="stop" if ended else "length", seed=row_seed)
        for prompt, ids, ended, row_seed in rows
    ]
