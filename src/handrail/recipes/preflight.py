"""A look before the first step, for the doctor: are the roles what they are taken for, does the reward know sense from nonsense?"""

import logging
import random

import torch

from handrail.algo.kl import kl_k1
from handrail.algo.stats import masked_mean
from handrail.batch import Sequences
from handrail.data import Codec
from handrail.errors import HandrailError
from handrail.models import LanguageModel, ScalarModel
from handrail.recipes.parts import RunSettings, derive, shuffled
from handrail.recipes.progress import console
from handrail.records import Prompt
from handrail.rollout import NativeEngine, Sampling
from handrail.track import Run

logger = logging.getLogger(__name__)

LOOKS_AT = 32  # prompts, answered once each
PATIENT = 8  # prompts that are answered again where hardly any response ends,
LONGER = 4  # with so many times the tokens
ENDS = 0.3  # share of responses below which they are


@torch.no_grad()
def preflight(
    run: Run,
    kept: RunSettings,
    codec: Codec,
    policy: LanguageModel,
    reference: LanguageModel,
    reward: ScalarModel | None,
    prompts: list[Prompt],
    sampling: Sampling,
    seed: int,
) -> None:
    """Answer a few prompts with an engine of its own and leave what is measured in the run folder, once a run.

    It draws from seeds of its own and changes no weight, so that what follows is the same with it and without.
    """
    if run.step or run.finished or kept.doctor == "off":
        return

    def measure() -> dict[str, float]:
        if (run.folder / "preflight.json").exists():
            return {}
        try:
            return look(codec, policy, reference, reward, prompts, sampling, seed)
        except HandrailError:
            raise
        except Exception as error:  # what only the doctor needs must not keep a run from training
            console.print(f"doctor    could not measure before the first step ({type(error).__name__}); more in log.txt", markup=False)
            logger.error("nothing could be measured before the first step", exc_info=error)
            return {}

    if found := run.peers.first(measure):
        run.measured(found)


def look(
    codec: Codec,
    policy: LanguageModel,
    reference: LanguageModel,
    reward: ScalarModel | None,
    prompts: list[Prompt],
    sampling: Sampling,
    seed: int,
) -> dict[str, float]:
    """What can be measured on fresh responses, by name."""
    policy.hf.eval()
    chosen = [prompts[i] for i in shuffled(len(prompts), min(LOOKS_AT, len(prompts)), 0, derive(seed, "preflight"))]
    ids = [codec.encode_prompt(prompt) for prompt in chosen]
    engine = NativeEngine(codec.tokenizer, codec.end_ids)
    engine.sync(policy)
    seeds = [derive(seed, "preflight", row) for row in range(len(ids))]
    rollout = engine.generate(ids, seeds, sampling).to(policy.device)
    logp, logp_ref = (role.logp(rollout.sequences, sampling.temperature) for role in (policy, reference))
    special = {*codec.tokenizer.all_special_ids, *codec.end_ids} | {
        number for number, token in codec.tokenizer.added_tokens_decoder.items() if token.special
    }
    measured = {
        "kl": float(masked_mean(kl_k1(logp, logp_ref), rollout.mask, len(rollout))),
        "engine_difference": float(masked_mean((logp - rollout.logp).abs(), rollout.mask)),
        "double_start": sum(row[0] in special and row[:1] == row[1:2] for row in ids) / len(ids),
        "ended": float(rollout.ended.float().mean()),
    }
    if measured["ended"] < ENDS:
        patient = sampling.model_copy(update={"max_new_tokens": LONGER * sampling.max_new_tokens})
        measured["ended_later"] = float(engine.generate(ids[:PATIENT], seeds[:PATIENT], patient).ended.float().mean())
    if reward is not None:
        texts = [codec.decode(response) for response in rollout.responses()]
        own = reward.score(rollout.sequences)
        measured |= {"reward_mean": float(own.mean()), "reward_std": float(own.std(correction=0))}
        measured |= nonsense(codec, reward, ids, texts, seed)
    return measured


def nonsense(codec: Codec, reward: ScalarModel, ids: list[list[int]], texts: list[str], seed: int) -> dict[str, float]:
    """Mean scores of what nobody should say in place of `texts`: nothing, the words shuffled, the text three times over."""
    rng, room = random.Random(derive(seed, "shuffled")), reward.context - max(map(len, ids))
    kinds = {
        "reward_empty": ["" for _ in texts],
        "reward_shuffled": [" ".join(rng.sample(words, len(words))) for words in map(str.split, texts)],
        "reward_long": [" ".join([text] * 3) for text in texts],
    }
    found = {}
    for name, said in kinds.items():
        encoded = [codec.encode_response(text, end=True) for text in said]
        rows = [(prompt, response) for prompt, response in zip(ids, encoded, strict=True) if len(response) <= room]
        if rows:
            found[name] = float(reward.score(Sequences.of(rows)).mean())
    return found
