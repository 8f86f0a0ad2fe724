"""The command that every trial is, apart from its values."""

import hashlib
import json
import logging
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handrail import pipeline
from handrail.config import Settings, override, read_yaml, validate
from handrail.errors import ConfigError
from handrail.pipeline.settings import SCHEMAS, Round, is_round, of_round, stage_settings
from handrail.recipes import best_of_n, dpo, evaluate, ppo, reinforce, relaxed, reward, sft
from handrail.recipes.parts import fingerprint, source_of
from handrail.search.settings import Search

logger = logging.getLogger(__name__)

TRAINING = {"sft": sft, "reward": reward, "ppo": ppo, "reinforce": reinforce, "best_of_n": best_of_n, "dpo": dpo, "relaxed": relaxed}
NAMING = ("path", "model", "reward", "function", "monitor")  # settings whose text may name a file


def trained(recipe: Any) -> Callable[[Any, Sequence[Path]], dict]:
    """A verb that trains, by its recipe."""
    return lambda cfg, peers: recipe.run(cfg).summary or {}


WORK: dict[str, Callable[[Any, Sequence[Path]], dict]] = {  # what each verb does; the rounds beside it may have done a stage
    "run": pipeline.run,
    **{verb: trained(recipe) for verb, recipe in TRAINING.items()},
    "evaluate": lambda cfg, peers: evaluate.run(cfg),
}


@dataclass(frozen=True)
class Base:
    """`handrail VERB CONFIG` with what is fixed; the values of a trial make it whole."""

    verb: str
    config: Path
    found: dict[str, Any]
    fixed: dict[str, Any]

    def settings(self, values: dict[str, Any], out: Path) -> Settings:
        """The settings of a trial.  Raises ConfigError where they cannot be."""
        given = [f"{key}={plain(value)}" for key, value in (self.fixed | values | {"out": str(out)}).items()]
        if self.verb == "run":
            cfg = validate(Round, override(self.found, given), str(self.config))
            stage_settings(cfg, out)  # sections are checked there
            return cfg
        if is_round(self.found):
            return of_round(self.found, self.verb, self.config, given)
        section = self.found.get(self.verb)
        return validate(SCHEMAS[self.verb], override(section if isinstance(section, dict) else self.found, given), str(self.config))

    def work(self, values: dict[str, Any], folder: Path, peers: Iterable[Path]) -> dict:
        """Do the trial in its folder, or go on with it; returns its summary."""
        cfg = self.settings(values, self.place(folder))
        return WORK[self.verb](cfg, [*peers, *self.done_before()])

    def done_before(self) -> list[Path]:
        """The round that the config itself describes, if it has been begun: its stages need not be done again."""
        out = Path(self.found.get("out") or Round.model_fields["out"].default) if self.verb == "run" else None
        return [out] if out and out.is_dir() else []

    def own(self, keys: Iterable[str], out: Path) -> dict[str, Any] | None:
        """The config's own values of these keys, or None where it does not hold without the space's."""
        try:
            cfg = self.settings({}, out)
        except ConfigError as error:
            logger.info("the config alone is not valid, so the first trial is a suggestion: %s", error.found)
            return None
        whole = cfg.model_dump(mode="json")
        if isinstance(cfg, Round):
            whole |= {name: stage.model_dump(mode="json") for name, stage in stage_settings(cfg, out)[0].items()}
        return {key: at(whole, key) for key in keys}

    def command(self, values: dict[str, Any]) -> str:
        """What to type for a trial with these values, in a shell."""
        return f"handrail {self.verb} {shlex.quote(str(self.config))} {assignments(self.fixed | values)}"

    def again(self, values: dict[str, Any], out: str) -> str:
        """What to type for the same values with another seed."""
        cfg = self.settings(values, Path(out))
        return self.command(values | {"seed": cfg.seed + 1, "out": out})  # type: ignore[attr-defined]

    def place(self, folder: Path) -> Path:
        """Where in a trial's folder its command works: a whole round fills the folder, a stage has one in it."""
        return folder if self.verb == "run" else folder / self.verb

    def model(self, values: dict[str, Any], folder: Path) -> str | None:
        """The run folder with the policy that a trial has trained, if it has trained one."""
        cfg = self.settings(values, self.place(folder))
        made = folder / f"round-{cfg.rounds}" / cfg.method if isinstance(cfg, Round) else self.place(folder)
        return str(made) if (made / "model").is_dir() and self.verb != "reward" else None

    def inputs(self, values: dict[str, Any], out: Path) -> dict[str, str]:
        """Hashes of the config and of every file and folder that it names."""
        text = json.dumps(self.found, sort_keys=True, default=str)
        found = {"config": hashlib.sha256(text.encode()).hexdigest()}
        for key, value in named(self.settings(values, out).model_dump(mode="json")):
            if not value.startswith(f"{out}/"):
                found[key] = source_of(value) if ".py:" in value else fingerprint(value)
        return found


def named(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, text) of the settings that name something outside the config."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from named(value, f"{prefix}{key}.")
        elif key in NAMING and isinstance(value, str) and value:
            yield f"{prefix}{key}", value


def read_base(cfg: Search) -> Base:
    """Raises ConfigError where the config cannot be read."""
    return Base(cfg.verb, Path(cfg.config), read_yaml(cfg.config), cfg.fixed)


def assignments(values: dict[str, Any]) -> str:
    """The values as key=value, ready for a shell."""
    return " ".join(shlex.quote(f"{key}={plain(value)}") for key, value in values.items())


def plain(value: Any) -> str:
    """The value as it stands after key=, which is read as YAML: text as it is where nothing else could be meant."""
    if isinstance(value, str) and value and override({}, [f"x={value}"])["x"] == value:
        return value
    return json.dumps(value, ensure_ascii=False)


def at(tree: Any, key: str) -> Any:
    """The value of a dotted key, None where there is none."""
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree
