"""What the doctor says of each run of a report."""

from typing import Any

from handrail.doctor import UPPER, examine, verdict
from handrail.inspector.curves import TITLES
from handrail.inspector.folders import Round
from handrail.inspector.replies import visible
from handrail.track import read_run


def health(found: Round) -> list[dict[str, Any]]:
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
                {
                    "title": TITLES[run.kind] + (f", round {part.number}" if len(found.parts) > 1 else ""),
                    "well": not any(f.severity in UPPER for f in findings),
                    "sentences": [visible(sentence) for sentence in said.sentences],
                    "findings": [(f, visible(f.evidence)) for f in findings],
                    "next": [visible(step) for step in said.next],
                }
            )
    return seen
