"""`handrail demo`: a whole round on a built-in task, with simulated labellers, so that everything is known and offline."""

import difflib
import os
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from handrail.cli.frame import Assignments, loading, out, verb
from handrail.cli.settings_help import WithSettings
from handrail.cli.verbs import whole_round
from handrail.config import override, read_yaml, validate
from handrail.errors import ConfigError

TaskName = Annotated[str, typer.Option("--task", help="movie-night or short-version.")]
Seed = Annotated[int, typer.Option("--seed", help="The same seed gives the same weights.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Where to write; runs/demo-TASK-SEED if not given.")]
ModelPath = Annotated[
    str, typer.Option("--model", metavar="PATH", help="A model to begin with, instead of a new one: a folder or a hub name.")
]
Rounds = Annotated[
    int | None, typer.Option("--rounds", min=1, help="Each later round ranks responses of the policy before it.", show_default="1")
]
Label = Annotated[bool, typer.Option("--label", help="You rank the replies to twenty prompts, in your browser (people.prompts=N: more).")]
Mine = Annotated[bool, typer.Option("--only-mine", help="With --label: no simulated rankings beside yours.")]


def add(app: typer.Typer) -> None:
    app.command(cls=WithSettings, rich_help_panel="Begin")(demo)


@verb
def demo(
    assignments: Assignments = None,
    task: TaskName = "movie-night",
    seed: Seed = 0,
    folder: Out = None,
    model: ModelPath = "",
    rounds: Rounds = None,
    label: Label = False,
    only_mine: Mine = False,
) -> dict:
    """Watch a model learn from preferences, from nothing to a report, in minutes on a laptop.

    A small new model imitates demonstrations of mixed quality; simulated labellers rank its replies; a reward model learns
    their taste; PPO follows it; and the evaluation shows whether the hidden truth agrees. Nothing is downloaded.

    Example:  [bold]handrail demo --task short-version --seed 1[/]
    """
    if only_mine and not label:
        raise ConfigError("--only-mine without --label", "it says whose rankings count", "give --label too")
    given = settings(task, seed, folder, model, rounds, [*by_you(label, only_mine), *(assignments or [])])
    with loading():
        from handrail.pipeline import Round

    if label:
        given["people"]["db"] = str(Path(given["out"]) / "feedback.db")
    cfg = validate(Round, given, f"demo {task}")
    out.print(Text(announce(given)), soft_wrap=False)
    if said := busy(os.getloadavg()[0], os.cpu_count() or 1):
        out.print(Text(said, "yellow"))
    out.print()
    following = ("handrail init my-project", "the same with your own model and data")
    if not label:
        return whole_round(cfg, following)
    from handrail.cli.demo.label import app_beside

    Path(cfg.out).mkdir(parents=True, exist_ok=True)
    with app_beside(cfg.people.db, cfg.people.project):
        return whole_round(cfg, following)


def by_you(label: bool, only_mine: bool) -> list[str]:
    """What --label says of the round."""
    if not label:
        return []
    return ["labels=people", "people.project=demo", "people.prompts=20", f"people.simulated={str(not only_mine).lower()}"]


def settings(task: str, seed: int, folder: Path | None, model: str, rounds: int | None, assignments: list[str]) -> dict:
    """The task's own settings under what the command line says."""
    from handrail.tasks import TASKS

    if task not in TASKS:
        near = difflib.get_close_matches(task, TASKS, n=1)
        raise ConfigError(
            f"--task: found '{task}'",
            f"one of {', '.join(TASKS)}",
            f"did you mean '{near[0]}'?" if near else "`handrail demo` takes the first",
        )
    found = template(task) | {"seed": seed, "out": str(folder or Path("runs") / f"demo-{task}-{seed}")}
    if rounds is not None:
        found["rounds"] = rounds
    if model:
        pretrained = template("pretrained")
        found = override(found, [f"{stage}.{key}={value:g}" for stage, rates in pretrained.items() for key, value in rates.items()])
        found["model"] = {"path": model}
    return override(found, assignments)


def who_ranks(given: dict) -> str:
    """Whose taste the reward model learns."""
    if given["labels"] != "people":
        return "Simulated labellers, who err now and then, put the answers in order."
    rest = "simulated labellers those to the others" if given["people"]["simulated"] else "and nobody else does"
    return f"You put the answers to {given['people']['prompts']} prompts in order, in your browser; {rest}."


def template(name: str) -> dict:
    """The mapping of one of the YAML files beside this one."""
    with as_file(files("handrail.cli.demo") / f"{name}.yaml") as path:
        return read_yaml(path)


def busy(load: float, cores: int) -> str:
    """What is to be said of a machine on which others work; nothing where there is room."""
    if load < 0.75 * cores:
        return ""
    return f"This machine is busy (load {load:.1f} on {cores} cores): it may take several times as long."


def announce(given: dict) -> str:
    """In plain words what is going to happen, and how long it takes."""
    from handrail.tasks import TASKS

    task, size, new = TASKS[given["task"]["name"]], given["task"], given["model"].get("new")
    learner = f"A new model ({new['layers']} layers, {new['hidden']} wide)" if new else given["model"]["path"]
    ranked, each = given.get("sample", {}).get("limit", 0) or size.get("prompts", 0), given.get("sample", {}).get("responses", 4)
    steps = (
        ("sft", f"{learner} imitates {size['demonstrations']:,} demonstrations of mixed quality."),
        ("responses", f"It answers {ranked:,} prompts, {each} times each."),
        ("labels", who_ranks(given)),
        ("reward", "A reward model learns from these rankings what they like."),
        ("ppo", f"{given.get('ppo', {}).get('steps', 25)} steps of practice: answer, be scored, change a little."),
        ("evaluation", f"Before against after on {size['held_out']:,} prompts that no stage has seen, judged by the hidden truth."),
    )
    about = "It takes about five minutes on two cores if nothing else runs on them." if new else "How long it takes depends on the model."
    again = "You may stop at any time; the same command goes on from there."
    return "\n".join([task.name, task.description, "", *(f"  {name:<11} {what}" for name, what in steps), "", f"{about} {again}"])
