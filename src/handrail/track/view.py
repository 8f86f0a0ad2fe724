"""The read side: a run folder as data, for reports and pages.  Nothing here needs torch or writes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handrail.config import read_yaml
from handrail.errors import ConfigError
from handrail.track.frozen import CONFIG, INPUTS, read_environment, read_inputs
from handrail.track.metrics import read_lines
from handrail.track.traces import read_trace, trace_steps

if TYPE_CHECKING:
    import pyarrow

PREFLIGHT, FINDINGS = "preflight.json", "findings.jsonl"


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
    preflight: dict[str, float] = field(default_factory=dict)  # what was measured before the first step
    findings: list[dict[str, Any]] = field(default_factory=list, repr=False)  # what was found while it went on

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

    def read_trace(self, step: int, columns: Sequence[str] | None = None) -> "pyarrow.Table":
        """The responses sampled at `step`, a row each; all columns, or those of `columns` that there are."""
        return read_trace(self.folder / "tokens", step, columns)


def read_run(folder: str | Path, before: RunView | None = None) -> RunView:
    """The run in `folder`.  Raises ConfigError if there is none.

    Args: before, an earlier view of the same run; what never changes is taken from it.
    """
    folder = Path(folder)
    if before is not None:
        return replace(
            before,
            metrics=read_lines(folder / "metrics.jsonl"),
            timing=read_lines(folder / "timing.jsonl"),
            traces=trace_steps(folder / "tokens"),
            summary=read_summary(folder),
            preflight=read_preflight(folder),
            findings=read_lines(folder / FINDINGS),
        )
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
        preflight=read_preflight(folder),
        findings=read_lines(folder / FINDINGS),
    )


def read_preflight(folder: Path) -> dict[str, float]:
    """What was measured before the first step, by name; empty where nothing was."""
    path = folder / PREFLIGHT
    return json.loads(path.read_bytes()) if path.exists() else {}


def read_summary(folder: Path) -> dict[str, Any] | None:
    """What the run ended with, or None while it has not ended."""
    path = folder / "summary.json"
    return json.loads(path.read_bytes()) if path.exists() else None
