"""A search over settings: trial after trial, each in a run folder of its own, and what nothing beats.

A trial is a command of this program with some settings filled in.  Which come next is Optuna's to say; that a trial
resumes, and that a stage which two of them share is done once, is the pipeline's.
"""

import gc
import logging
import math
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.text import Text

from handrail.errors import ConfigError, HandrailError, NonFiniteError
from handrail.recipes.progress import console
from handrail.search import figures, results, trials
from handrail.search.base import Base, read_base
from handrail.search.settings import Search
from handrail.search.space import Dimension, dimensions, probes
from handrail.search.suggest import require_optuna, suggest
from handrail.search.trials import Trial, folder_of
from handrail.track.environment import describe
from handrail.track.frozen import check_frozen, freeze
from handrail.track.lock import Lock
from handrail.track.storage import require_writable

__all__ = ["Search", "prepare", "run"]

logger = logging.getLogger(__name__)

# What its settings can do to a trial.  Any other error is of the machine, the files or the program, and ends the search.
FAILURES = (NonFiniteError, torch.OutOfMemoryError, MemoryError)
FREE = frozenset({"out", "trials", "time_limit", "keep_checkpoints"})


@dataclass(frozen=True)
class Plan:
    """A search whose settings hold."""

    cfg: Search
    base: Base
    space: list[Dimension]
    own: dict[str, Any] | None  # what the config itself says, where that lies in the space
    inputs: dict[str, str]

    @property
    def folder(self) -> Path:
        return Path(self.cfg.out)


def prepare(cfg: Search, source: str) -> Plan:
    """Everything that can be wrong is found here, before anything is written.  Raises ConfigError; `source` names the file."""
    require_optuna()
    base, out = read_base(cfg), folder_of(Path(cfg.out), 0)
    space = dimensions(cfg.space, cfg.verb, source)
    for values in probes(space):
        try:
            settings = base.settings(values, out)
        except ConfigError as error:
            tried = ", ".join(f"{key}={value}" for key, value in values.items())
            raise ConfigError(f"{source}: a trial with {tried} cannot be: {error.found}", error.allowed, error.remedy) from error
        figures.require(cfg, figures.known(cfg.verb, settings), values, source)
    own = base.own([d.key for d in space], out) if cfg.config_first else None
    if own is not None and not all(d.contains(own[d.key]) for d in space):
        own = None
    return Plan(cfg, base, space, own, base.inputs(next(probes(space)), out))


def run(cfg: Search, source: str = "search") -> dict:
    """Do the search, or go on with it; returns what stands in its search.json."""
    plan = prepare(cfg, source)
    with opened(plan):
        found: dict = {}
        for number in range(cfg.trials):
            history = [t for t in trials.existing(plan.folder) if t.number < number]
            trial = trials.read(plan.folder, number)
            if trial is None or trial.state == "running":
                if trial is None and cfg.time_limit and sum(t.seconds for t in history) >= 60 * cfg.time_limit:
                    console.print(f"{cfg.time_limit:g} minutes are over; a higher time_limit goes on from here")
                    break
                trial = done(plan, trial or begun(plan, history, number), history)
                found = results.write(plan.folder, cfg, plan.base, plan.space)
        return found or results.write(plan.folder, cfg, plan.base, plan.space)


@contextmanager
def opened(plan: Plan) -> Iterator[None]:
    """The folder of the search, for this process alone and for these settings alone."""
    require_writable(plan.folder)
    lock = Lock(plan.folder / "lock")
    try:
        if not check_frozen(plan.folder, "search", plan.cfg, plan.inputs, FREE):
            freeze(plan.folder, "search", plan.cfg, plan.inputs, describe())
        yield
    finally:
        lock.release()


def begun(plan: Plan, history: list[Trial], number: int) -> Trial:
    """The next trial, written down before any work on it begins: whoever is killed then goes on with the same settings."""
    own = plan.own if number == 0 else None
    settings, remembered = suggest(plan.cfg, plan.space, history, number, own)
    trial = Trial(number, settings, "sampler" if own is None else "config", remembered)
    trials.save(plan.folder, trial)
    return trial


def done(plan: Plan, trial: Trial, history: list[Trial]) -> Trial:
    """The trial with what came of it, written down."""
    shown = "  ".join(f"{key}={value}" for key, value in trial.settings.items())
    console.print(Text.assemble((f"trial {trial.number}", "bold"), (f" of {plan.cfg.trials}  ", "dim"), shown), soft_wrap=True)
    folder = folder_of(plan.folder, trial.number)
    started = time.perf_counter()
    twin = next((t for t in history if t.settings == trial.settings and t.same_as is None), None)
    if twin:  # the same work would give the same figures
        ended = replace(twin, number=trial.number, origin=trial.origin, sampler=trial.sampler, same_as=twin.number, seconds=0.0)
    else:
        ended = attempted(plan, trial, folder, [folder_of(plan.folder, t.number) for t in history])
        ended = replace(ended, seconds=time.perf_counter() - started)
    trials.save(plan.folder, ended)
    if not plan.cfg.keep_checkpoints:
        for checkpoints in [*folder.glob("*/checkpoints"), *folder.glob("round-*/*/checkpoints")]:
            shutil.rmtree(checkpoints, ignore_errors=True)
    said = f"failed: {ended.reason}" if ended.state == "failed" else "  ".join(f"{k} {v:.4g}" for k, v in ended.values.items())
    console.print(Text.assemble((f"trial {trial.number}  ", "red" if ended.state == "failed" else "green"), said), soft_wrap=True)
    return ended


def attempted(plan: Plan, trial: Trial, folder: Path, peers: list[Path]) -> Trial:
    """Do the trial's work and read its figures.  A failure that its settings can have caused is noted, any other raised."""
    cfg = plan.cfg
    gc.collect()  # the models of a trial that failed may still hang in a cycle with its traceback
    try:
        summary = plan.base.work(trial.settings, folder, peers)
    except FAILURES as error:
        logger.warning("trial %d failed: %s", trial.number, error)
        said = error.found if isinstance(error, NonFiniteError) else f"{type(error).__name__}: {error}"
        return replace(trial, state="failed", reason=said)
    except HandrailError:
        console.print(f"trial {trial.number} ends the search here; with its cause mended, the same command goes on with it")
        raise
    read = {name: figures.read(summary, name) for name in (cfg.objectives | cfg.constraints)}
    if bad := [name for name, (value, _) in read.items() if not math.isfinite(value)]:
        return replace(trial, state="failed", reason=f"{', '.join(bad)}: not a finite number")
    intervals = {name: interval for name, (_, interval) in read.items() if interval}
    return replace(trial, state="complete", values={name: value for name, (value, _) in read.items()}, intervals=intervals)
