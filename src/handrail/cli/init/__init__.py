"""`handrail init DIR`: a commented handrail.yaml, a folder for data, and a few example records to start from."""

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from handrail.cli.frame import out, verb
from handrail.cli.results import following
from handrail.errors import ConfigError, StorageError

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of the project; made if it is not there.", show_default=False)]

CONFIG = "handrail.yaml"
EXAMPLES = ("demonstrations.example.jsonl", "comparisons.example.jsonl")


def add(app: typer.Typer) -> None:
    app.command(rich_help_panel="Begin")(init)


@verb
def init(folder: Folder) -> dict:
    """Begin a project of your own: a commented handrail.yaml and a folder for data.

    The example records beside it are a few lines that show the format; the file runs with them as it is.

    Example:  [bold]handrail init my-project[/]
    """
    written = write(folder)
    out.print(f"[green]✓[/] {folder / CONFIG} says what a round does; {folder / 'data'} holds example records", soft_wrap=True)
    here = f"cd {folder} && handrail"
    following([(f"{here} show tokens {CONFIG}", "what the model will see"), (f"{here} run {CONFIG}", "the whole round")])
    return {"folder": str(folder), "written": [str(path) for path in written]}


def write(folder: Path) -> list[Path]:
    """The files of a new project.  What is there already is kept; a handrail.yaml that is there is an error."""
    config = folder / CONFIG
    if config.exists():
        raise ConfigError(f"{config}: there is one already, and it is not overwritten", "", "give another folder, or move the file away")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: is a file", "a folder, there or to be made", "give another name")
    templates = files("handrail.cli.init")
    written = []
    try:
        (folder / "data").mkdir(parents=True, exist_ok=True)
        for path in (*(folder / "data" / name for name in EXAMPLES), config):
            if not path.exists():
                path.write_bytes((templates / path.name).read_bytes())
                written.append(path)
    except OSError as error:
        raise StorageError(f"{folder}: {error.strerror}", "a folder that can be written") from error
    return written
