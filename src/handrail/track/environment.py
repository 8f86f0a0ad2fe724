"""Where a run took place, and what must not be written about it."""

import os
import platform
import re
import resource
import socket
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import handrail

_PACKAGES = ("torch", "transformers", "peft", "tokenizers", "safetensors", "pyarrow", "numpy")
REMOVED = "[removed]"
_SECRET_NAME = r"(?:[\w.-]*[._-])?(?:token|secret|passw(?:or)?d|credentials?|(?:api|access|private)[._-]?key)"
_NOT_SECRET = re.compile(r"(?i)(?:bos|eos|pad|unk|sep|cls|mask|end|special)_token$")
_ASSIGNED = re.compile(rf"(?i)(?<![\w.])(-{{0,2}}{_SECRET_NAME})(\s*[=:]\s*)(?!{re.escape(REMOVED)})(\"[^\"]*\"|'[^']*'|[^\s,;&]+)")
_IN_ADDRESS = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^/\s:@]*:?[^/\s@]*@")
_KNOWN = re.compile(
    r"\b(?:hf_|sk-|ghp_|gho_|github_pat_|glpat-|xox[abp]-|AKIA)[A-Za-z0-9_-]{8,}"
    r"|(?i:\bbearer\s+)[A-Za-z0-9._~+/=-]{8,}"
)
_RESULTS = ("python", "machine", "cpu", "device", "processes", "threads", "packages")


def redact(text: str) -> str:
    """`text` without what looks like a token, a password or the credentials in an address."""
    text = _IN_ADDRESS.sub(rf"\1{REMOVED}@", text)
    text = _KNOWN.sub(REMOVED, text)
    return _ASSIGNED.sub(lambda m: m[0] if _NOT_SECRET.search(m[1]) else f"{m[1]}{m[2]}{REMOVED}", text)


def redact_arguments(arguments: Sequence[str]) -> list[str]:
    """A command line, each argument redacted; the value after a bare `--token` goes whole."""
    shown: list[str] = []
    hide = False
    for argument in arguments:
        shown.append(REMOVED if hide else redact(argument))
        hide = bool(re.fullmatch(rf"(?i)-{{1,2}}{_SECRET_NAME}", argument)) and not _NOT_SECRET.search(argument)
    return shown


def describe() -> dict[str, Any]:
    """The machine, the versions and the command.  Environment variables are not in it."""
    return {
        "handrail": handrail.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "host": socket.gethostname(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": _memory_gib(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "threads": _threads(),
        "device": _device(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "commit": _commit(),
        "command": redact_arguments([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs of that on which the last bits of a result depend, a line each."""
    before = {"processes": 1} | before  # as were those that did not say
    return [f"{key}: {before.get(key)} -> {now[key]}" for key in _RESULTS if before.get(key) != now[key]]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _cpu() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def peak_memory() -> dict[str, float]:
    """MiB that this process has taken at most so far, and of the device where it uses one."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    peak = {"memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)}
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available() and torch.cuda.is_initialized():
        peak["device_mib"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return peak


def _memory_gib() -> float:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def _threads() -> int:
    # torch is asked only where it is loaded already: this room works without it.
    torch = sys.modules.get("torch")
    return torch.get_num_threads() if torch else 0


def _device() -> str:
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return "mps" if torch and torch.backends.mps.is_available() else "cpu"


def _commit() -> str:
    try:
        answer = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""
