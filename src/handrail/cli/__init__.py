"""The command line: every verb of Handrail, its help, its exit codes.

Nothing heavy is imported before a verb's work begins, so that `handrail --help` is there at once.
"""

import os
from typing import Annotated

import typer

import handrail
from handrail.cli import chat, compare, demo, doctor, feedback, init, plan, search, selftest, tokens, verbs
from handrail.cli.frame import Json, Mode, Quiet, Verbose

app = typer.Typer(
    name="handrail",
    help="Reinforcement learning from human feedback, the whole loop.\n\n"
    "Begin with [bold]handrail demo[/]; then [bold]handrail init my-project[/] for your own model and data.",
    rich_markup_mode="rich",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
show = typer.Typer(help="Look at what goes into a model.", no_args_is_help=True)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"handrail {handrail.__version__}")
        raise typer.Exit()


@app.callback()
def everywhere(
    ctx: typer.Context,
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: Json = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """The options that hold for every verb, before it or after it."""
    ctx.obj = Mode(verbose, quiet, as_json)


demo.add(app)
init.add(app)
verbs.add(app)
search.add(app)
compare.add(app)
doctor.add(app)
plan.add(app)
chat.add(app)
feedback.add(app)
selftest.add(app)
tokens.add(show)
app.add_typer(show, name="show", rich_help_panel="Look")


def main() -> None:
    """What the command `handrail` runs."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the tokenizer's threads and ours would fight for the cores
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    app(prog_name="handrail")
