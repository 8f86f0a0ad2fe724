"""A look before the first step, for the doctor: are the roles what they are taken for, does the reward know sense from nonsense?"""

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from handrail.algo.kl import kl_k1
from handrail.algo.stats import masked_mean
from handrail.batch import Sequences
from handrail.data import Codec
from handrail.errors import HandrailError, RunError
from handrail.models import LanguageModel, ScalarModel
from handrail.models.machine import host_memory
from handrail.recipes.parts import RunSettings, derive, shuffled
from handrail.recipes.progress import console
from handrail.records import Prompt
from handrail.rollout import NativeEngine, Sampling
from handrail.track import Run
from handrail.track.environment import peak_memory

logger = logging.getLogger(__name__)

LOOKS_AT = 32  # prompts, answered once each
PATIENT = 8  # prompts that are answered again where hardly any response ends,
LONGER = 4  # with so many times the tokens
ENDS = 0.3  # share of responses below which they are
OUT_OF_MEMORY = (torch.OutOfMemoryError, MemoryError)


@dataclass(frozen=True)
class Dry:
    """What a slice of an update computes, for a run through it at the longest lengths."""

    forward: Callable[[Sequences], Sequence[Tensor]]  # what its loss is made of
    weights: Sequence[nn.Parameter]  # those that are trained
    tokens: int  # of a slice
    rows: int  # of a batch


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
    dry: Dry | None = None,
) -> None:
    """Answer a few prompts with an engine of its own and leave what is measured in the run folder, once a run.

    It draws from seeds of its own and changes no weight, so that what follows is the same with it and without.
    Raises RunError where a slice of an update at the longest lengths does not fit into memory.
    """
    if run.step or run.finished or kept.doctor == "off":
        return

    def measure() -> dict[str, float]:
        if (run.folder / "preflight.json").exists():
            return {}
        try:
            found = look(codec, policy, reference, reward, prompts, sampling, seed)
            return found | (longest_slice(dry, codec, policy, prompts, sampling) if dry else {})
        except HandrailError:
            raise
        except Exception as error:  # what only the doctor needs must not keep a run from training
            console.print(f"doctor    could not measure before the first step ({type(error).__name__}); more in log.txt", markup=False)
            logger.error("nothing could be measured before the first step", exc_info=error)
            return {}

    if found := run.peers.first(measure):
        run.measured(found)


@torch.no_grad()
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


def longest_slice(dry: Dry, codec: Codec, policy: LanguageModel, prompts: list[Prompt], sampling: Sampling) -> dict[str, float]:
    """Forward and backward through one slice that is as long as any can be; nothing is learned from it.  MiB, by name.

    A run whose responses grow would else meet its end after hours.  Raises RunError where memory runs out.
    """
    if not dry.weights:
        return {}
    longest = sorted(prompts, key=lambda prompt: len(prompt.text))[-dry.rows :]
    ids = sorted((codec.encode_prompt(prompt) for prompt in longest), key=len, reverse=True)
    length = min(sampling.max_new_tokens, policy.context - len(ids[0]))
    rows = max(1, min(dry.rows, dry.tokens // (len(ids[0]) + length)))
    sequences = Sequences.of([(ids[row % len(ids)], [ids[0][-1]] * length) for row in range(rows)])
    try:
        outputs = [x.sum() for x in dry.forward(sequences) if x.requires_grad]
        torch.stack(outputs).sum().backward()
    except (*OUT_OF_MEMORY, RuntimeError) as error:
        if not isinstance(error, OUT_OF_MEMORY) and "can't allocate memory" not in str(error):
            raise
        raise RunError(
            f"out of memory before the first step, in a slice of {rows} responses of {length} tokens to prompts of up to {len(ids[0])}",
            "slices that fit, of the longest that can come",
            f"micro_tokens={max(1, dry.tokens // 2)} or policy.gradient_checkpointing=true; `handrail plan` tells what fits",
        ) from None
    finally:
        for weight in dry.weights:
            weight.grad = None
    moments = 2 * sum(p.numel() * p.element_size() for p in dry.weights)  # which AdamW is still to make
    taken, there = memory(policy.device)
    return {"slice_tokens": dry.tokens, "slice_mib": taken / 2**20, "moments_mib": moments / 2**20, "memory_mib": there / 2**20}


def memory(device: torch.device) -> tuple[float, float]:
    """Bytes that this process has taken at most so far, and that it may take; of the device where it is one."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return torch.cuda.max_memory_reserved(device), free + torch.cuda.memory_reserved(device)
    taken = 2**20 * peak_memory()["memory_mib"]
    total, free = host_memory()
    return taken, min(total, free + taken)
