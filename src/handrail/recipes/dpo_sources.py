"""Where a batch of labelled responses comes from: from people's records, or from the policy itself and a judge."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from pydantic import Field, model_validator
from torch import Tensor

from handrail.algo.kl import kl_k1
from handrail.algo.stats import masked_mean
from handrail.batch import Labels, PreferenceBatch, Rollout, Sequences
from handrail.config import Settings
from handrail.data import Codec, Source
from handrail.models import LanguageModel
from handrail.parallel import Parallel
from handrail.recipes.parts import derive, shuffled
from handrail.recipes.progress import progress
from handrail.recipes.rewards import RewardSettings, RewardSource
from handrail.records import Prompt, Ranking, Rating
from handrail.rollout import Engine, Sampling

Tokens = tuple[list[int], list[int]]  # of a prompt and of a response to it
Reads = Callable[[Sequences], Tensor]  # [B, T] nats of response tokens under a model, zeros beyond each response

ROWS = 512  # responses that the reference reads at once


class OnlineSettings(Settings):
    """Fresh responses of the policy, judged by a reward, instead of records."""

    prompts: Source
    reward: RewardSettings
    sampling: Sampling = Sampling()
    responses: int = Field(2, ge=2, description="to each prompt")
    pairs: Literal["best_worst", "all", "bradley_terry"] = Field(
        "best_worst",
        description="the best against the worst; or every pair; or every pair both ways, weighted sigmoid(difference of rewards)",
    )
    steps: int = Field(25, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> "OnlineSettings":
        if self.sampling.temperature <= 0 or self.sampling.top_k or self.sampling.top_p < 1:
            raise ValueError("the policy's own law is sampled: temperature above 0, top_k 0, top_p 1")
        if self.reward.cut != "penalty":
            raise ValueError("reward.cut: bootstrap needs a critic, and there is none here: give penalty")
        return self


# ---- labels ----------------------------------------------------------------------------------------------------------


def every_pair(score: Tensor) -> Tensor:
    """[N, K, K] weight of "i is better than j" from [N, K] scores: 1 / C(K, 2) for each pair, halved for a tie."""
    better = (torch.sign(score[:, :, None] - score[:, None, :]) + 1) / 2
    return _shared(better)


def bradley_terry(score: Tensor) -> Tensor:
    """The same with the probability sigmoid(score_i - score_j) for a win: labels as people with that reward would give."""
    return _shared(torch.sigmoid(score[:, :, None] - score[:, None, :]))


def best_against_worst(score: Tensor) -> Tensor:
    """The same for one pair of each ranking, of weight 1."""
    order = score.argsort(stable=True, dim=1, descending=True)
    rows, best, worst = torch.arange(len(score), device=score.device), order[:, 0], order[:, -1]
    wins = score.new_zeros(*score.shape, score.shape[1])
    wins[rows, best, worst] = (torch.sign(score[rows, best] - score[rows, worst]) + 1) / 2
    wins[rows, worst, best] = 1 - wins[rows, best, worst]
    return wins


def _shared(better: Tensor) -> Tensor:
    """Without each response against itself, and divided by the number of pairs."""
    k = better.shape[1]
    return better * (1 - torch.eye(k, device=better.device)) / max(1, k * (k - 1) // 2)


PAIRS: dict[str, Callable[[Tensor], Tensor]] = {"best_worst": best_against_worst, "all": every_pair, "bradley_terry": bradley_terry}


@dataclass(frozen=True, slots=True)
class Item:
    """A prompt with its responses as tokens, and what is said of them."""

    prompt: Prompt
    rows: list[Tokens]  # K
    labels: Labels  # of one prompt, [1, ...]


def of_ranking(codec: Codec, ranking: Ranking) -> Item:
    """All pairs of a ranking; its margin is not used."""
    prompt_ids = codec.encode_prompt(ranking.prompt)
    rows = [(prompt_ids, codec.encode_response(text, end=True)) for text in ranking.responses]
    wins = ranking.weight * every_pair(-torch.tensor([ranking.places], dtype=torch.float32))
    return Item(ranking.prompt, rows, Labels.of_wins(wins))


def of_rating(codec: Codec, rating: Rating, threshold: float) -> Item:
    """One response, desirable above the threshold."""
    rows = [(codec.encode_prompt(rating.prompt), codec.encode_response(rating.response, end=True))]
    good = torch.tensor([[float(rating.score > threshold)]])
    return Item(rating.prompt, rows, Labels(torch.zeros(1, 1, 1), good, 1 - good))


def collate(items: list[Item], logp_ref: list[Tensor]) -> PreferenceBatch:
    """Items as one batch; `logp_ref` holds, response after response, what the reference says of each token."""
    rows = [row for item in items for row in item.rows]
    sizes = [len(item.rows) for item in items]
    width = max(sizes)
    starts = torch.tensor([0, *sizes]).cumsum(0)[:-1]
    mask = torch.arange(width) < torch.tensor(sizes)[:, None]
    index = torch.where(mask, starts[:, None] + torch.arange(width), 0)
    labels = Labels(torch.zeros(len(items), width, width), *torch.zeros(2, len(items), width))
    for n, item in enumerate(items):
        for whole, own in zip(labels.tensors().values(), item.labels.tensors().values(), strict=True):
            whole[n][tuple(slice(size) for size in own.shape[1:])] = own[0]
    padded = torch.nn.utils.rnn.pad_sequence(logp_ref, batch_first=True)
    return PreferenceBatch(Sequences.of(rows), padded, index, mask, labels)


def strangers(items: list[Item], context: int) -> list[Tokens]:
    """Each item's prompt with a response to another prompt: the next one's first, the next but one's if that is too long, ...

    On those KTO estimates the divergence, as fresh responses would cost too much (Ethayarajh et al. 2024, section 4.1).
    An item whose prompt leaves room for none of a few keeps a response of its own.
    """
    first = {item.prompt.text: item.rows[0] for item in reversed(items)}
    texts = list(first)
    place = {text: number for number, text in enumerate(texts)}
    found: list[Tokens] = []
    for item in items:
        prompt_ids, own = item.rows[0]
        others = (first[texts[(place[item.prompt.text] + step) % len(texts)]][1] for step in range(1, min(16, len(texts))))
        found.append((prompt_ids, next((other for other in others if len(prompt_ids) + len(other) <= context), own)))
    return found


# ---- sources ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawn:
    """A batch, and what was seen when it was drawn."""

    batch: PreferenceBatch
    prompts: list[Prompt]  # N
    kl: Tensor  # nats a response that the policy is away from the reference; 0 where nobody asked
    seen: dict[str, float]  # for the log
    about: dict[str, Tensor]  # [M] each, for the trace


class PreferenceSource(Protocol):
    """Gives the batch of each step.  What a step gives follows from the step, the seed and the policy as it is."""

    steps: int

    def prepare(self) -> None:
        """What is done once, before the first step."""

    def draw(self, step: int) -> Drawn:
        """The batch of a step."""


class Offline:
    """Records: each item once an epoch, reshuffled every epoch.  The reference reads each response once, before the first step."""

    def __init__(
        self, items: list[Item], others: list[Tokens], epochs: int, batch_size: int, seed: int, policy: Reads, reference: Reads | None
    ):
        """Args: others, for each item a sequence to estimate the divergence on, or none at all."""
        self.items, self.others, self.batch_size, self.seed = items, others, batch_size, seed
        self.policy, self.reference = policy, reference
        self.steps = max(1, epochs * len(items) // batch_size)
        self.logp_ref: list[list[Tensor]] = []
        self.others_ref: list[Tensor] = []

    def prepare(self) -> None:
        """Ask the reference; then it is let go."""
        flat = iter(remembered(self.reference, [*(row for item in self.items for row in item.rows), *self.others]))
        self.logp_ref = [[next(flat) for _ in item.rows] for item in self.items]
        self.others_ref = list(flat)
        self.reference = None

    def draw(self, step: int) -> Drawn:
        """The next items."""
        drawn = shuffled(len(self.items), self.batch_size, step, self.seed)
        items = [self.items[i] for i in drawn]
        batch = collate(items, [logp for i in drawn for logp in self.logp_ref[i]])
        kl, seen = torch.zeros(()), {}
        if self.others:
            kl = self.divergence(drawn)
            seen = {"kl_estimate": float(kl)}
        return Drawn(batch, [item.prompt for item in items], kl, seen, {})

    @torch.no_grad()
    def divergence(self, drawn: list[int]) -> Tensor:
        """Mean log(pi / pi_ref) of responses to other prompts.  Ethayarajh et al. 2024, section 4.1, before the maximum with 0."""
        logp = self.policy(Sequences.of([self.others[i] for i in drawn])).sum(1)
        return (logp - torch.stack([self.others_ref[i].sum() for i in drawn]).to(logp.device)).mean()


def remembered(reference: Reads | None, rows: list[Tokens]) -> list[Tensor]:
    """What the reference says of each response's tokens, on the CPU; zeros without one."""
    if reference is None:
        return [torch.zeros(len(response)) for _, response in rows]
    found: list[Tensor] = []
    with progress("reference", len(rows)) as advance:
        for start in range(0, len(rows), ROWS):
            part = rows[start : start + ROWS]
            logp = reference(Sequences.of(part)).cpu()
            found += [each[: len(response)].clone() for each, (_, response) in zip(logp, part, strict=True)]
            advance(len(part), "")
    return found


class Online:
    """Fresh responses of the policy, K to each prompt, put in order by the reward."""

    def __init__(
        self,
        settings: OnlineSettings,
        batch_size: int,
        seed: int,
        codec: Codec,
        engine: Engine,
        model: LanguageModel,
        reference: Reads | None,
        reward: RewardSource,
        prompts: list[Prompt],
    ):
        self.settings, self.batch_size, self.seed, self.codec, self.engine = settings, batch_size, seed, codec, engine
        self.model, self.reference, self.reward, self.prompts = model, reference, reward, prompts
        self.prompt_ids = [codec.encode_prompt(p) for p in prompts]
        self.labels = PAIRS[settings.pairs]
        self.steps, self.parallel = settings.steps, Parallel.joined()

    def prepare(self) -> None:
        """Nothing: responses that do not exist yet cannot be read."""

    @torch.no_grad()
    def draw(self, step: int) -> Drawn:
        """Sample, score, compare."""
        k = self.settings.responses
        drawn = shuffled(len(self.prompts), self.batch_size, step, self.seed)
        repeated = [i for i in drawn for _ in range(k)]
        self.engine.sync(self.model)
        seeds = [derive(self.seed, "rollout", step, row) for row in range(len(repeated))]
        rollout = self.engine.generate([self.prompt_ids[i] for i in repeated], seeds, self.settings.sampling).to(self.model.device)
        texts = [self.codec.decode(ids) for ids in rollout.responses()]
        score, components = self.reward(rollout, [self.prompts[i] for i in repeated], texts)
        labels = Labels.of_wins(self.labels(score.view(-1, k)))
        mask = labels.desirable + labels.undesirable > 0
        index = torch.arange(len(repeated), device=score.device).view(-1, k) * mask

        temperature = self.settings.sampling.temperature
        logp, entropy = self.parallel.each(lambda rows: self.model.logp_and_entropy(rows, temperature), rollout.sequences)
        logp_ref = self.reference(rollout.sequences) if self.reference else torch.zeros_like(logp)
        seen = {"reward": float(score.mean()), "reward_std": float(score.std(correction=0))}
        seen |= {name: float(value.mean()) for name, value in components.items()}
        kl = torch.zeros(())
        if self.reference:
            kl = masked_mean(kl_k1(logp, logp_ref), rollout.mask, len(rollout))
            seen["kl"] = float(kl)
        seen |= fluency(rollout, logp, entropy)
        about = {"score": score, "ended": rollout.ended} | ({"gold": components["gold"]} if "gold" in components else {})
        batch = PreferenceBatch(rollout.sequences, logp_ref, index, mask, labels)
        return Drawn(batch, [self.prompts[i] for i in drawn], kl, seen, about)


def fluency(rollout: Rollout, logp: Tensor, entropy: Tensor) -> dict[str, float]:
    """How long and how undecided the responses are, and how far the engine's log-probabilities are from the trainer's."""
    return {
        "length": float(rollout.response_lengths.float().mean()),
        "ended": float(rollout.ended.float().mean()),
        "entropy": float(masked_mean(entropy, rollout.mask)),
        "engine_difference": float(masked_mean((logp - rollout.logp).abs(), rollout.mask)),
    }
