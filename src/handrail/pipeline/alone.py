"""One stage of a round by itself, from the round's file: what it needs is there, and what it must not touch stays."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from handrail.config import Settings, validate
from handrail.errors import ConfigError
from handrail.pipeline.records import given, made_from, provide
from handrail.pipeline.settings import Round, of_round, stage_settings
from handrail.pipeline.stages import Log, identity_of, noted
from handrail.recipes.progress import console


def by_itself(found: dict, name: str, config: Path, assignments: list[str]) -> Settings:
    """The settings of a stage of the first round, whose data is made where it is not there yet.

    Raises ConfigError where an earlier stage has not been done, with the command that does it, and whatever reading the
    data raises.
    """
    cfg = validate(Round, found, str(config))  # the data is that of the round, whatever is said of the stage
    stages = stage_settings(cfg, Path(cfg.out), name)[0]
    settings = of_round(found, name, config, assignments)
    require(settings, name, stages, config)
    log = Log(Path(cfg.out))
    before = noted(log.root / "round-1/data")
    if not before or not before["finished"]:
        provide(cfg, stages["reward"], log)
    elif before["identity"] != identity_of(made_from(cfg, stages["reward"]), given(cfg, stages["reward"])):
        console.print(f"[yellow]{log.root}/round-1/data was made from other settings or files than {config} now names.[/]", soft_wrap=True)
        console.print(f"[yellow]It is used as it is; `handrail run {config}` makes it anew.[/]", soft_wrap=True)
    return settings


def require(settings: Settings, name: str, stages: dict[str, Any], config: Path) -> None:
    """Raises ConfigError where the stage reads what another stage of its round is still to make."""
    read = set(texts(settings.model_dump()))
    missing = [other for other, stage in stages.items() if other != name and stage.out in read and not made(stage.out)]
    if missing:
        commands = ", then ".join(f"`handrail {other} {config}`" for other in missing)
        raise ConfigError(
            f"{name} begins from {' and '.join(stages[other].out for other in missing)}, where there is no model yet",
            "",
            f"{commands}; or `handrail run {config}`, which does every stage",
        )
    labels = Path(stages["reward"].data.path)
    if labels.name == "rankings.jsonl" and labels.parent.name == "labels" and str(labels) in read and not labels.exists():
        raise ConfigError(f"{name} learns from {labels}, which is not there yet", "", f"`handrail run {config}` asks for the labels")


def made(out: str) -> bool:
    """Whether the run in this folder has left its model."""
    return (Path(out) / "model/config.json").is_file()


def texts(value: Any) -> Iterator[str]:
    """Every text in settings."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from texts(inner)
    elif isinstance(value, str):
        yield value
