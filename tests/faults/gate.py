"""The gate: every planted fault must make a test fail.

    python tests/faults/gate.py [--only NAME ...] [--without TEST ...] [-j N]

First the named tests pass on a copy of `src/` as it is.  Then each fault of faults.py is planted into a copy of its own
and its tests run against that copy.  A fault is caught when a test fails on what it asserts: a test that cannot be
collected, or that stumbles over a name which the patch broke, has caught nothing.  Exit 1 when a fault survives or no
longer fits the code.  `--without` takes tests away, which shows what catches a fault and that the gate would notice.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROBLEMS_OF_THE_PATCH = ("NameError", "UnboundLocalError", "ImportError", "ModuleNotFoundError", "SyntaxError", "AttributeError")
NOTHING_COLLECTED = 5  # of pytest's exit statuses
SECONDS = 1200  # for the tests of one fault, on a machine that has much else to do


@dataclass(frozen=True)
class Fault:
    """One mistake somebody could make."""

    name: str
    what: str  # the mistake, in a sentence
    file: str  # under src/handrail
    old: str  # occurs exactly once
    new: str
    tests: str  # files of tests/ that should catch it, or tests in them ("file.py::name"), by spaces


@dataclass(frozen=True)
class Verdict:
    """What became of a fault."""

    fault: Fault
    caught: bool
    by: str  # the test that failed, or why nothing caught it
    seconds: float


def plant(fault: Fault, package: Path) -> str:
    """Patch the copy of the package; returns what is wrong with the patch, "" where nothing is."""
    path = package / fault.file
    if not path.is_file():
        return f"there is no {fault.file}"
    text = path.read_text(encoding="utf-8")
    if (found := text.count(fault.old)) != 1:
        return f"its old text occurs {found} times in {fault.file}, not once"
    patched = text.replace(fault.old, fault.new)
    try:
        compile(patched, str(path), "exec")
    except SyntaxError as error:
        return f"the patched file is no Python: {error}"
    path.write_text(patched, encoding="utf-8")
    return ""


def run_tests(root: Path, source: Path, tests: Iterable[str], without: list[str]) -> tuple[int, str]:
    """(exit status, output) of pytest, with the package taken from `source`."""
    wanted = [f"tests/{test}" for test in tests]
    left_out = [f"--deselect=tests/{test}" for test in without]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-rf", "--tb=no", "-m", "not slow", "-p", "no:cacheprovider", *left_out, *wanted]
    environment = os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "300"}
    environment |= {"PYTEST_ADDOPTS": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # what others installed takes time and no part
    try:
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return -1, f"no end after {SECONDS} s"
    return done.returncode, done.stdout + done.stderr


def judge(fault: Fault, root: Path, without: list[str]) -> Verdict:
    """Plant one fault and run its tests."""
    started = time.monotonic()

    def verdict(caught: bool, by: str) -> Verdict:
        return Verdict(fault, caught, by, time.monotonic() - started)

    with tempfile.TemporaryDirectory() as folder:
        source = copy_of(root, Path(folder))
        if wrong := plant(fault, next(source.iterdir())):
            return verdict(False, f"the patch no longer applies: {wrong}")
        status, output = run_tests(root, source, fault.tests.split(), without)
    failed = re.search(r"^FAILED tests/(.+?)(?: - (.*))?$", output, re.MULTILINE)
    if status in (0, NOTHING_COLLECTED):
        return verdict(False, "survived: its tests pass" if status == 0 else "survived: no test is left")
    if not failed:
        return verdict(False, f"no test failed, but pytest ended with {status}: {last_line(output)}")
    reason = failed[2] or ""
    if reason.startswith(PROBLEMS_OF_THE_PATCH):
        return verdict(False, f"the patch is broken: {reason}")
    kind = "" if reason.lower().startswith("assert") else f"  ({reason.split(':')[0]})"  # an error instead of a wrong number
    return verdict(True, f"{failed[1]}{kind}")


def copy_of(root: Path, folder: Path) -> Path:
    """A copy of `src/` with the package alone in it."""
    package = next(path.parent for path in sorted((root / "src").glob("*/__init__.py")))
    shutil.copytree(package, folder / "src" / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder / "src"


def last_line(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip(" !=.")]
    return lines[-1].strip(" !=") if lines else "it said nothing"


def sound(faults: list[Fault], root: Path, without: list[str], jobs: int) -> str:
    """Why the gate would mean nothing: the copy is not what is imported, or a named test fails without any fault."""
    with tempfile.TemporaryDirectory() as folder:
        source = copy_of(root, Path(folder))
        name = next(source.iterdir()).name
        asked = [sys.executable, "-c", f"import {name}; print({name}.__file__)"]
        environment = os.environ | {"PYTHONPATH": str(source)}
        imported = subprocess.run(asked, cwd=folder, env=environment, capture_output=True, text=True, check=False).stdout.strip()
        if not imported.startswith(str(source)):
            return f"the tests would import {imported or 'nothing'}, and not the copy in {source}"
        tests = sorted({test for fault in faults for test in fault.tests.split()})
        whole = {test for test in tests if "::" not in test}
        tests = [test for test in tests if "::" not in test or test.split("::")[0] not in whole]
        shares = [share for start in range(jobs) if (share := tests[start::jobs])]
        with ThreadPoolExecutor(jobs) as pool:
            for status, output in pool.map(lambda share: run_tests(root, source, share, without), shares):
                if status not in (0, NOTHING_COLLECTED):
                    shown = re.findall(r"^(?:FAILED|ERROR) .*$", output, re.MULTILINE) or [last_line(output)]
                    return f"without any fault the tests do not pass: {shown[0]}"
    return ""


def gate(faults: list[Fault], root: Path, without: list[str], jobs: int) -> int:
    """Judge all faults, print the table, return the exit status."""
    started = time.monotonic()
    if wrong := sound(faults, root, without, jobs):
        print(wrong)
        return 1
    print(f"{len(faults)} to plant; without any, their tests pass ({time.monotonic() - started:.0f} s)", flush=True)
    survivors = 0
    with ThreadPoolExecutor(jobs) as pool:
        for future in as_completed([pool.submit(judge, fault, root, without) for fault in faults]):
            verdict = future.result()
            survivors += not verdict.caught
            mark = "caught " if verdict.caught else "MISSED "
            print(f"{mark} {verdict.seconds:5.1f} s  {verdict.fault.name:<34} {verdict.by}", flush=True)
            if not verdict.caught:
                print(f"                 {verdict.fault.what}", flush=True)
    print(f"{len(faults) - survivors} of {len(faults)} caught in {time.monotonic() - started:.0f} s")
    return 1 if survivors else 0


def main() -> int:
    """The command."""
    sys.path.insert(0, str(ROOT / "tests"))
    from faults.faults import FAULTS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", metavar="NAME", help="this fault; may be given again")
    parser.add_argument("--without", action="append", default=[], metavar="TEST", help="leave out this test; may be given again")
    parser.add_argument("-j", type=int, default=os.cpu_count() or 1, metavar="N", help="faults at a time")
    given = parser.parse_args()
    known = {fault.name: fault for fault in FAULTS}
    if unknown := [name for name in given.only or [] if name not in known]:
        parser.error(f"there is no fault {unknown[0]!r}; there are {', '.join(known)}")
    return gate([known[name] for name in given.only or known], ROOT, given.without, given.j)


if __name__ == "__main__":
    sys.exit(main())
