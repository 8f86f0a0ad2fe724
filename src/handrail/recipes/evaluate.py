"""Is the model after better than the model before?  By preference, with an interval and a control.

Both answer the same held-out prompts.  The win rate counts how often the judge prefers the answer of the model after;
the control lets the model before play against itself with other seeds, and must lie near one half.  Judges are a function,
a reward model, a language model at an endpoint and people, any of them, each with its own row.
"""

import json
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, model_validator

from handrail.algo.kl import kl_k1
from handrail.algo.stats import masked_sum
from handrail.batch import Rollout, Sequences
from handrail.config import Settings
from handrail.data import Codec, Source, load_demonstrations, load_prompts, within_context, write_records
from handrail.evaluate import EndpointSettings, PeopleSettings, bleu, distinct_n, read_verdicts, repetition, rouge_l
from handrail.models import LanguageModel, ModelSettings, load_tokenizer, same_vocabulary
from handrail.recipes.evaluate_judges import ANSWERS, Scored, by_endpoint, by_function, by_people, by_reward, endpoint_judge, headline
from handrail.recipes.parts import derive, machine, shuffled
from handrail.recipes.progress import cumulative, progress
from handrail.records import Pair, Prompt
from handrail.rollout import NativeEngine, Sampling


class Evaluate(Settings):
    """Settings of `handrail evaluate`."""

    out: str = Field("evaluation", description="the folder of summary.json, samples.jsonl and pairs.jsonl")
    seed: int = 0
    before: ModelSettings
    after: ModelSettings
    prompts: Source = Field(description="held-out prompts")
    references: Source | None = Field(None, description="demonstrations for ROUGE-L and BLEU")
    function: str = Field("", description="a judge: file.py:name or package.module:name")
    reward: str = Field("", description="a reward model's folder; the judge where there is no function")
    judge: EndpointSettings | None = Field(None, description="a judge: a language model at an OpenAI-compatible endpoint")
    people: PeopleSettings | None = Field(None, description="a judge: people, who compare what stands in pairs.jsonl")
    template: Literal["auto", "chat", "plain"] = "auto"
    limit: int = Field(512, ge=0, description="prompts, 0: all")
    sampling: Sampling = Sampling()
    sampling_before: Sampling | None = Field(None, description="another law for the model before, none: the same as the model after")

    @model_validator(mode="after")
    def _a_judge(self) -> "Evaluate":
        if not (self.function or self.reward or self.judge or self.people):
            raise ValueError("give a judge: function, reward, judge, people, or several of them")
        return self


def run(cfg: Evaluate) -> dict:
    """Compare, write the folder, return the summary."""
    machine()
    out = Path(cfg.out)
    asked = endpoint_judge(cfg.judge, out / ANSWERS) if cfg.judge else None  # what is wrong with a judge is said before the work
    rankings = read_verdicts(cfg.people.path) if cfg.people and cfg.people.path else []
    prompts = load_prompts(cfg.prompts).records
    if cfg.limit and cfg.limit < len(prompts):
        prompts = [prompts[i] for i in shuffled(len(prompts), cfg.limit, 0, derive(cfg.seed, "limit"))]
    codec = Codec(load_tokenizer(cfg.before), cfg.template)
    for other in (cfg.after.path, cfg.reward):
        if other:
            same_vocabulary(codec.tokenizer, load_tokenizer(ModelSettings(path=other)))
    before, after = (LanguageModel.load(m).freeze() for m in (cfg.before, cfg.after))
    law, law_before = cfg.sampling, cfg.sampling_before or cfg.sampling
    prompts, left_out = within_context(codec, prompts, before.context - max(law.max_new_tokens, law_before.max_new_tokens))
    ids = [codec.encode_prompt(p) for p in prompts]
    engine = NativeEngine(codec.tokenizer, codec.end_ids)
    rollouts: dict[str, Rollout] = {}
    with progress("evaluate", 3 * len(ids)) as advance:
        for name, policy, sampling in (("before", before, law_before), ("control", before, law_before), ("after", after, law)):
            engine.sync(policy)
            seeds = [derive(cfg.seed, name, i) for i in range(len(ids))]
            rollouts[name] = engine.generate(ids, seeds, sampling, cumulative(advance))
    texts = {name: [codec.decode(r) for r in rollout.responses()] for name, rollout in rollouts.items()}

    summary: dict = {"prompts": len(prompts)} | ({"left_out": left_out} if left_out else {})
    if whole(law) and whole(law_before):
        summary["kl"] = divergence(after, before, rollouts["after"], law.temperature, law_before.temperature)
    summary |= {f"length_{name}": float(rollouts[name].response_lengths.float().mean()) for name in ("before", "after")}
    summary["length_ratio"] = summary["length_after"] / summary["length_before"]
    summary |= {f"ended_{name}": float(rollouts[name].ended.float().mean()) for name in ("before", "after")}
    samples: list[dict] = [
        {"prompt": p.text, "before": b, "after": a} for p, b, a in zip(prompts, texts["before"], texts["after"], strict=True)
    ]
    pairs = [
        Pair(prompt=p, responses=(b, a), models=(cfg.before.path, cfg.after.path))
        for p, b, a in zip(prompts, texts["before"], texts["after"], strict=True)
    ]
    scored = Scored(cfg.seed, prompts, texts, rollouts, samples)
    judges = [by_function(scored, cfg.function)] if cfg.function else []
    judges += [by_reward(scored, codec, cfg.reward, cfg.before)] if cfg.reward else []
    judges += [by_people(scored, pairs, rankings, cfg.people.path)] if cfg.people else []
    write_records(out / "pairs.jsonl", [p for p in pairs if p.responses[0] != p.responses[1]])
    judges += [by_endpoint(scored, pairs, asked)] if asked else []
    summary |= headline(judges) | overlap(cfg, prompts, texts, samples)
    (out / "samples.jsonl").write_text("".join(json.dumps(s, ensure_ascii=False) + "\n" for s in samples), encoding="utf-8")
    (out / "summary.json").write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return summary


def whole(law: Sampling) -> bool:
    """Whether any response may be drawn.  Of filtered or greedy responses k1 is no divergence."""
    return law.temperature > 0 and not law.top_k and law.top_p == 1


@torch.no_grad()
def divergence(after: LanguageModel, before: LanguageModel, rollout: Rollout, temperature: float, temperature_before: float) -> float:
    """KL(after || before) in nats a response, each at its temperature, by k1 on the responses of the model after."""
    sequences: Sequences = rollout.sequences.to(after.device)
    kl = kl_k1(after.logp(sequences, temperature), before.logp(sequences, temperature_before))
    return float(masked_sum(kl, sequences.mask)) / len(rollout)


def overlap(cfg: Evaluate, prompts: list[Prompt], texts: dict[str, list[str]], samples: list[dict]) -> dict:
    """Variety of the responses, and ROUGE-L and BLEU against demonstrations where there are some."""
    found: dict = {}
    for name in ("before", "after"):
        found[f"distinct_{name}"] = distinct_n(texts[name], 2)
        found[f"repetition_{name}"] = repetition(texts[name], 3)
    if not cfg.references or (Path(cfg.references.path).is_file() and not Path(cfg.references.path).stat().st_size):
        return found
    references = {d.prompt.text: d.response for d in load_demonstrations(cfg.references).records}
    known = [i for i, p in enumerate(prompts) if p.text in references]
    for i in known:
        samples[i]["demonstration"] = references[prompts[i].text]
    for name in ("before", "after"):
        if known:
            pair = [texts[name][i] for i in known], [references[prompts[i].text] for i in known]
            found[f"rouge_{name}"], found[f"bleu_{name}"] = rouge_l(*pair), bleu(*pair)
    return found
