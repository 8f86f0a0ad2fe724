"""The read side: a run folder as data, for reports and pages.  Nothing here needs torch or writes."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handrail.config import read_yaml
from handrail.errors import ConfigError
from handrail.track.frozen import CONFIG, INPUTS, read_environment, read_inputs
from handrail.track.metrics import read_lines
from handrail.track.traces import read_trace, trace_steps

if TYPE_CHECKING:
    import pyarrow


@dataclass(frozen=True, slots=True)
class RunView:
    """What stands in a run folder at one moment; the run may still be going on."""

    folder: Path
    stage: str
    config: dict[str, Any]
    environment: dict[str, Any]
    inputs: dict[str, str]
    metrics: list[dict[str, Any]] = field(repr=False)  # a line a step, in order
    timing: list[dict[str, Any]] = field(repr=False)
    traces: list[int]  # steps that have a trace
    summary: dict[str, Any] | None

    @property
    def finished(self) -> bool:
        return self.summary is not None

    @property
    def names(self) -> list[str]:
        """Every metric that occurs, in the order of its first occurrence."""
        return list(dict.fromkeys(name for line in self.metrics for name in line if name != "step"))

    def column(self, name: str) -> tuple[list[int], list[Any]]:
        """(steps, values) of one metric, where it was logged."""
        found = [(line["step"], line[name]) for line in self.metrics if name in line]
        return [step for step, _ in found], [value for _, value in found]

    def read_trace(self, step: int) -> "pyarrow.Table":
        """The responses sampled at `step`, a row each."""
        return read_trace(self.folder / "tokens", step)


def read_run(folder: str | Path) -> RunView:
    """The run in `folder`.  Raises ConfigError if there is none."""
    folder = Path(folder)
    if not (folder / CONFIG).exists() or not (folder / INPUTS).exists():
        raise ConfigError(f"{folder}: there is no run here", f"a run folder has {CONFIG} and {INPUTS}", "give the folder of a run")
    started = read_inputs(folder)
    return RunView(
        folder=folder,
        stage=started["stage"],
        config=read_yaml(folder / CONFIG),
        environment=read_environment(folder),
        inputs=started["inputs"],
        metrics=read_lines(folder / "metrics.jsonl"),
        timing=read_lines(folder / "timing.jsonl"),
        traces=trace_steps(folder / "tokens"),
        summary=read_summary(folder),
    )


def read_summary(folder: Path) -> dict[str, Any] | None:
    """What the run ended with, or None while it has not ended."""
    path = folder / "summary.json"
    return json.loads(path.read_bytes()) if path.exists() else None
