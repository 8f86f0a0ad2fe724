"""The rounds of a comparison, each in a process of its own, so that its memory is its own."""

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from handrail import pipeline
from handrail.compare.figures import Found, gather
from handrail.compare.settings import Comparison, place, round_of
from handrail.compare.yardstick import yardstick
from handrail.config import dump
from handrail.errors import ConfigError, HandrailError
from handrail.pipeline.settings import Round
from handrail.pipeline.stages import write
from handrail.recipes.progress import console, progress

FAILED = "failed.json"  # why a round could not be done


def run(cfg: Comparison, report: Callable[[Path, Path], Path]) -> Found:
    """All rounds that are not done yet, then the page; `report` writes it.  A round that fails is noted, and the others go on."""
    work = [(seed, name, round_of(cfg, seed, name)) for seed in cfg.seeds for name in cfg.methods]  # wrong keys are found first
    out = Path(cfg.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.yaml").write_text(dump(cfg), encoding="utf-8")
    context = multiprocessing.get_context("spawn")  # a process that is forked after torch has begun may hang
    threads = max(1, (os.cpu_count() or 1) // cfg.workers)
    with ProcessPoolExecutor(cfg.workers, mp_context=context, max_tasks_per_child=1) as pool:
        with progress("prepare", len(cfg.seeds)) as advance:
            firsts = [round_of(cfg, seed, next(iter(cfg.methods))) for seed in cfg.seeds]
            for done in as_completed([pool.submit(prepared, first, threads, cfg.best_of, cfg.prompts) for first in firsts]):
                if error := done.result():
                    raise ConfigError(f"what all methods start from cannot be made: {error}")
                advance(1, "")
        with progress("compare", len(work)) as advance:
            waiting = {}
            for seed, name, cfg_of_round in work:
                peers = [str(place(cfg, seed, other)) for other in cfg.methods if other != name]
                waiting[pool.submit(done_round, cfg_of_round, threads, peers)] = (seed, name)
            for done in as_completed(waiting):
                seed, name = waiting[done]
                failed = done.result()
                note(place(cfg, seed, name), failed)
                advance(1, f"{name}, seed {seed}: failed" if failed else f"{name}, seed {seed}")
                write(out / "compare.json", gather(cfg).to_json())
    found = gather(cfg)
    write(out / "compare.json", found.to_json())
    report(out, out / "report.html")
    return found


def note(folder: Path, failed: str) -> None:
    """Keep why a round failed, or forget it where it now has not."""
    if failed:
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / FAILED, {"reason": failed})
    else:
        (folder / FAILED).unlink(missing_ok=True)


def begin(threads: int) -> None:
    """What a process sets before its work."""
    import torch

    torch.set_num_threads(threads)
    console.quiet = True


def prepared(cfg: Round, threads: int, best_of: list[int], prompts: int) -> str:
    """Data, SFT, labels and reward model of a seed, and its yardstick; what went wrong, or nothing."""
    begin(threads)
    try:
        pipeline.prepare(cfg)
        if best_of:
            yardstick(cfg, best_of, prompts, Path(cfg.out).parent / "yardstick.json")
    except HandrailError as error:
        return str(error)
    except Exception as error:  # one method's fault is not the others'
        return f"{type(error).__name__}: {error}"
    return ""


def done_round(cfg: Round, threads: int, peers: list[str]) -> str:
    """A whole round; what went wrong, or nothing."""
    begin(threads)
    try:
        pipeline.run(cfg, [Path(peer) for peer in peers])
    except HandrailError as error:
        return str(error)
    except Exception as error:  # one method's fault is not the others'
        return f"{type(error).__name__}: {error}"
    return ""
