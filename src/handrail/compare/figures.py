"""What came of each method, over the seeds."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from handrail.compare.settings import Comparison, place, round_of, sampled

# Two-sided 95 % quantiles of Student's t for 1 .. 10 degrees of freedom; beyond, that of the normal law is near.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True)
class Mean:
    """A mean over seeds with its 95 % interval; of one seed there is none."""

    value: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, values: list[float]) -> "Mean":
        mean = fmean(values)
        if len(values) < 2:
            return cls(mean, None, None)
        quantile = STUDENT[len(values) - 2] if len(values) - 2 < len(STUDENT) else 1.96
        half = quantile * stdev(values) / math.sqrt(len(values))
        return cls(mean, mean - half, mean + half)


@dataclass(frozen=True)
class Row:
    """A method: its figures over the seeds that are done, each None where none is."""

    name: str
    method: str
    settings: dict[str, Any]
    responses: int  # sampled to learn from
    done: int
    failed: list[dict[str, Any]]  # seed and reason
    figures: dict[str, Mean]  # gain, score, kl, length_ratio, win_rate, seconds, memory_mib
    seeds: list[dict[str, Any]]  # the same of each seed


@dataclass(frozen=True)
class Found:
    """A comparison: the methods, the yardstick, and what the score is."""

    title: str
    score: str  # gold, or reward where no judge knows better
    before: Mean | None
    seeds: list[int]
    rows: list[Row]
    yardstick: list[dict[str, Any]]  # n, kl, score over the seeds

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def gather(cfg: Comparison) -> Found:
    """From the files of the rounds that are done."""
    score = "gold"
    rows, before = [], {}
    for name, keys in cfg.methods.items():
        seeds, failed, cfg_of_round = [], [], round_of(cfg, cfg.seeds[0], name)
        for seed in cfg.seeds:
            folder = place(cfg, seed, name)
            summary, why = read(folder / "summary.json"), read(folder / "failed.json")
            if summary and not why:
                score = "gold" if "gold_after" in summary else "reward"
                seeds.append(figures(folder, seed, cfg_of_round.method, summary, score))
                before[seed] = seeds[-1]["score"] - seeds[-1]["gain"]
            elif why:
                failed.append({"seed": seed, "reason": why["reason"]})
        names = [key for key in seeds[0] if key != "seed"] if seeds else []
        means = {key: Mean.of([s[key] for s in seeds if s[key] is not None]) for key in names if any(s[key] is not None for s in seeds)}
        rows.append(Row(name, cfg_of_round.method, keys, sampled(cfg_of_round), len(seeds), failed, means, seeds))
    start = Mean.of(list(before.values())) if before else None
    return Found(cfg.title or Path(cfg.out).name, score, start, cfg.seeds, rows, measured(cfg, score))


def figures(folder: Path, seed: int, method: str, summary: dict[str, Any], score: str) -> dict[str, Any]:
    """What a round's summary says, and the time and memory of what the method alone needs."""
    of = {side: summary[f"{score}_{side}"] for side in ("before", "after")}
    values = {side: float(x["mean"] if isinstance(x, dict) else x) for side, x in of.items()}
    stages = [stage for stage in read(folder / "round.json").get("stages", []) if own(stage, method)]
    timings = [folder.joinpath(*Path(stage["folder"]).parts[-2:]) / "timing.jsonl" for stage in stages]
    peaks = [memory(json.loads(line)) for timing in timings if timing.is_file() for line in timing.read_text().splitlines()]
    return {
        "seed": seed,
        "gain": values["after"] - values["before"],
        "score": values["after"],
        "kl": summary.get("kl"),
        "win_rate": summary["win_rate"]["value"],
        "length_ratio": summary["length_ratio"],
        "seconds": sum(stage["seconds"] for stage in stages) if stages else None,
        "memory_mib": max(peaks) if peaks else None,
    }


def own(stage: dict[str, Any], method: str) -> bool:
    """Whether the method alone needs a stage: its own one in every round, and after the first also what leads to it."""
    return stage["name"] == method or (stage["name"] != "evaluation" and Path(stage["folder"]).parent.name != "round-1")


def memory(line: dict[str, Any]) -> float:
    """The peak of a step, of the device where there is one."""
    return float(line.get("device_mib", line.get("memory_mib", 0.0)))


def measured(cfg: Comparison, score: str) -> list[dict[str, Any]]:
    """The yardstick's rows: n, kl, and the score over the seeds."""
    files = [one for seed in cfg.seeds if cfg.best_of and (one := read(place(cfg, seed) / "yardstick.json"))]
    found: dict[int, list[dict[str, Any]]] = {}
    for row in (row for f in files for row in f["rows"] if row["n"] in (1, *cfg.best_of)):
        found.setdefault(row["n"], []).append(row)
    whole = {n: rows for n, rows in sorted(found.items()) if len(rows) == len(files)}
    return [{"n": n, "kl": rows[0]["kl"], "score": asdict(Mean.of([r[score] for r in rows]))} for n, rows in whole.items()]


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
