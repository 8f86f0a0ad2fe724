"""The figures of a summary that can be sought or limited: which there will be, and how each is read."""

import difflib
import math
from pathlib import Path
from typing import Any

from handrail.config import Settings
from handrail.errors import ConfigError
from handrail.pipeline.settings import Round, stage_settings
from handrail.recipes.evaluate import Evaluate, whole
from handrail.search.settings import Search

ONLINE = ["reward", "kl", "length", "ended", "entropy"]
TRAINED = {  # what stands in the summary of each training verb
    "sft": ["eval_loss"],
    "reward": ["accuracy", "calibration_error"],
    "ppo": [*ONLINE, "explained_variance", "approx_kl", "clip_fraction", "value_loss"],
    "reinforce": [*ONLINE, "explained_variance", "approx_kl"],
    "best_of_n": ["reward", "kl", "length", "loss"],
    "dpo": ["margin", "accuracy", "loss"],
    "relaxed": [*ONLINE, "reward_relaxed"],
}
PARTS = ("parts_before.", "parts_after.")  # a judge's own, known only when it has judged


def read(summary: dict[str, Any], name: str) -> tuple[float, list[float] | None]:
    """(the figure, its interval) by name; NaN where it is no number.  Raises ConfigError where the summary does not have it.

    A share stands in the summary with its interval, a score with its standard deviation: their value or mean is the figure.
    """
    found: Any = summary
    for part in name.split(".", 1):
        if not isinstance(found, dict) or part not in found:
            raise ConfigError(f"the summary of the trial has no figure '{name}'", f"one of {', '.join(summary)}")
        found = found[part]
    interval = None
    if isinstance(found, dict):
        interval = [found["low"], found["high"]] if {"low", "high"} <= found.keys() else None
        found = found.get("value", found.get("mean"))
    number = isinstance(found, int | float) and not isinstance(found, bool)
    return (float(found) if number else math.nan), interval


def known(verb: str, cfg: Settings) -> list[str]:
    """The names of the figures that a trial with these settings will have."""
    if isinstance(cfg, Round):
        return [*of_evaluation(stage_settings(cfg, Path(cfg.out))[-1]["evaluate"]), "reward_accuracy"]
    if isinstance(cfg, Evaluate):
        return of_evaluation(cfg)
    watched = ["gold"] if getattr(getattr(cfg, "reward", None), "monitor", "") or getattr(cfg, "monitor", "") else []
    return [*watched, *TRAINED[verb]]


def of_evaluation(cfg: Evaluate) -> list[str]:
    """Those of an evaluation's summary."""
    names = ["win_rate", "control", "length_ratio"]
    names += ["kl"] if whole(cfg.sampling) and whole(cfg.sampling_before or cfg.sampling) else []
    paired = ["length", "ended", "distinct", "repetition"]
    paired += ["gold"] * bool(cfg.function) + ["reward"] * bool(cfg.reward) + ["rouge", "bleu"] * bool(cfg.references)
    return names + ["reward_win_rate"] * bool(cfg.reward) + [f"{name}_{when}" for name in paired for when in ("after", "before")]


def require(search: Search, names: list[str], values: dict[str, Any], source: str) -> None:
    """Raises ConfigError for an objective or a constraint that a trial with these values would not have."""
    for group, wanted in (("objectives", search.objectives), ("constraints", search.constraints)):
        for name in wanted:
            if name in names or name.startswith(PARTS):
                continue
            if name == "kl" and search.verb in ("run", "evaluate"):
                raise ConfigError(
                    f"{source}: {group}.kl: of filtered or greedy responses no divergence can be told, and there would be such with "
                    + ", ".join(f"{key}={value}" for key, value in values.items()),
                    "a temperature above 0, top_k 0 and top_p 1, or another figure: win_rate, reward_after, length_after, distinct_after",
                )
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"figures of `handrail {search.verb}` here: {', '.join(names)}"
            raise ConfigError(f"{source}: {group}.{name}: there will be no such figure", hint)
