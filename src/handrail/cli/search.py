"""`handrail search`: which settings are best, by trying them."""

from pathlib import Path
from typing import Any

import typer
from rich.table import Table
from rich.text import Text

from handrail.cli.frame import Assignments, Own, loading, out, verb
from handrail.cli.results import following
from handrail.cli.settings_help import WithSettings
from handrail.config import load, read_yaml

SHOWN = 8  # trials of the front in the table


def add(app: typer.Typer) -> None:
    """The verb stands beside `run`: a search is many runs."""
    app.command(cls=WithSettings, rich_help_panel="Search")(search)


@verb
def search(config: Own, assignments: Assignments = None) -> dict:
    """Try settings one after the other and keep what nothing beats: TPE, a genetic algorithm, or chance.

    A trial is `handrail VERB CONFIG key=value ...` with values from the space, in a folder of its own. With two
    objectives, such as win rate against KL, the result is their Pareto front. Interrupted, the same command goes on.

    Example:  [bold]handrail search examples/search_ppo.yaml trials=12[/]
    """
    read_yaml(config)  # before the recipes are imported, which takes seconds
    with loading():
        from handrail.search import Search
        from handrail.search import run as work

    cfg = load(Search, config, assignments or [])
    found = work(cfg, str(config))
    show(found)
    folder = Path(cfg.out)
    following(commands(found, folder))
    return {"folder": str(folder), "report": str(folder / "report.html"), "search": found}


def show(found: dict[str, Any]) -> None:
    """The front, or the best where there is one objective, and how the trials ended."""
    rows = {t["number"]: t for t in found["trials"]}
    failed = sum(t["state"] == "failed" for t in rows.values())
    beyond = sum(t["state"] == "complete" and not t["feasible"] for t in rows.values())
    counts = (
        f"{len(rows)} of {found['wanted']} trials" + f", {failed} failed" * bool(failed) + f", {beyond} beyond a constraint" * bool(beyond)
    )
    several = len(found["objectives"]) > 1
    title = f"{'What nothing beats' if several else 'The best'}: {counts}"
    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    made.add_column("trial", justify="right", style="dim")
    for name, way in found["objectives"].items():
        made.add_column(f"{name.replace('_', ' ')} {'↑' if way == 'maximise' else '↓'}", justify="right")
    made.add_column("settings", overflow="fold", ratio=1)
    chosen = found["front"] if several else best_of(found)
    for number in chosen[:SHOWN]:
        trial = rows[number]
        figures = [figure(trial, name) for name in found["objectives"]]
        settings = "  ".join(f"{key}={value}" for key, value in trial["settings"].items())
        made.add_row(str(number), *figures, Text(settings, "bold" if number == found["best"] else ""))
    if chosen:
        out.print(made)
    else:
        out.print(Text(f"{counts}; none completed within the constraints", "yellow"))
    if len(chosen) > SHOWN:
        out.print(f"[dim]{len(chosen) - SHOWN} more in the report[/]")


def best_of(found: dict[str, Any]) -> list[int]:
    """Trials of a search with one objective that keep to the constraints, the best first."""
    ((name, way),) = found["objectives"].items()
    good = [t for t in found["trials"] if t["feasible"] and t["same_as"] is None]
    good.sort(key=lambda t: (t["values"][name] * (1 if way == "minimise" else -1), t["number"]))
    return [t["number"] for t in good]


def figure(trial: dict[str, Any], name: str) -> str:
    """A figure with half the width of its interval."""
    value, interval = trial["values"][name], trial["intervals"].get(name)
    return f"{value:.3f} ± {(interval[1] - interval[0]) / 2:.3f}" if interval else f"{value:.4g}"


def commands(found: dict[str, Any], folder: Path) -> list[tuple[str, str]]:
    """What to type next: look, talk to the best, do the best once more with another seed."""
    shown = [(str(folder / "report.html"), "the picture: open it in a browser")]
    best = next((t for t in found["trials"] if t["number"] == found["best"]), None)
    if best is None:
        return shown
    if found["model"]:
        shown.append((f"handrail chat {found['model']}", "talk to the model of the best trial"))
    shown.append((found["again"], "the best once more with another seed: of many trials the best is partly luck"))
    return shown
