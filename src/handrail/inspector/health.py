"""What the doctor says of each run of a report."""

from dataclasses import dataclass
from pathlib import Path

from handrail.doctor import UPPER, Finding, examine, verdict
from handrail.inspector.curves import TITLES
from handrail.inspector.folders import Round
from handrail.inspector.replies import visible
from handrail.inspector.svg import Mark
from handrail.track import read_run

COLOURS = {"sick": "bad", "warning": "warn"}


@dataclass(frozen=True)
class Health:
    """A run's verdict and its findings, which have the numbers that stand at their step on its curves."""

    folder: Path
    title: str
    well: bool
    sentences: list[str]
    findings: list[tuple[Finding, str]]  # with what it has seen
    next: list[str]

    @property
    def marks(self) -> list[Mark]:
        """Where on the curves each finding began to hold."""
        return [
            Mark(finding.first, str(number), f"{number}: {finding.title}, from step {finding.first}", COLOURS.get(finding.severity, "info"))
            for number, (finding, _) in enumerate(self.findings, 1)
        ]


def health(found: Round) -> list[Health]:
    """For each run folder its verdict and its findings, those of the policy first."""
    seen = []
    for part in found.parts:
        for run in sorted(part.runs, key=lambda r: r.kind in ("sft", "reward")):
            if not (run.folder / "inputs.json").is_file() or not (run.folder / "config.yaml").is_file():
                continue
            view = read_run(run.folder)
            findings = examine(view)
            said = verdict(view, findings)
            seen.append(
                Health(
                    folder=run.folder,
                    title=TITLES[run.kind] + (f", round {part.number}" if len(found.parts) > 1 else ""),
                    well=not any(f.severity in UPPER for f in findings),
                    sentences=[visible(sentence) for sentence in said.sentences],
                    findings=[(f, visible(f.evidence)) for f in findings],
                    next=[visible(step) for step in said.next],
                )
            )
    return seen
