"""Trackers: asked for by name, imported only then, taken up again on resume."""

import importlib.util
import os
import subprocess
import sys

import pytest

from handrail.config import Settings
from handrail.errors import ConfigError
from handrail.track import Run, sinks


class Config(Settings):
    rate: float = 0.5


def opened(folder, *trackers: str) -> Run:
    return Run.open(folder, "toy", Config(), {}, save_every=2, trackers=trackers)


def steps(run: Run, first: int, stop: int) -> None:
    for step in range(first, stop):
        run.log(step, {"loss": float(step), "kind": "text"})
        if run.due(step):
            run.save(step + 1, {}, {})


def ends_well(*arguments: str) -> bool:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.run([sys.executable, *arguments], env=environment, check=False).returncode == 0


def test_the_room_needs_no_torch_and_no_pyarrow():
    code = "import sys, handrail.track; sys.exit(bool({'torch', 'pyarrow', 'tensorboard'} & sys.modules.keys()))"
    assert ends_well("-c", code)


def test_reading_a_run_needs_no_torch(tmp_path):
    with opened(tmp_path / "run") as run:
        steps(run, 0, 2)
        run.trace(1, {"id": [1]})
    code = (
        "import sys, handrail.track as t; view = t.read_run(sys.argv[1]); assert view.read_trace(1).num_rows == 1;"
        "sys.exit('torch' in sys.modules)"
    )
    assert ends_well("-c", code, str(tmp_path / "run"))


def test_a_missing_package_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(sinks.importlib.util, "find_spec", lambda name: None if name == "wandb" else real(name))
    with pytest.raises(ConfigError, match=r'pip install "handrail\[wandb\]"'):
        opened(tmp_path / "run", "wandb")
    with pytest.raises(ConfigError, match="no tracker 'tensorbord'"):
        opened(tmp_path / "run", "tensorbord")
    assert not (tmp_path / "run").exists()


def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with opened(tmp_path / "run", "tensorboard") as run:
        steps(run, 0, 5)
    with opened(tmp_path / "run", "tensorboard") as run:
        assert run.step == 4
        steps(run, 4, 7)
    events = EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(n, float(n)) for n in range(7)]


@pytest.mark.slow
def test_wandb_takes_the_same_run_up_again(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for _ in range(2):
        with opened(tmp_path / "run", "wandb") as run:
            steps(run, run.step, run.step + 3)
    names = [path.name for path in (tmp_path / "run/wandb").glob("offline-run-*")]
    assert names and len({name.rpartition("-")[2] for name in names}) == 1


@pytest.mark.slow
def test_mlflow_takes_the_same_run_up_again(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        with opened(tmp_path / "run", "mlflow") as run:
            steps(run, run.step, run.step + 3)
            identity = mlflow.active_run().info.run_id
    history = mlflow.MlflowClient().get_metric_history(identity, "loss")
    assert {(metric.step, metric.value) for metric in history} == {(n, float(n)) for n in range(5)}
    assert len(mlflow.search_runs(experiment_names=["handrail"])) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
