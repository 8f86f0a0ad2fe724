"""`handrail plan`: what a round is going to take, before anything is loaded."""

from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from handrail.cli.frame import Assignments, Config, console, loading, out, verb
from handrail.config import read_yaml

if TYPE_CHECKING:
    from handrail.plan import Foreseen, Otherwise, Plan

Gpu = Annotated[str, typer.Option("--gpu", metavar="NAME", help="A GPU instead of this machine: h100, a100, l4, rtx4090, ...")]
StageName = Annotated[str, typer.Option("--stage", metavar="STAGE", help="This stage alone; or what the file's settings are for.")]
Price = Annotated[float, typer.Option("--price", min=0, metavar="PER HOUR", help="Of the machine, in any currency: what it would cost.")]


def add(app: typer.Typer) -> None:
    """The verb."""
    app.command(rich_help_panel="Look")(plan)


@verb
def plan(config: Config, assignments: Assignments = None, gpu: Gpu = "", stage: StageName = "", price: Price = 0.0) -> dict:
    """Say what a round or a stage is going to take, before a model is loaded: memory and time of each stage, and what would fit.

    Each stage is gone through once with models that have shapes and no numbers, on texts as long as those of the data.
    Where a run is already there, what it used stands beside. The rates of this machine are measured; those of a GPU are
    its maker's, so its times are rougher. The exit status is 1 where it does not fit.

    Example:  [bold]handrail plan handrail.yaml --gpu l4 --price 0.8[/]
    """
    read_yaml(config)  # before torch is imported, which takes seconds
    with loading():
        from handrail.plan import gpu as named
        from handrail.plan import here
        from handrail.plan import plan as foresee

    machine = named(gpu) if gpu else here()
    with console.status("going through each stage without numbers") if console.is_terminal and not console.quiet else loading():
        found = foresee(config, assignments or [], stage, machine)
    told(found, price)
    with console.status("and with other settings") if console.is_terminal and not console.quiet else nullcontext():
        others = found.otherwise()
    if others:
        out.print(others_table(found, others))
    return jsonable(found, others, price) | {"exit_code": 0 if found.fits else 1}


def told(found: "Plan", price: float) -> None:
    """The plan as tables."""
    machine = found.machine
    out.print(
        Text.assemble((machine.name, "bold"), f", {size(machine.memory)}", f", {size(machine.free)} of it free" if machine.measured else "")
    )
    out.print(stages_table(found))
    paid = f", {price * found.seconds / 3600:.2f} at {price:g} an hour" if price else ""
    verdict = ("It fits", "bold green") if found.fits else ("It does not fit", "bold red")
    all_rounds = f" for {found.rounds} rounds" if found.rounds > 1 else ""
    out.print(Text.assemble(verdict, f": {size(found.memory)} of {size(machine.free)}, about {duration(found.seconds)}{all_rounds}{paid}."))
    if not machine.measured:
        out.print(Text("Times by the maker's figures, of which 0.4 (products) and 0.7 (memory) are taken to be reached.", "dim"))


def stages_table(found: "Plan") -> Table:
    """A row a stage."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name, justify in (
        ("stage", "left"),
        ("parameters", "right"),
        ("trained", "right"),
        ("memory", "right"),
        ("steps", "right"),
        ("time", "right"),
        ("of it", "left"),
    ):
        made.add_column(name, justify=justify, style="bold" if name == "stage" else "", no_wrap=name != "of it")  # type: ignore[arg-type]
    ran = any(stage.used for stage in found.stages)
    if ran:
        made.add_column("a run used", justify="left")
    for stage in found.stages:
        over = stage.memory > found.machine.free
        row: list[str | Text] = [
            stage.stage,
            number(stage.parameters),
            number(stage.trained) if stage.trained else "–",
            Text(size(stage.memory), "red" if over else ""),
            f"{stage.steps:,}" if stage.steps else "–",
            duration(stage.total),
            Text(parts(stage), "dim", no_wrap=True, overflow="ellipsis"),  # what a narrow terminal can do without
        ]
        if ran:
            row.append(Text(f"{size(stage.used['memory'])}, {duration(stage.used['seconds'])}" if stage.used else "", "cyan"))
        made.add_row(*row)
    return made


def others_table(found: "Plan", others: list["Otherwise"]) -> Table:
    """The hungriest stage in other ways."""
    now = found.hungriest
    made = Table(title=f"{now.stage} otherwise", title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    made.add_column("with", overflow="fold")
    for name in ("memory", "time", ""):
        made.add_column(name, justify="right")
    for other in others:
        seen, fits = other.foreseen, other.foreseen.memory <= found.machine.free
        word = "" if fits == (now.memory <= found.machine.free) else "fits" if fits else "does not fit"
        change = f"{size(seen.memory)}  {seen.memory / now.memory - 1:+.0%}", f"{duration(seen.total)}  {seen.total / now.total - 1:+.0%}"
        made.add_row(Text(" ".join(other.assignments), "cyan"), *change, Text(word, "green" if fits else "red"))
    return made


def parts(stage: "Foreseen") -> str:
    """Its phases, the longest first."""
    longest = sorted(stage.seconds.items(), key=lambda kv: -kv[1])
    return "  ".join(f"{name} {seconds / max(1e-9, stage.total):.0%}" for name, seconds in longest if seconds)


def jsonable(found: "Plan", others: list["Otherwise"], price: float) -> dict[str, Any]:
    """For --json: bytes and seconds."""

    def one(stage: "Foreseen") -> dict[str, Any]:
        return {
            "stage": stage.stage,
            "parameters": stage.parameters,
            "trained": stage.trained,
            "memory": stage.memory,
            "steps": stage.steps,
            "seconds": stage.seconds,
            "used": stage.used,
        }

    return {
        "machine": {
            "name": found.machine.name,
            "memory": found.machine.memory,
            "free": found.machine.free,
            "measured": found.machine.measured,
        },
        "rounds": found.rounds,
        "stages": [one(stage) for stage in found.stages],
        "memory": found.memory,
        "seconds": found.seconds,
        "fits": found.fits,
        "cost": price * found.seconds / 3600 if price else None,
        "otherwise": [{"with": list(o.assignments)} | one(o.foreseen) for o in others],
    }


def size(count: float) -> str:
    """Bytes for people."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def number(count: int) -> str:
    """Parameters for people."""
    return f"{count / 1e9:.2f} B" if count >= 1e9 else f"{count / 1e6:.1f} M"


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
