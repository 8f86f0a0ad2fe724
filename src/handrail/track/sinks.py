"""Other programs that may follow a run: TensorBoard, Weights & Biases, MLflow; imported only when asked for."""

import importlib.util
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from handrail.errors import ConfigError
from handrail.track.storage import write_atomically

Tracker = Literal["tensorboard", "wandb", "mlflow"]
PROJECT = "handrail"
_IDENTITIES = "trackers.json"


class Sink(Protocol):
    """Something that takes the metrics of each step."""

    def log(self, step: int, metrics: dict[str, float | int | str]) -> None: ...

    def flush(self) -> None: ...

    def close(self, finished: bool) -> None: ...


class TensorBoard:
    """Event files under `tensorboard/`; on resume what came at or after `step` is purged."""

    def __init__(self, folder: Path, step: int, config: dict[str, Any]):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step)

    def log(self, step: int, metrics: dict[str, float | int | str]) -> None:
        for name, value in _numbers(metrics).items():
            self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        self._writer.flush()

    def close(self, finished: bool) -> None:
        self._writer.close()


class WeightsAndBiases:
    """One W&B run for a run folder, taken up again on resume; `WANDB_MODE=offline` works without a network."""

    def __init__(self, folder: Path, step: int, config: dict[str, Any]):
        import wandb

        known = _identity(folder, "wandb")
        again: Literal["allow"] | None = "allow" if known else None
        self._run = wandb.init(project=PROJECT, name=folder.name, dir=str(folder), id=known, resume=again, config=config)
        _remember(folder, "wandb", self._run.id)

    def log(self, step: int, metrics: dict[str, float | int | str]) -> None:
        self._run.log(metrics, step=step)

    def flush(self) -> None:
        """W&B sends from a process of its own."""

    def close(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


class MLflow:
    """One MLflow run for a run folder, in the store that `MLFLOW_TRACKING_URI` names, else in the folder itself."""

    def __init__(self, folder: Path, step: int, config: dict[str, Any]):
        import mlflow

        self._mlflow = mlflow
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            mlflow.set_tracking_uri(f"sqlite:///{folder.resolve() / 'mlflow.db'}")
            if mlflow.get_experiment_by_name(PROJECT) is None:
                # Else MLflow would put files into `mlruns` of wherever the command was typed.
                mlflow.create_experiment(PROJECT, artifact_location=(folder.resolve() / "mlflow").as_uri())
        mlflow.set_experiment(PROJECT)
        known = _identity(folder, "mlflow")
        run = mlflow.start_run(run_id=known) if known else mlflow.start_run(run_name=folder.name)
        if not known:
            mlflow.log_dict(config, "config.json")
        _remember(folder, "mlflow", run.info.run_id)

    def log(self, step: int, metrics: dict[str, float | int | str]) -> None:
        self._mlflow.log_metrics(_numbers(metrics), step=step)

    def flush(self) -> None:
        """Each call of MLflow writes by itself."""

    def close(self, finished: bool) -> None:
        self._mlflow.end_run("FINISHED" if finished else "KILLED")


_KINDS: dict[str, tuple[Callable[[Path, int, dict[str, Any]], Sink], tuple[str, ...], str]] = {
    "tensorboard": (TensorBoard, ("torch", "tensorboard"), "pip install tensorboard"),
    "wandb": (WeightsAndBiases, ("wandb",), 'pip install "handrail[wandb]"'),
    "mlflow": (MLflow, ("mlflow",), 'pip install "handrail[mlflow]"'),
}


def require_trackers(trackers: Sequence[str]) -> None:
    """Raises ConfigError for a tracker that is unknown or whose package is not installed."""
    for name in trackers:
        if name not in _KINDS:
            raise ConfigError(f"trackers: there is no tracker '{name}'", f"one of {', '.join(_KINDS)}")
        _, packages, install = _KINDS[name]
        missing = [package for package in packages if importlib.util.find_spec(package) is None]
        if missing:
            raise ConfigError(f"trackers: '{name}' needs the package {missing[0]}, which is not installed", "", install)


def open_sinks(trackers: Sequence[str], folder: Path, step: int, config: dict[str, Any]) -> list[Sink]:
    """The sinks that `trackers` names, ready to log `step` next."""
    return [_KINDS[name][0](folder, step, config) for name in trackers]


def _numbers(metrics: dict[str, float | int | str]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if not isinstance(value, str)}


def _identity(folder: Path, tracker: str) -> str | None:
    path = folder / _IDENTITIES
    return json.loads(path.read_bytes()).get(tracker) if path.exists() else None


def _remember(folder: Path, tracker: str, identity: str) -> None:
    path = folder / _IDENTITIES
    known = json.loads(path.read_bytes()) if path.exists() else {}
    write_atomically(path, json.dumps(known | {tracker: identity}).encode())
