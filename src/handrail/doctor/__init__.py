"""The doctor: metrics and traces in, findings out.  Pure, and without torch; `Attendant` looks while a run goes on."""

from handrail.doctor.examine import CHECKS, NAMES, examine
from handrail.doctor.finding import SEVERITIES, UPPER, Finding, Severity
from handrail.doctor.verdict import Verdict, stages_in, verdict

__all__ = ["CHECKS", "NAMES", "SEVERITIES", "UPPER", "Finding", "Severity", "Verdict", "examine", "stages_in", "verdict"]
