"""What a run was started with.  It is written once; the same folder takes nothing else."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from handrail.config import Settings, dump, read_yaml
from handrail.errors import ConfigError
from handrail.track.storage import write_atomically

CONFIG, INPUTS, ENVIRONMENT = "config.yaml", "inputs.json", "environment.json"
_NOT_SET = "not set"


def check_frozen(folder: Path, stage: str, config: Settings, inputs: dict[str, str], free: frozenset[str]) -> bool:
    """True if the folder holds this very run, False if it holds none.  Raises ConfigError if it holds another.

    `free` names keys that do not change results, such as how often to save; they may differ.
    """
    if not (folder / CONFIG).exists() or not (folder / INPUTS).exists():
        return False
    stored = read_inputs(folder)
    if stored["stage"] != stage:
        raise _another(folder, [f"stage: {stored['stage']} -> {stage}"])
    differing = _differences(read_yaml(folder / CONFIG), config.model_dump(mode="json"), free)
    differing += [f"input {line}" for line in _differences(stored["inputs"], inputs, frozenset())]
    if differing:
        raise _another(folder, differing)
    return True


def freeze(folder: Path, stage: str, config: Settings, inputs: dict[str, str], environment: dict[str, Any]) -> None:
    """Write down what the run is started with."""
    write_atomically(folder / ENVIRONMENT, _json(environment))
    write_atomically(folder / INPUTS, _json({"stage": stage, "inputs": inputs}))
    write_atomically(folder / CONFIG, dump(config).encode())


def read_inputs(folder: Path) -> dict[str, Any]:
    """{"stage": ..., "inputs": {name: hash}} of a run folder."""
    return json.loads((folder / INPUTS).read_bytes())


def read_environment(folder: Path) -> dict[str, Any]:
    path = folder / ENVIRONMENT
    return json.loads(path.read_bytes()) if path.exists() else {}


def _json(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode()


def _another(folder: Path, differing: list[str]) -> ConfigError:
    lines = "\n".join(f"  {line}" for line in differing)
    return ConfigError(
        f"{folder} holds a run that was started otherwise (then -> now):\n{lines}",
        "a run folder belongs to one config and one set of inputs",
        "give another folder with out=..., take the old values, or remove this folder to start it anew",
    )


def _differences(old: dict[str, Any], new: dict[str, Any], free: frozenset[str]) -> list[str]:
    before, after = dict(_leaves(old)), dict(_leaves(new))
    keys = [key for key in before | after if not _is_free(key, free)]
    return [f"{key}: {_show(before, key)} -> {_show(after, key)}" for key in keys if _show(before, key) != _show(after, key)]


def _is_free(key: str, free: frozenset[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in free)


def _show(leaves: dict[str, Any], key: str) -> str:
    return json.dumps(leaves[key], ensure_ascii=False) if key in leaves else _NOT_SET


def _leaves(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
