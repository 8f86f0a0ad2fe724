"""Which settings come next, by Optuna.

The sampler lives for one suggestion.  Its seed follows from the search's and the trial's number, and what it knows are
the trials before this one as they stand on the disk.  A search that was interrupted therefore suggests what it would
have suggested.
"""

import importlib.util
import json
import warnings
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from handrail.errors import ConfigError
from handrail.recipes.parts import derive
from handrail.search.settings import Search
from handrail.search.space import Choice, Dimension
from handrail.search.trials import Trial

if TYPE_CHECKING:
    import optuna

FEWEST = 8  # complete trials from which on an importance is more than chance
GENERATION = ":generation"  # what a genetic algorithm remembers of a trial


def require_optuna() -> None:
    """Raises ConfigError where it is not installed."""
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError("the package optuna is not installed", "", 'pip install "handrail[search]"')


def suggest(
    cfg: Search, space: list[Dimension], history: Sequence[Trial], number: int, own: dict[str, Any] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(settings, what the sampler remembers of them) for trial `number`; `own` are the values to take instead, if given.

    The sampler is asked in either case: a genetic algorithm counts only trials that it gave to a generation.
    """
    study = rebuilt(cfg, space, history, number)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Optuna calls experimental is chosen on purpose
        asked = study.ask({d.key: distribution(d) for d in space})
    remembered = {k: v for k, v in study.trials[-1].system_attrs.items() if k.endswith(GENERATION)}
    return own or {d.key: outward(d, asked.params[d.key]) for d in space}, remembered


def rebuilt(cfg: Search, space: list[Dimension], history: Sequence[Trial], number: int) -> "optuna.Study":
    """A study in memory that has seen the trials of `history`."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ways = {"maximise": optuna.study.StudyDirection.MAXIMIZE, "minimise": optuna.study.StudyDirection.MINIMIZE}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study(directions=[ways[d] for d in cfg.objectives.values()], sampler=sampler(cfg, number))
    for trial in history:
        study.add_trial(frozen(cfg, space, trial))
    return study


def frozen(cfg: Search, space: list[Dimension], trial: Trial) -> "optuna.trial.FrozenTrial":
    """A trial that has ended, as Optuna has it."""
    from optuna.trial import TrialState, create_trial

    complete = trial.state == "complete"
    excess = {name: limit.excess(trial.values[name]) for name, limit in cfg.constraints.items() if complete}
    return create_trial(
        # A failed trial has no values.  Called failed, the samplers would leave it out; called pruned, TPE counts it as bad.
        state=TrialState.COMPLETE if complete else TrialState.PRUNED,
        values=[trial.values[name] for name in cfg.objectives] if complete else None,
        params={d.key: inward(d, trial.settings[d.key]) for d in space},
        distributions={d.key: distribution(d) for d in space},
        system_attrs=trial.sampler,
        constraints={f"{name}.{side}": x for name, sides in excess.items() for side, x in enumerate(sides)},
    )


def sampler(cfg: Search, number: int) -> "optuna.samplers.BaseSampler":
    """The sampler that the config names, with the seed of this trial."""
    from optuna.samplers import NSGAIISampler, RandomSampler, TPESampler

    seed = derive(cfg.seed, "suggest", number) % 2**32
    if cfg.sampler == "tpe":
        return TPESampler(seed=seed, n_startup_trials=cfg.startup)
    return NSGAIISampler(seed=seed, population_size=cfg.population) if cfg.sampler == "nsga2" else RandomSampler(seed=seed)


def distribution(d: Dimension) -> Any:
    """The dimension as Optuna has it.  A choice goes by its JSON, so that it may be a list or a mapping."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(d, Choice):
        return CategoricalDistribution([json.dumps(value) for value in d.values])
    if d.whole:
        return IntDistribution(int(d.low), int(d.high), log=d.log, step=int(d.step or 1))
    return FloatDistribution(d.low, d.high, log=d.log, step=d.step)


def inward(d: Dimension, value: Any) -> Any:
    return json.dumps(value) if isinstance(d, Choice) else value


def outward(d: Dimension, value: Any) -> Any:
    return json.loads(value) if isinstance(d, Choice) else d.tidy(value)


def importance(cfg: Search, space: list[Dimension], history: Sequence[Trial]) -> dict[str, dict[str, float]]:
    """For each objective the share of each setting in how it varies (PED-ANOVA); empty where too few trials tell."""
    from optuna.importance import get_param_importances

    complete = [t for t in history if t.state == "complete"]
    found: dict[str, dict[str, float]] = {}
    if len(complete) < FEWEST or len(space) < 2:
        return found
    study = rebuilt(cfg, space, complete, 0)
    for place, name in enumerate(cfg.objectives):
        if len({t.values[name] for t in complete}) > 1:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found[name] = get_param_importances(study, target=partial(objective, place))
    return found


def objective(place: int, trial: "optuna.trial.FrozenTrial") -> float:
    return trial.values[place]
