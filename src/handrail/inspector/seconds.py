"""Where a run's seconds went: sampling, judging, learning, and what was left of the time from step to step."""

from typing import Any

from handrail.inspector.folders import finite

PARTS = {"act": "sampling", "judge": "judging", "improve": "learning"}
REST = "the rest"  # saving, tracing, what the doctor looks at
BESIDE = frozenset({"step", "time", "memory_mib", "device_mib"})  # what a line has beside seconds
STOOD_STILL = 10.0  # times the longest step so far: then the run was stopped in between


def seconds(line: dict[str, Any]) -> float:
    """What the parts of a step took together."""
    return sum(finite(value) or 0.0 for name, value in line.items() if name not in BESIDE)


def rest(lines: list[dict[str, Any]]) -> list[float | None]:
    """Of each step what its parts leave of the time since the one before; None where that is not known."""
    found: list[float | None] = []
    before, longest = None, 0.0
    for line in lines:
        own, at = seconds(line), finite(line.get("time"))
        longest = max(longest, own)
        left = None if before is None or at is None else max(0.0, at - before - own)
        found.append(None if left is None or left > STOOD_STILL * longest else left)
        before = at
    return found


def spent(lines: list[dict[str, Any]]) -> dict[str, float]:
    """The seconds of each part over all steps, those of sampling first; nothing of a run without any."""
    names = dict.fromkeys([*PARTS, *(name for line in lines for name in line if name not in BESIDE)])
    found = {PARTS.get(name, name): sum(finite(line.get(name)) or 0.0 for line in lines) for name in names}
    found[REST] = sum(left or 0.0 for left in rest(lines))
    return {name: total for name, total in found.items() if total}
