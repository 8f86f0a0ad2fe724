"""`handrail doctor`: what is wrong with a run, why, and what to do."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from handrail.cli.frame import out, shown, verb
from handrail.errors import InputError

if TYPE_CHECKING:
    from handrail.doctor import Finding, Verdict
    from handrail.track import RunView

Runs = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run or of a whole round.", show_default=False)]
COLOURS = {"sick": "red", "warning": "yellow", "notice": "cyan", "note": "dim"}
FEW = 3  # rounds that are named
SICK = 1  # exit status where a run is sick


def add(app: typer.Typer) -> None:
    """The verb."""
    app.command(rich_help_panel="Look")(doctor)


@verb
def doctor(run: Runs) -> dict:
    """Say what is wrong with a run: each finding with its figures, its likely cause and what to do; and which weights to take.

    It reads the numbers and the traced responses of the run folder, of one that goes on too. Of a round's folder it looks
    at every stage. The exit status is 1 where a run is sick, so that a script can stop there.

    Example:  [bold]handrail doctor runs/demo-movie-night-0[/]
    """
    from handrail.doctor import examine, stages_in, verdict
    from handrail.track import read_run

    folders = stages_in(run)
    if not folders:
        raise InputError(
            f"{run}: no run folder in it, nor below it" if run.is_dir() else f"{run}: there is no such folder",
            "a folder with inputs.json and config.yaml, or one whose folders have them",
            f"give one of {', '.join(rounds)}, a round" if (rounds := rounds_below(run)) else "give the folder of a run or of a round",
        )
    seen: list[dict[str, Any]] = []
    for folder in folders:
        view = read_run(folder)
        findings = examine(view)
        said = verdict(view, findings)
        out.print(told(folder, view, findings, said))
        seen.append({"folder": str(folder), "stage": view.stage, "findings": [f.json() for f in findings], "verdict": said.json()})
    sick = any(f["severity"] == "sick" for each in seen for f in each["findings"])
    return {"runs": seen, "exit_code": SICK if sick else 0}


def rounds_below(folder: Path) -> list[str]:
    """The first few rounds in a folder, as that of a comparison has them."""
    found = [path.parent for depth in ("*", "*/*", "*/*/*") for path in folder.glob(f"{depth}/round.json")]
    return [str(path) for path in sorted(found)[:FEW]]


def told(folder: Path, view: "RunView", findings: list["Finding"], said: "Verdict") -> Panel:
    """A run's findings and the verdict."""
    parts: list[RenderableType] = []
    for finding in findings:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", min_width=8)
        grid.add_column(overflow="fold")
        colour = COLOURS[finding.severity]
        follows = f"  follows from: {finding.because.replace('_', ' ')}" if finding.because else ""
        head = Text.assemble((finding.title, f"bold {colour}"), (f"  {finding.where}", "dim"), (follows, "dim"))
        grid.add_row(Text(finding.severity, colour), head)
        grid.add_row("seen", Text(shown(finding.evidence)))
        if not finding.because:
            grid.add_row("cause", Text(finding.cause))
            grid.add_row("remedy", Text.assemble(finding.remedy, (f"\n{finding.change}" if finding.change else "", "bold cyan")))
            grid.add_row("more", Text(finding.page, "dim"))
        parts += [grid, Text()]
    parts.append(Text(" ".join(said.sentences), "bold"))
    if any(f.because == "" and f.severity in ("sick", "warning") for f in findings):
        parts.append(Text.assemble("Next: ", said.next[0]))
    worst = findings[0].severity if findings else ""
    return Panel(Group(*parts), title=f"{folder}  {view.stage}", title_align="left", border_style=COLOURS.get(worst, "green"), expand=False)
