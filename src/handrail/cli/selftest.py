"""`handrail selftest`: proof, on this machine, that what trains here is right."""

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.text import Text

from handrail.cli.frame import console, out, verb

if TYPE_CHECKING:
    from handrail.selftest.checks import Check


WIDEST = 54  # characters of the longest name of a check, so that the figures stand below each other
SIGNS = {"below": "<", "above": ">", "equal": "="}


def add(app: typer.Typer) -> None:
    """The verb."""
    app.command(rich_help_panel="Look")(selftest)


@verb
def selftest() -> dict:
    """Prove on this machine that the mathematics is right and that nothing is lost: a minute, offline, no data.

    On a language of 121 responses every expectation is a finite sum. There each recipe's expected update must be the
    gradient of what it maximises, and its real loop must end at the policy that theory says is best. Then a tiny
    transformer on your device: the engine samples with the trainer's probabilities, and a run that is killed by force and
    started again ends with the same bits as one that was left alone. Each line shows a figure and its bound; a cross ends
    with exit code 1.

    Example:  [bold]handrail selftest --json[/]
    """
    import torch

    from handrail.models import best_matmul
    from handrail.selftest.checks import all_checks
    from handrail.track.environment import describe

    machine = describe()
    where = f"{machine['device']}, {machine['cpu']}, {machine['cores']} cores, torch {torch.__version__}, Python {machine['python']}"
    out.print(Text.assemble(("Handrail ", "bold"), (machine["handrail"], "bold"), f" on {where}"), soft_wrap=True)
    out.print(f"[dim]{best_matmul()}[/]")
    console.quiet = True  # the bars of the small runs would bury the lines
    done: list[Check] = []
    with tempfile.TemporaryDirectory(prefix="handrail-selftest-") as folder:
        for coming, work in all_checks(Path(folder)):
            if out.is_terminal:
                out.print(f"[dim]\u2026 {coming}[/]", end="\r")
            for check in work():
                out.print(line(check), soft_wrap=True)
                done.append(check)
    failed = sum(not check.passed for check in done)
    out.print(verdict(len(done), failed))
    return {"machine": machine, "checks": [asdict(check) for check in done], "failed": failed, "exit_code": 1 if failed else 0}


def line(check: "Check") -> Text:
    """Mark, what was checked, the figure, its bound."""
    mark, colour = ("\u2713", "green") if check.passed else ("\u2717", "red")
    bound = f" {SIGNS[check.limit]} {check.bound:g}"
    told = Text.assemble(
        (mark, f"bold {colour}"), f" {check.name:<{WIDEST}} {check.figure:<14} ", (f"{check.found:.3g}", colour), (bound, "dim")
    )
    return told.append(f"\n  {check.remark}", "dim") if check.remark else told


def verdict(count: int, failed: int) -> Text:
    """The last line."""
    if not failed:
        return Text(f"All {count} checks passed: what trains on this machine is what the papers say.", "bold green")
    return Text(f"{failed} of {count} checks failed. Do not trust a training run on this machine until it is known why.", "bold red")
