"""What the doctor has written into a run's folder, each finding once: it writes a line anew where one has become worse."""

from collections.abc import Sequence
from typing import Any

from handrail.doctor import SEVERITIES


def findings(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each finding as it stood at its worst, the first found first.

    `since` is the step from which on it held; `history` has {"step", "severity"} of each line: since when, then when it was
    found to have become worse.
    """
    by_name: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        by_name.setdefault(str(line.get("name", "")), []).append(line)
    found = []
    for first, *later in by_name.values():
        since = min(held_from(line) for line in (first, *later))
        history = [{"step": since, "severity": first.get("severity")}]
        history += [{"step": line["step"], "severity": line.get("severity")} for line in later]
        found.append(min((first, *later), key=grave) | {"since": since, "history": history})
    return found


def held_from(line: dict[str, Any]) -> int:
    """The step at which it began to hold, often before the one at which it was found."""
    first = line.get("first")
    return first if isinstance(first, int) else int(line["step"])


def grave(line: dict[str, Any]) -> int:
    """The worse, the less; what is of no known severity is the least."""
    return SEVERITIES.index(line["severity"]) if line.get("severity") in SEVERITIES else len(SEVERITIES)
