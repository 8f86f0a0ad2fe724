"""How long and how many the texts of each stage are, from the data that the stages read or a round is going to make."""

import math
from collections.abc import Sequence
from typing import TypeVar

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from handrail.config import Settings
from handrail.data import Codec, load_demonstrations, load_prompts, load_rankings, load_ratings
from handrail.models import load_tokenizer, new_tokenizer
from handrail.models.load import new_config
from handrail.pipeline.records import Records
from handrail.pipeline.settings import Round
from handrail.plan.stages import Texts
from handrail.recipes.dpo import DPO
from handrail.recipes.evaluate import Evaluate
from handrail.recipes.reinforce_parts import Reinforcement
from handrail.recipes.reward_parts import Reward
from handrail.recipes.sample import Sample
from handrail.recipes.sft import SFT
from handrail.records import Demonstration, Prompt, Ranking, Rating
from handrail.rollout import Sampling

T = TypeVar("T")
SAMPLE = 256  # texts whose tokens are counted


def few(records: Sequence[T]) -> Sequence[T]:
    """Some of the records, evenly taken."""
    return records[:: math.ceil(len(records) / SAMPLE)] if len(records) > SAMPLE else records


def prompts_of(codec: Codec, prompts: Sequence[Prompt]) -> list[int]:
    """Tokens of some of the prompts."""
    return [len(codec.encode_prompt(prompt)) for prompt in few(prompts)] or [1]


def responses_of(codec: Codec, texts: Sequence[str]) -> list[int]:
    """Tokens of some of the responses, the end included."""
    return [len(codec.encode_response(text, end=True)) for text in few(texts)] or [1]


def of_demonstrations(codec: Codec, found: Sequence[Demonstration]) -> Texts:
    """What SFT reads."""
    return Texts(prompts_of(codec, [d.prompt for d in found]), responses_of(codec, [d.response for d in found]), len(found))


def of_rankings(codec: Codec, found: Sequence[Ranking]) -> Texts:
    """What a reward model or DPO reads."""
    texts = [text for ranking in few(found) for text in ranking.responses]
    together = round(sum(len(r.responses) for r in found) / max(1, len(found))) or 2
    return Texts(prompts_of(codec, [r.prompt for r in found]), responses_of(codec, texts), len(found), together)


def of_round(cfg: Round, stages: dict[str, Settings], records: Records) -> tuple[dict[str, Texts], PreTrainedTokenizerBase]:
    """Of every stage of a round, and the tokenizer that it has or is going to have.

    Responses that nobody has written yet are taken to be as long as demonstrations, or the responses of rankings.
    """
    if cfg.model.new:
        demonstrated = [m.content for d in records.demonstrations for m in d.prompt.messages] + [d.response for d in records.demonstrations]
        tokenizer: PreTrainedTokenizerBase = new_tokenizer(demonstrated, cfg.model.new.vocabulary)
    else:
        tokenizer = load_tokenizer(cfg.model)
    codec = Codec(tokenizer, cfg.template)
    if records.demonstrations:
        written = responses_of(codec, [d.response for d in records.demonstrations])
    else:
        written = responses_of(codec, [text for ranking in records.rankings or [] for text in ranking.responses])
    asked = prompts_of(codec, records.prompts)
    found: dict[str, Texts] = {}
    for name, stage in stages.items():
        online = stage.online if isinstance(stage, DPO) else None
        sampling: Sampling = online.sampling if online else getattr(stage, "sampling", Sampling())
        fresh = [min(n, sampling.max_new_tokens) for n in written]
        if isinstance(stage, SFT):
            found[name] = of_demonstrations(codec, records.demonstrations)
        elif isinstance(stage, Evaluate):
            found[name] = Texts(prompts_of(codec, records.held_out), fresh, len(records.held_out))
        elif isinstance(stage, Reward) or (isinstance(stage, DPO) and not stage.online):
            if records.rankings:
                found[name] = of_rankings(codec, records.rankings)
            else:
                found[name] = to_be_ranked(stages["sample"], asked, written, len(records.prompts))
        else:
            found[name] = Texts(asked, fresh, len(records.prompts))
    return found, tokenizer


def to_be_ranked(sample: Settings, prompts: list[int], written: list[int], count: int) -> Texts:
    """Rankings of responses that the round is still to sample, to `count` prompts."""
    assert isinstance(sample, Sample)
    answered = min(sample.limit or count, count)
    return Texts(prompts, [min(n, sample.sampling.max_new_tokens) for n in written], answered, sample.responses)


def of_ratings(codec: Codec, found: Sequence[Rating]) -> Texts:
    """What DPO reads of responses that are judged alone, and REINFORCE as its reward."""
    return Texts(prompts_of(codec, [r.prompt for r in found]), responses_of(codec, [r.response for r in found]), len(found))


def of_stage(stage: Settings) -> tuple[Texts, PreTrainedConfig | None]:
    """Of a stage by itself, from its data; and what its model is going to be, where it is a new one.

    A response that the stage is going to write may be as long as it is let.
    """
    model = next(getattr(stage, name) for name in ("policy", "model", "before") if hasattr(stage, name))
    source = next((found for name in ("data", "ratings", "prompts") if (found := getattr(stage, name, None)) is not None), None)
    if isinstance(stage, DPO) and stage.online:
        source = stage.online.prompts
    if isinstance(stage, SFT):
        found = load_demonstrations(stage.data).records
        if model.new:
            texts = [m.content for d in found for m in d.prompt.messages] + [d.response for d in found]
            made = new_tokenizer(texts, model.new.vocabulary)
            return of_demonstrations(Codec(made, stage.template), found), new_config(model.new, made)
        return of_demonstrations(Codec(load_tokenizer(model), stage.template), found), None
    codec = Codec(load_tokenizer(model), getattr(stage, "template", "auto"))
    assert source is not None
    if (isinstance(stage, DPO) and stage.threshold is not None) or (isinstance(stage, Reinforcement) and stage.ratings):
        return of_ratings(codec, load_ratings(source).records), None
    if isinstance(stage, Reward) or (isinstance(stage, DPO) and not stage.online):
        return of_rankings(codec, load_rankings(source).records), None
    prompts = load_prompts(source).records
    sampling: Sampling = stage.online.sampling if isinstance(stage, DPO) and stage.online else stage.sampling  # type: ignore[attr-defined]
    return Texts(prompts_of(codec, prompts), [sampling.max_new_tokens], len(prompts)), None
