"""The judges of an evaluation, each with its row in the summary."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from handrail.batch import Rollout
from handrail.data import Codec
from handrail.evaluate import (
    Endpoint,
    EndpointJudge,
    EndpointSettings,
    FunctionJudge,
    RewardModelJudge,
    people,
    rubric_of,
    win_rate,
)
from handrail.models import ModelSettings, ScalarModel
from handrail.recipes.progress import progress
from handrail.records import Pair, Prompt, Ranking

ANSWERS = "judge.jsonl"  # what the judge at an endpoint has said, by the hash of what it was asked
SIDES = ("before", "after")


@dataclass(frozen=True)
class Scored:
    """What is judged, and the samples, which every judge fills in."""

    seed: int
    prompts: list[Prompt]
    texts: dict[str, list[str]]  # before, control, after
    rollouts: dict[str, Rollout]  # the same as they were sampled
    samples: list[dict]

    def rates(self, scores: dict[str, list[float]]) -> dict:
        """Win rate and control by scores."""
        return {
            "win_rate": asdict(win_rate(scores["after"], scores["before"], self.seed)),
            "control": asdict(win_rate(scores["control"], scores["before"], self.seed)),
        }

    def fill(self, name: str, values: list) -> None:
        """A value for each sample."""
        for sample, value in zip(self.samples, values, strict=True):
            sample[name] = value


def by_function(scored: Scored, spec: str) -> dict:
    """A function of the user: means of its scores and of their parts beside the win rate."""
    judge = FunctionJudge(spec)
    scores = {name: judge.score(scored.prompts, texts) for name, texts in scored.texts.items()}
    figures: dict = {}
    for name in SIDES:
        parts = judge.parts(scored.prompts, scored.texts[name])
        figures[f"gold_{name}"] = sum(scores[name]) / len(parts)
        figures[f"parts_{name}"] = {k: sum(p[k] for p in parts) / len(parts) for k in parts[0] if k != "total"}
        scored.fill(f"gold_{name}", scores[name])
        scored.fill(f"parts_{name}", parts)
    return {"kind": "function", "name": judge.name, **scored.rates(scores), "figures": figures}


def by_reward(scored: Scored, codec: Codec, path: str, like: ModelSettings) -> dict:
    """A reward model, read in the numbers of `like`: mean and deviation of its scores beside the win rate."""
    settings = ModelSettings(path=path, dtype=like.dtype, autocast=like.autocast)
    judge = RewardModelJudge(ScalarModel.load(settings).freeze(), codec)
    scores = {name: judge.score(rollout.sequences) for name, rollout in scored.rollouts.items()}
    figures: dict = {}
    for name in SIDES:
        values = torch.tensor(scores[name])
        figures[f"reward_{name}"] = {"mean": float(values.mean()), "sd": float(values.std(correction=0))}
        scored.fill(f"reward_{name}", scores[name])
    rates = scored.rates(scores)
    return {"kind": "reward model", "name": judge.name, **rates, "figures": figures | {"reward_win_rate": rates["win_rate"]}}


def by_people(scored: Scored, pairs: list[Pair], rankings: list[Ranking], path: str) -> dict:
    """People, as far as they have been asked."""
    said = people(pairs, rankings, path, scored.seed)
    scored.fill("people", said.gains)
    return {"kind": "people", "name": "people", **said.told(), "figures": {}}


def endpoint_judge(cfg: EndpointSettings, answers: Path) -> EndpointJudge:
    """The model at an endpoint, with its rubric and its key.  Raises ConfigError where one of them is missing."""
    return EndpointJudge(Endpoint(cfg, answers), rubric_of(cfg.rubric))


def by_endpoint(scored: Scored, pairs: list[Pair], judge: EndpointJudge) -> dict:
    """A language model at an endpoint.  Raises JudgeError."""
    with progress("judge", 2 * sum(p.responses[0] != p.responses[1] for p in pairs)) as advance:
        said = judge.compare(pairs, scored.seed, lambda more: advance(more, ""))
    rows = zip(said.gains, said.verdicts, strict=True)
    scored.fill("judge", [{"gain": gain, "verdicts": verdicts} for gain, verdicts in rows])
    return {"kind": "endpoint", "name": judge.name, **said.told(), "figures": {}}


def headline(judges: list[dict]) -> dict:
    """The figures of all judges, a row each, and the win rate that stands for the evaluation.

    That is the function's; the reward model's where there is none; else the people's, else the endpoint's, where they
    have one.  Only functions and reward models have a control.
    """
    order = {"function": 0, "reward model": 1, "people": 2, "endpoint": 3}
    rated = sorted((j for j in judges if j["win_rate"]), key=lambda j: order[j["kind"]])
    found: dict = {name: value for judge in judges for name, value in judge["figures"].items()}
    if rated:
        found |= {"judge": rated[0]["name"], "win_rate": rated[0]["win_rate"]}
        found |= {"control": rated[0]["control"]} if "control" in rated[0] else {}
    return found | {"judges": [{name: value for name, value in judge.items() if name != "figures"} for judge in judges]}
