"""What recipes are assembled from: seeds, schedules, the optimiser, slices by token budget, fingerprints."""

import hashlib
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from handrail.batch import Rollout, Sequences
from handrail.config import Settings
from handrail.data import Codec
from handrail.doctor.live import Attendant, Watch
from handrail.errors import ConfigError
from handrail.models import LanguageModel, best_matmul, resolve
from handrail.parallel import Parallel
from handrail.recipes.progress import console
from handrail.rollout import Engine, NativeEngine, Sampling
from handrail.track import Run

Tracker = Literal["tensorboard", "wandb", "mlflow"]


class RunSettings(Settings):
    """How a run is kept.  None of these changes a result."""

    # May differ between a run's beginning and its continuation; traces may not, so that a resumed run has the same.
    # Smaller slices are what a run that ran out of memory needs; they change how sums are rounded and nothing else.
    FREE: ClassVar[frozenset[str]] = frozenset({"out", "micro_tokens", "rows", "run.save_every", "run.keep", "run.trackers", "run.doctor"})

    save_every: int = Field(20, ge=1, description="steps between checkpoints")
    keep: int = Field(2, ge=1, description="checkpoints kept")
    trace_every: int = Field(10, ge=0, description="steps between token traces, 0: none")
    trace_rows: int = Field(16, ge=1, description="responses in a trace")
    trackers: list[Tracker] = Field([], description="beside the run folder")
    doctor: Watch = Field("watch", description="says what is wrong while the run goes on; stop: and stops it where it is sick; off")

    def traced(self, step: int, steps: int) -> bool:
        """Whether a step leaves a trace: every so many, and the last."""
        return self.trace_every > 0 and (step % self.trace_every == 0 or step + 1 == steps)


@cache
def machine() -> str:
    """Make the machine ready, once a process: its place among others, the fastest exact matrix products."""
    Parallel.joined()
    done = best_matmul()
    logging.getLogger(__name__).info(done)
    return done


def derive(seed: int, *path: int | str) -> int:
    """A seed of its own for each use and step, so that no random state lives longer than a step."""
    digest = hashlib.sha256("/".join(map(str, (seed, *path))).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, *path: int | str) -> torch.Generator:
    """A CPU generator with the derived seed."""
    return torch.Generator().manual_seed(derive(seed, *path))


def seed_everything(seed: int, *path: int | str) -> None:
    """Torch's own random state, for what draws from it: initial weights, dropout."""
    torch.manual_seed(derive(seed, *path))


def shuffled(count: int, size: int, step: int, seed: int) -> list[int]:
    """Which of `count` items the batch of `size` at `step` holds: each once an epoch, reshuffled every epoch."""
    drawn: list[int] = []
    position = step * size
    while len(drawn) < size:
        epoch, start = divmod(position + len(drawn), count)
        order = torch.randperm(count, generator=generator(seed, "order", epoch))
        drawn += order[start : start + size - len(drawn)].tolist()
    return drawn


def slices(lengths: Tensor, budget: int) -> Iterator[Tensor]:
    """Indices of consecutive groups, sorted by length, of at most `budget` tokens each (a longer one stands alone)."""
    order = torch.argsort(lengths, stable=True)
    group: list[int] = []
    tokens = 0
    for index, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        if group and tokens + length > budget:
            yield torch.tensor(group)
            group, tokens = [], 0
        group.append(index)
        tokens += length
    if group:
        yield torch.tensor(group)


def cosine(step: int, steps: int, warmup: int) -> float:
    """Share of the learning rate at `step`: linear from 0 over `warmup` steps, then half a cosine down to a tenth."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, steps - warmup)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * min(done, 1.0)))


def constant(step: int, steps: int, warmup: int) -> float:
    """Share of the learning rate at `step`: linear from 0 over `warmup` steps, then 1."""
    return min(1.0, (step + 1) / (warmup + 1))


class SharedEngine:
    """An engine in each process: each samples its share of the rows, and all have all of them."""

    def __init__(self, engine: Engine, parallel: Parallel):
        self.engine, self.parallel = engine, parallel

    def sync(self, policy: LanguageModel) -> None:
        """Sample from `policy` from now on."""
        self.engine.sync(policy)

    def generate(
        self, prompts: list[list[int]], seeds: list[int], sampling: Sampling, progress: Callable[[int], None] | None = None
    ) -> Rollout:
        """One response to each prompt; see `Engine.generate`.  As a row follows from its seed, it does not matter who samples it."""
        rollout = self.parallel.each(lambda p, s: self.engine.generate(p, s, sampling, progress), prompts, seeds)
        if progress:
            progress(len(prompts))
        return rollout


def native_engine(codec: Codec) -> SharedEngine:
    """The engine that is built in."""
    return SharedEngine(NativeEngine(codec.tokenizer, codec.end_ids), Parallel.joined())


class Optimizer:
    """AdamW over named groups of parameters, each with its learning rate and its own gradient clip."""

    def __init__(
        self,
        groups: dict[str, tuple[dict[str, torch.nn.Parameter], float]],
        weight_decay: float,
        max_grad_norm: float,
        parallel: Parallel,
    ):
        self.groups = {name: parameters for name, (parameters, _) in groups.items()}
        if narrow := [name for name, p in self._named() if torch.finfo(p.dtype).bits < 32]:
            raise ConfigError(
                f"{len(narrow)} weights to train are not float32, for example {narrow[0]}",
                "float32 weights: small steps round away in bfloat16",
                "set dtype: float32 and autocast: true, which makes the products in bfloat16",
            )
        self.rates = {name: rate for name, (_, rate) in groups.items()}
        self.max_grad_norm, self.parallel = max_grad_norm, parallel
        self.adam = torch.optim.AdamW(
            [{"params": [p], "weight_decay": weight_decay if p.ndim > 1 else 0.0} for _, p in self._named()],
            lr=1.0,
            betas=(0.9, 0.95),
            fused=True,
        )

    def _named(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        for group, parameters in self.groups.items():
            for name, parameter in parameters.items():
                yield f"{group}.{name}", parameter

    @property
    def weights(self) -> list[torch.nn.Parameter]:
        """All that is trained."""
        return [parameter for _, parameter in self._named()]

    def clip(self) -> dict[str, float]:
        """Clip each group's gradient, which is the sum of all processes'; returns the norms before, `grad_norm.<group>`."""
        return {
            f"grad_norm.{name}": float(self.parallel.clip_grad(parameters.values(), self.max_grad_norm))
            for name, parameters in self.groups.items()
        }

    def step(self, share: float) -> None:
        """One update with each group's learning rate times `share`; gradients are cleared."""
        rates = [self.rates[group] for group, parameters in self.groups.items() for _ in parameters]
        for settings, rate in zip(self.adam.param_groups, rates, strict=True):
            settings["lr"] = rate * share
        self.adam.step()
        self.clear()

    def clear(self, *groups: str) -> None:
        """Forget the gradients of these groups, of all where none is named."""
        for group in groups or self.groups:
            for parameter in self.groups[group].values():
                parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """Moments and counters by the parameters' names."""
        return {f"{name}/{key}": value for name, parameter in self._named() for key, value in self.adam.state.get(parameter, {}).items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """What `state` returned, onto the device of each parameter."""
        for name, parameter in self._named():
            moments = {key: state[f"{name}/{key}"] for key in ("step", "exp_avg", "exp_avg_sq") if f"{name}/{key}" in state}
            if moments:
                self.adam.state[parameter] = {k: v.to(parameter.device) if k == "step" else v.to(parameter) for k, v in moments.items()}


Readings = list[tuple[Tensor, Tensor]]  # rows of a batch, and what was computed of each, [B] or [B, ...]


def of_rows(rows: Sequence[int], readings: Readings, parallel: Parallel) -> list[Any]:
    """Of each of these rows of a batch what was computed of it, in whichever process, as plain numbers for a trace."""
    mine = {row: x for some, found in readings for row, x in zip(some.tolist(), found.tolist(), strict=True)}
    wanted = {row: mine[row] for row in rows if row in mine}
    found = {row: x for part in parallel.gather(wanted) for row, x in part.items()}
    return [found[row] for row in rows]


def spelt(codec: Codec, sequences: Sequences) -> dict[str, list]:
    """Responses as columns of a trace: their texts, their lengths, and their tokens."""
    rows = zip(sequences.ids.tolist(), sequences.prompt_lengths.tolist(), sequences.lengths.tolist(), strict=True)
    ids = [row[start:stop] for row, start, stop in rows]
    return {
        "response": [codec.decode(own) for own in ids],
        "length": [len(own) for own in ids],
        "ids": ids,
        "tokens": [codec.pieces(own) for own in ids],
    }


def describe(data: str, left_out: dict[str, int]) -> str:
    """What was read, and what of it was left out."""
    return "; ".join([data, *(f"{count} left out: {reason}" for reason, count in left_out.items())])


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors with `prefix/` before each name."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix/`, without it."""
    return {name.removeprefix(f"{prefix}/"): tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}/")}


def open_run(out: str, stage: str, cfg: Settings, kept: RunSettings, inputs: dict[str, str]) -> Run:
    """The run folder of a stage, new or taken up again, and attended; of several processes the first writes into it."""
    peers, free = Parallel.joined(), RunSettings.FREE
    run = Run.open(out, stage, cfg, inputs, kept.save_every, kept.keep, free=free, trackers=kept.trackers, peers=peers)
    if kept.doctor != "off" and not run.finished:
        run.attend(
            Attendant(run, kept.doctor, lambda said: console.print(f"doctor    {said}", soft_wrap=True, markup=False, highlight=False))
        )
    return run


def source_of(function: str) -> str:
    """SHA-256 of the file that a function "file.py:name" stands in; the name itself for one of an installed module."""
    file = Path(function.rpartition(":")[0])
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.suffix == ".py" and file.is_file() else function


def fingerprint(path: str) -> str:
    """SHA-256 over the files of a model's folder or of one file; the name itself where it is a hub's."""
    if not path:
        return ""
    folder = Path(resolve(path))
    if not folder.exists():
        return f"hub:{path}"
    files = [folder] if folder.is_file() else sorted(p for p in folder.rglob("*") if p.is_file())
    digest = hashlib.sha256()
    for file in files:
        digest.update(str(file.relative_to(folder)).encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
