"""What each stage does in a step, as its recipe does it, for a rehearsal.

A rehearsal of a stage puts its models there, goes through what one step computes, and says how many steps there are.
Which sequences share a slice is decided by the functions that the recipes themselves ask.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from handrail.algo.kl import kl_full
from handrail.algo.relaxed import expected_choice, gumbel_given, straight_through_choice
from handrail.batch import Sequences
from handrail.evaluate.attribution import LARGEST
from handrail.models import LanguageModel, ModelSettings, ScalarModel, groups
from handrail.models.attribution import STEPS
from handrail.plan.rehearsal import Rehearsal, Role, Slices
from handrail.recipes.best_of_n_parts import BestOfN
from handrail.recipes.dpo import DPO
from handrail.recipes.dpo_objectives import OBJECTIVES
from handrail.recipes.evaluate import Evaluate
from handrail.recipes.parts import slices
from handrail.recipes.ppo_parts import PPO
from handrail.recipes.reinforce_parts import Reinforcement
from handrail.recipes.relaxed import NUMBERS, Relaxed
from handrail.recipes.reward_parts import Reward
from handrail.recipes.rewards import RewardSettings
from handrail.recipes.sample import Sample
from handrail.recipes.sft import SFT
from handrail.rollout import Sampling


@dataclass(frozen=True)
class Texts:
    """How long and how many the texts are that a stage reads: lengths in tokens of a sample, and the number of all."""

    prompts: list[int]
    responses: list[int]  # as long as those are that it learns from, or that it may write
    count: int  # demonstrations, rankings or prompts, whichever it goes through
    together: int = 1  # responses to a prompt, in a ranking

    def drawn(self, count: int, same: int = 1) -> Sequences:
        """A batch: `count` responses, `same` neighbours with one prompt.  Every length comes as often as it is."""
        prompts = [self.prompts[(row // same * 7919) % len(self.prompts)] for row in range(count)]
        return self.of(prompts, [self.responses[(row * 104729) % len(self.responses)] for row in range(count)], same)

    @staticmethod
    def of(prompts: Sequence[int], responses: Sequence[int], same: int = 1) -> Sequences:
        """Sequences of these lengths."""
        rows = [([row // same % 97 + 1] * max(1, p), [1] * max(1, n)) for row, (p, n) in enumerate(zip(prompts, responses, strict=True))]
        return Sequences.of(rows)

    @property
    def longest(self) -> int:
        """Tokens of the longest response of the sample."""
        return max(self.responses)

    @property
    def mean(self) -> float:
        """Tokens of a response."""
        return sum(self.responses) / len(self.responses)


def widest(sequences: Sequences, parts: list[Tensor]) -> tuple[Sequences, float]:
    """The slice with most tokens, and how many of its size all of them are."""
    sizes = [int(sequences.lengths[part].sum()) for part in parts]
    part = parts[max(range(len(parts)), key=sizes.__getitem__)]
    return sequences[part], sum(sizes) / max(sizes)


def grouped(r: Rehearsal, batch: Sequences, tokens: int = 0) -> tuple[Sequences, list[Tensor]]:
    """A batch, and which of its sequences share a slice."""
    return batch, list(groups(batch.lengths, tokens or r.machine.tokens))


def ranked(r: Rehearsal, batch: Sequences, k: int, tokens: int) -> tuple[Sequences, list[Tensor]]:
    """A batch of rankings of k responses each, and which of its sequences share a slice: whole rankings, a prompt counted once."""
    lengths = batch.prompt_lengths.view(-1, k)[:, 0] + batch.response_lengths.view(-1, k).sum(1)
    return batch, [(part[:, None] * k + torch.arange(k)).flatten() for part in slices(lengths, tokens or r.machine.tokens)]


def sft(r: Rehearsal, cfg: SFT, texts: Texts) -> None:
    """Demonstrations, a budget of tokens a step."""
    policy = r.policy("policy", cfg.model)
    mean = sum(texts.prompts) / len(texts.prompts) + texts.mean
    batch = texts.drawn(max(1, round(cfg.batch_tokens / mean)))
    part, count = widest(*grouped(r, batch, cfg.micro_tokens))
    r.steps = max(1, round(cfg.epochs * (1 - cfg.held_out) * texts.count / len(batch)))
    r.learn([policy], lambda times: r.laws(policy, part, "improve", times, False), count, r.steps)
    looks = r.steps // cfg.eval_every + 2
    with torch.no_grad():
        r.laws(policy, part, "evaluate", looks * cfg.held_out * texts.count / len(part), False)


def sample(r: Rehearsal, cfg: Sample, texts: Texts) -> None:
    """Several responses to each prompt."""
    policy = r.policy("policy", cfg.model, trained=False)
    rows = min(cfg.limit or texts.count, texts.count) * cfg.responses
    answer(r, policy, texts, rows, cfg.responses, cfg.sampling, 1)
    if cfg.priority:
        path = cfg.priority.reward
        ensemble = r.scalar("priority", ModelSettings(path=path), r.heads(path), trained=False)
        part, count = widest(*grouped(r, texts.drawn(min(rows, 512), cfg.responses)))
        with torch.no_grad():
            r.values(ensemble, part, "judge", count * rows / min(rows, 512), whole=True)


def answer(r: Rehearsal, policy: LanguageModel, texts: Texts, rows: int, same: int, sampling: Sampling, times: float) -> None:
    """Let the engine write responses."""
    lengths = texts.drawn(min(rows, 512), same).prompt_lengths.tolist()
    r.generate(policy, lengths, same, min(texts.longest, sampling.max_new_tokens), sampling, times * rows / len(lengths))


def reward(r: Rehearsal, cfg: Reward, texts: Texts) -> None:
    """Rankings; then responses of the model that it starts from, to normalise on, the held-out rankings, and tokens of some of them."""
    model = r.scalar("reward", cfg.model, cfg.heads)
    start = r.policy("start", cfg.model, trained=False)
    k = texts.together
    part, count = widest(*ranked(r, texts.drawn(cfg.batch_size * k, k), k, cfg.micro_tokens))
    tested = 0.0 if cfg.test else cfg.held_out
    r.steps = max(1, cfg.epochs * int((1 - tested) * texts.count) // cfg.batch_size)
    r.learn([model], lambda times: r.values(model, part, "improve", times), count, r.steps)
    answer(r, start, texts, cfg.normalise_on, 1, cfg.sampling, 1)
    held_out = cfg.held_out * texts.count * k
    attributed = 2 * STEPS * min(LARGEST, held_out)  # a gradient of the embeddings alone is about another forward
    with torch.no_grad():
        r.values(model, part, "evaluate", (held_out + cfg.normalise_on + attributed) / len(part), whole=True)


def ppo(r: Rehearsal, cfg: PPO, texts: Texts) -> None:
    """Four roles; each step writes, judges, and learns in several passes."""
    if cfg.roles == "separate":
        policy, reference = r.policy("policy", cfg.policy), r.policy("reference", without_adapter(cfg.policy), trained=False)
        scored = rewarded(r, cfg.reward, cfg.policy)
        copied = without_adapter(cfg.policy).model_copy(update={"path": cfg.reward.model})  # of the reward model, whole
        critic = r.scalar("critic", copied if cfg.reward.model else cfg.policy)
    else:
        one = r.trunk(cfg.policy, cfg.roles == "one_trunk_shared", bool(cfg.reward.model))
        policy, reference, critic = one.policy, one.reference, one.critic
        scored = [critic] if cfg.reward.model else []  # an adapter like the critic's
        scored += rewarded(r, cfg.reward.model_copy(update={"model": ""}), cfg.policy)
    shared = cfg.roles == "one_trunk_shared"
    rows, r.steps = acted(r, policy, cfg, texts, 1), cfg.steps
    part, count = widest(*grouped(r, texts.drawn(rows)))
    with torch.no_grad():
        judged = cfg.steps * count
        found = r.laws(policy, part, "judge", judged, True) + r.laws(reference, part, "judge", judged, False)
        found += r.values(critic, part, "judge", judged)
        found += [x for model in scored for x in r.values(model, part, "judge", judged, whole=True)]
        del found
    part, count = widest(*grouped(r, texts.drawn(max(1, rows // cfg.minibatches)), cfg.micro_tokens))

    def both(times: float) -> list[Tensor]:
        laws = r.laws(policy, part, "improve", times, shared or bool(cfg.entropy_coef))
        return laws + ([] if shared else r.values(critic, part, "improve", times))

    roles: list[Role] = [policy, critic]
    r.learn(roles, both, count, cfg.steps * cfg.epochs * cfg.minibatches, mixture(r, cfg, policy, texts))


def acted(r: Rehearsal, policy: LanguageModel, cfg: PPO | Reinforcement, texts: Texts, same: int) -> int:
    """The step's responses, and what a partner that is a model says to them; returns how many of the policy's there are."""
    turns = cfg.partner.turns if cfg.partner else 1
    answer(r, policy, texts, cfg.batch_size * turns, same, cfg.sampling, cfg.steps)
    if cfg.partner and cfg.partner.model:
        partner = r.policy("partner", cfg.partner.model, trained=False)
        answer(r, partner, texts, cfg.batch_size * (turns - 1), 1, cfg.partner.sampling, cfg.steps)
    return cfg.batch_size * turns


def reinforce(r: Rehearsal, cfg: Reinforcement, texts: Texts) -> None:
    """As PPO, without a critic or with one that is only a baseline."""
    policy, reference = r.policy("policy", cfg.policy), r.policy("reference", without_adapter(cfg.policy), trained=False)
    scored = rewarded(r, cfg.reward, cfg.policy) if cfg.reward else []
    critic = [r.scalar("critic", cfg.policy)] if cfg.baseline.kind == "value" else []
    rows, same = cfg.batch_size, cfg.responses if cfg.prompts else 1
    if cfg.prompts:
        rows = acted(r, policy, cfg, texts, same)
    r.steps = cfg.steps
    part, count = widest(*grouped(r, texts.drawn(rows, same)))
    with torch.no_grad():
        judged = cfg.steps * count
        found = r.laws(policy, part, "judge", judged, True) + r.laws(reference, part, "judge", judged, False)
        found += [x for model in [*scored, *critic] for x in r.values(model, part, "judge", judged, whole=model in scored)]
        del found
    part, count = widest(*grouped(r, texts.drawn(max(1, rows // cfg.minibatches)), cfg.micro_tokens))

    def all_of_it(times: float) -> list[Tensor]:
        return r.laws(policy, part, "improve", times, True) + [x for model in critic for x in r.values(model, part, "improve", times)]

    r.learn([policy, *critic], all_of_it, count, cfg.steps * cfg.epochs * cfg.minibatches, mixture(r, cfg, policy, texts))


def best_of_n(r: Rehearsal, cfg: BestOfN, texts: Texts) -> None:
    """n responses to each prompt, of which the best, or all with weights, are learned from."""
    policy, reference = r.policy("policy", cfg.policy), r.policy("reference", without_adapter(cfg.policy), trained=False)
    own = cfg.rounds not in (1, cfg.steps)  # else the reference samples, or the policy itself
    sampler = r.policy("sampler", cfg.policy, trained=False) if own else reference if cfg.rounds == 1 else policy
    scored = rewarded(r, cfg.reward, cfg.policy)
    rows, r.steps = cfg.batch_size * cfg.n, cfg.steps
    answer(r, sampler, texts, rows, cfg.n, cfg.sampling, cfg.steps)
    looks = cfg.steps if sampler is policy else (cfg.steps - 1) // cfg.eval_every + 2  # at the policy's own responses
    looked = rows if sampler is policy else cfg.eval_responses
    if sampler is not policy:
        answer(r, policy, texts, looked, 1, cfg.sampling, looks)
    part, count = widest(*grouped(r, texts.drawn(rows, cfg.n)))
    with torch.no_grad():
        seen = looks * count * looked / rows
        found = r.laws(policy, part, "judge", seen, True) + r.laws(reference, part, "judge", seen, False)
        scores = cfg.steps * count + (0 if sampler is policy else seen)
        found += [x for model in scored for x in r.values(model, part, "judge", scores, whole=True)]
        del found
    learnt, same = (cfg.batch_size, 1) if cfg.weighting == "best" else (rows, cfg.n)
    part, count = widest(*grouped(r, texts.drawn(max(1, learnt // cfg.minibatches), same), cfg.micro_tokens))
    updates = cfg.steps * cfg.epochs * cfg.minibatches
    r.learn([policy], lambda times: r.laws(policy, part, "improve", times, False), count, updates)


def dpo(r: Rehearsal, cfg: DPO, texts: Texts) -> None:
    """Rankings from data, whose reference is asked once; or fresh ones each step."""
    policy = r.policy("policy", cfg.policy)
    refers = OBJECTIVES[cfg.loss.name](cfg.loss).refers
    reference = [r.policy("reference", without_adapter(cfg.policy), trained=False)] if refers else []
    k = cfg.online.responses if cfg.online else texts.together
    batch = texts.drawn(cfg.batch_size * k, k)
    part, count = widest(*ranked(r, batch, k, cfg.micro_tokens))
    tested = 0.0 if cfg.test or cfg.online else cfg.held_out * texts.count * k
    if cfg.online:
        r.steps, scored = cfg.online.steps, rewarded(r, cfg.online.reward, cfg.policy)
        answer(r, policy, texts, len(batch), k, cfg.online.sampling, r.steps)
        with torch.no_grad():
            found = r.laws(policy, part, "judge", r.steps * count, True)
            found += [x for model in scored for x in r.values(model, part, "judge", r.steps * count, whole=True)]
            del found
    else:
        r.steps = max(1, cfg.epochs * int(texts.count - tested / k) // cfg.batch_size)
    with torch.no_grad():
        for model in reference:
            r.laws(model, part, "judge", r.steps * count if cfg.online else texts.count * k / len(part), False)
        r.laws(policy, part, "evaluate", (r.steps // cfg.eval_every + 1) * tested / len(part), False)
    if not cfg.online and reference:  # what it says of the data is kept, and it is let go
        del r.roles["reference"], model
        reference.clear()
    r.learn([policy], lambda times: r.laws(policy, part, "improve", times, False), count, r.steps)


def relaxed(r: Rehearsal, cfg: Relaxed, texts: Texts) -> None:
    """The whole law at each place, of policy and reference, and the reward model on mixtures of tokens."""
    policy, reference = r.policy("policy", cfg.policy), r.policy("reference", without_adapter(cfg.policy), trained=False)
    model = r.scalar("reward", ModelSettings(path=cfg.reward, autocast=cfg.policy.autocast), trained=False)
    batch = texts.drawn(cfg.batch_size)
    width, vocabulary = int(batch.response_lengths.max()), policy.causal.config.vocab_size
    rows, before = min(len(batch), cfg.rows or max(1, NUMBERS // (width * vocabulary))), int(batch.prompt_lengths.max())
    part, count = batch[torch.argsort(batch.lengths, descending=True)[:rows]], len(batch) / rows
    r.steps = cfg.steps
    answer(r, policy, texts, cfg.batch_size, 1, cfg.sampling, cfg.steps)
    with torch.no_grad():
        found = r.laws(policy, part, "judge", cfg.steps * count, True) + r.laws(reference, part, "judge", cfg.steps * count, False)
        found += r.values(model, part, "judge", cfg.steps * count, whole=True)
        del found

    together = model.forward.place(part, torch.arange(len(part)), part.lengths - 1, part.lengths)

    def relaxation(times: float) -> list[Tensor]:
        logits = everything(r, policy, part, times)
        with torch.no_grad():
            logits_ref = everything(r, reference, part, times)
        with r.on("improve", times):
            noise = torch.rand(rows, width, 1 + vocabulary)
            tokens = torch.zeros(rows, width, dtype=torch.int64)
            if cfg.choice == "expected":
                choice = expected_choice(logits)
            else:
                choice = straight_through_choice(logits, tokens, gumbel_given(logits, tokens, noise[..., 1:], noise[..., 0]), cfg.tau)
            table: Any = model.hf.get_input_embeddings().weight  # type: ignore[union-attr]
            mixed = choice.to(table.dtype) @ table
            prompt = torch.zeros(rows, before, table.shape[1])
            score = model.read(model.forward.through(together, torch.cat([prompt, mixed], 1)))
            return [score, kl_full(logits, logits_ref)]

    r.learn([policy], relaxation, count, cfg.steps)


def everything(r: Rehearsal, policy: LanguageModel, sequences: Sequences, times: float) -> Tensor:
    """[B, T, V] the logits at every place of the responses."""
    width, first, stop = int(sequences.response_lengths.max()), sequences.prompt_lengths - 1, sequences.lengths - 1
    with r.on("improve", times):
        found: Any = torch.zeros(len(sequences), width, policy.causal.config.vocab_size)
    for read in r.reads(policy, sequences, first, stop, "improve", times):
        at = read.columns + 1 - sequences.prompt_lengths[read.rows]
        with r.on("improve", times), policy.forward.precision():
            found = found.index_put((read.rows, at), policy.project(read.output).float() / 1.0)
    return found  # type: ignore[no-any-return]


def evaluate(r: Rehearsal, cfg: Evaluate, texts: Texts) -> None:
    """Both models answer, the one before twice; then judges that are models are asked."""
    before, after = (r.policy(name, getattr(cfg, name), trained=False) for name in ("before", "after"))
    prompts = min(cfg.limit or texts.count, texts.count)
    for policy, sampling, answers in ((before, cfg.sampling_before or cfg.sampling, 2), (after, cfg.sampling, 1)):
        answer(r, policy, texts, prompts, 1, sampling, answers)
    batch = texts.drawn(min(prompts, 512))
    part, _ = widest(batch, list(groups(batch.lengths, r.machine.tokens)))
    times = prompts / len(part)
    with torch.no_grad():
        r.laws(after, part, "judge", times, False)
        r.laws(before, part, "judge", times, False)
        if cfg.reward:
            model = r.scalar("reward", ModelSettings(path=cfg.reward), trained=False)
            r.values(model, part, "judge", 3 * times, whole=True)


def rewarded(r: Rehearsal, cfg: RewardSettings, policy: ModelSettings) -> list[ScalarModel]:
    """The reward models that are asked."""
    paths = [path for path in (cfg.model, *(term.model for term in cfg.more)) if path]
    return [
        r.scalar(
            f"reward {number}" if number else "reward", policy.model_copy(update={"path": path, "lora": None}), r.heads(path), trained=False
        )
        for number, path in enumerate(paths)
    ]


def without_adapter(policy: ModelSettings) -> ModelSettings:
    """Of models that begin as the policy and have none."""
    return policy.model_copy(update={"lora": None})


def mixture(r: Rehearsal, cfg: PPO | Reinforcement, policy: LanguageModel, texts: Texts) -> Slices | None:
    """The supervised loss beside an objective, once an update, on texts taken to be as long as these; none where there is none."""
    if cfg.mix is None:
        return None
    part, count = widest(*grouped(r, texts.drawn(cfg.mix.batch_size), cfg.micro_tokens))
    return lambda times: r.laws(policy, part, "improve", times * count, False)


REHEARSALS: dict[str, Callable[[Rehearsal, Any, Texts], None]] = {
    "sft": sft,
    "sample": sample,
    "reward": reward,
    "ppo": ppo,
    "reinforce": reinforce,
    "best_of_n": best_of_n,
    "dpo": dpo,
    "relaxed": relaxed,
    "evaluate": evaluate,
}
