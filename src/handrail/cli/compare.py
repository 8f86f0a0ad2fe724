"""`handrail compare`: methods against each other, on the same task, over several seeds."""

from pathlib import Path

import typer
from rich.table import Table

from handrail.cli.frame import Assignments, Own, loading, out, verb
from handrail.cli.results import following
from handrail.cli.settings_help import WithSettings
from handrail.config import load, read_yaml


def add(app: typer.Typer) -> None:
    """The verb stands beside `search`: both are many rounds."""
    app.command(cls=WithSettings, rich_help_panel="Search")(compare)


@verb
def compare(config: Own, assignments: Assignments = None) -> dict:
    """Which method? Run several on one task: same prompts, same reward model, as many sampled responses, several seeds.

    Each method is a round of its own that shares everything up to the reward model with the others of its seed. The page
    shows score against KL with intervals, best-of-n on the starting model as the yardstick, seconds, memory and failures.
    Interrupted, the same command goes on.

    Example:  [bold]handrail compare examples/compare_movie_night.yaml seeds=[0][/]
    """
    read_yaml(config)  # before the recipes are imported, which takes seconds
    with loading():
        from handrail.compare import Comparison, run
    from handrail.inspector import write_report
    from handrail.inspector.compare import COLUMNS, said

    cfg = load(Comparison, config, assignments or [])
    found = run(cfg, write_report).to_json()
    made = Table(title=found["title"], title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    made.add_column("method", style="bold")
    made.add_column("responses", justify="right")
    for name, _ in COLUMNS.values():
        made.add_column(name, justify="right")
    for row in found["rows"]:
        responses = f"{row['responses']:,}" if row["responses"] else "labelled"
        made.add_row(row["name"], responses, *(said(row, key) for key in COLUMNS))
    out.print(made)
    for row in found["rows"]:
        for failed in row["failed"]:
            out.print(f"[red]{row['name']}, seed {failed['seed']}, failed:[/] {failed['reason'].splitlines()[0]}")
    report = Path(cfg.out) / "report.html"
    following([(str(report), "the picture: open it in a browser")])
    return {"folder": cfg.out, "report": str(report), "compare": found}
