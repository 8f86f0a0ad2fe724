"""The doctor while a run goes on: looks now and then, says what is new, and may ask the run to stop."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from handrail.doctor.case import Trace
from handrail.doctor.examine import examine
from handrail.doctor.finding import SEVERITIES, UPPER, Finding, Severity
from handrail.track import Run, read_run

logger = logging.getLogger(__name__)

Watch = Literal["watch", "stop", "off"]
DENSE = 16  # steps at first, of which each is looked at


def looks_at(step: int) -> bool:
    """Whether the doctor looks after `step`: after each at first, then after every 2nd, 4th, 8th ...

    So no look is later than a sixteenth of the run, and a long run is looked at some hundred times and no more.
    """
    return (step + 1) % max(1, 2 ** ((step + 1).bit_length() - DENSE.bit_length())) == 0


class Attendant:
    """Attends a run: what it finds stands in `findings.jsonl`, each finding once, and once more where it becomes worse.

    It reads the run folder alone, and of it only what comes out the same whenever a step is done again: a resumed run has
    the same findings.  Seconds and memory are left to `handrail doctor`.
    """

    def __init__(self, run: Run, mode: Watch, tell: Callable[[str], None]):
        """Args: tell, says a line to whoever started the run."""
        self.run, self.mode, self.tell = run, mode, tell
        self.view = replace(read_run(run.folder), timing=[])
        self.traces: dict[int, Trace] = {}
        self.ill = False  # whether a look has failed
        self.known: dict[str, Severity] = {}  # the worst that was said of each
        for line in self.view.findings:
            self.known[line["name"]] = min(line["severity"], self.known.get(line["name"], "note"), key=SEVERITIES.index)

    def __call__(self, step: int, last: bool) -> str:
        """After `step`: look, if it is time.  Returns why the run should stop, "" if it should not."""
        if not (last or looks_at(step)):
            return ""
        try:
            now = replace(read_run(self.run.folder, self.view), timing=[])
            found = examine(now, self.traces)
        except Exception as error:  # a doctor that falls ill must not take the run with it
            self._ill(step, error)
            return ""
        new = news(found, self.known)
        for finding in new:
            self.run.found(step, finding.json())
            if finding.severity in UPPER:
                self.tell(line(finding, self.run.folder.name))
        return next((line(f, self.run.folder.name) for f in new if f.severity == "sick" and self.mode == "stop"), "")

    def _ill(self, step: int, error: Exception) -> None:
        """Say once that the run goes on unwatched, with the traceback in its log; later looks may succeed again."""
        if not self.ill:
            self.tell(f"could not look at step {step}, and the run goes on unwatched ({type(error).__name__}: {error}); more in log.txt")
            logger.error("the doctor could not look at step %d", step, exc_info=error)
        self.ill = True


def news(found: list[Finding], known: dict[str, Severity]) -> list[Finding]:
    """Causes that were not known, or not as so severe; they are from now on."""
    new = [f for f in found if not f.because and (f.name not in known or SEVERITIES.index(f.severity) < SEVERITIES.index(known[f.name]))]
    known.update({f.name: f.severity for f in new})
    return new


def line(finding: Finding, folder: str) -> str:
    """A finding in a line for the terminal."""
    change = f"  Try {finding.change}." if finding.change else ""
    return f"{finding.severity} ({folder}, {finding.where}): {finding.title}. {finding.evidence}.{change}"
