"""What all verbs share: the options -v, --quiet and --json, errors as messages with an exit code, results as JSON."""

import functools
import inspect
import json
import logging
import math
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.text import Text

from handrail.errors import ConfigError, HandrailError
from handrail.recipes.progress import console  # standard error: what happens

out = Console(highlight=False)  # standard output: what came of it

Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file: the verb's own, or a whole round's.", show_default=False)]
Own = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file with the settings below.", show_default=False)]
Assignments = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings over those of the file; a dot goes into a group.", show_default=False),
]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Tell everything, with tracebacks.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Tell nothing but errors.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object; all else goes to standard error.")]

STOPPED = {130: "interrupted", 143: "terminated"}
SEVERAL = ("sft", "reward", "ppo", "reinforce", "best_of_n", "dpo", "relaxed")  # verbs that several processes can do together


@dataclass(frozen=True)
class Mode:
    """How much is told, and in which form."""

    verbose: bool = False
    quiet: bool = False
    json: bool = False

    def begin(self) -> None:
        """Set the two consoles and the log.  Of several processes the first tells what happens."""
        console.quiet = self.quiet or beside()
        out.quiet = (self.quiet and not self.json) or beside()
        logger = logging.getLogger("handrail")
        for handler in [h for h in logger.handlers if isinstance(h, RichHandler)]:
            logger.removeHandler(handler)
        handler = RichHandler(logging.DEBUG if self.verbose else logging.WARNING, console, show_time=self.verbose, show_path=self.verbose)
        if not self.verbose:  # an error is told once, by `tell`
            handler.addFilter(lambda record: record.levelno < logging.ERROR)
        logger.addHandler(handler)
        logger.setLevel(handler.level)
        if not self.verbose:
            os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
            os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # its retries; what came of them is told as an error
            _hush(sys.modules.get("transformers"))


def loading() -> AbstractContextManager:
    """Says in a terminal that what a verb stands on is being loaded, which takes seconds."""
    return console.status("loading") if console.is_terminal and not console.quiet else nullcontext()


def processes() -> int:
    """How many torchrun started."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def beside() -> bool:
    """Whether this process is one of several and not the first."""
    return processes() > 1 and os.environ["RANK"] != "0"


def refuse_several(name: str) -> None:
    """Raises ConfigError where several processes are at a verb that one alone must do."""
    if processes() > 1 and name not in SEVERAL:
        raise ConfigError(
            f"{processes()} processes at `handrail {name}`",
            f"several at {', '.join(SEVERAL)}; one at all else",
            "start it without torchrun",
        )


def _hush(transformers: Any) -> None:
    if transformers is not None:
        transformers.logging.set_verbosity_error()


def verb(work: Callable[..., dict | None]) -> Callable[..., None]:
    """`work` as a command: it also takes -v, --quiet and --json; its result is printed, its errors end with their exit code.

    A result may name an "exit_code" of its own.
    """
    own = inspect.signature(work)

    @functools.wraps(work)
    def command(ctx: typer.Context, verbose: bool, quiet: bool, as_json: bool, **arguments: Any) -> None:
        before = ctx.obj if isinstance(ctx.obj, Mode) else Mode()
        mode = Mode(before.verbose or verbose, before.quiet or quiet, before.json or as_json)
        mode.begin()

        def done() -> dict | None:
            refuse_several(work.__name__)
            return work(**arguments)

        # A reward function of the user's may print: that must not get between the JSON.
        with redirect_stdout(sys.stderr) if mode.json else nullcontext():
            result, status = _attempt(mode, done)
        if mode.json and not beside():
            sys.stdout.write(json.dumps(finite(result), ensure_ascii=False, allow_nan=False, default=str) + "\n")
        if status:
            raise typer.Exit(status)

    keyword = inspect.Parameter.KEYWORD_ONLY
    shared = [inspect.Parameter("ctx", keyword, annotation=typer.Context)]
    for name, annotation in (("verbose", Verbose), ("quiet", Quiet), ("as_json", Json)):
        shared.append(inspect.Parameter(name, keyword, default=False, annotation=annotation))
    kept = [p.replace(kind=keyword) for p in own.parameters.values()]
    command.__doc__ = "\n\n".join(" ".join(paragraph.split()) for paragraph in (work.__doc__ or "").split("\n\n"))
    command.__signature__ = inspect.Signature([*kept, *shared])  # type: ignore[attr-defined]
    return command


def _attempt(mode: Mode, work: Callable[[], dict | None]) -> tuple[dict, int]:
    """(result, exit status) of the work."""
    try:
        result = work() or {}
        return result, result.get("exit_code", 0)
    except HandrailError as error:
        if mode.verbose:
            traceback.print_exc()
        tell(error)
        said = {"found": error.found, "allowed": error.allowed, "remedy": error.remedy}
        return {"error": {"kind": type(error).__name__, **said, "exit_code": error.exit_code}}, error.exit_code
    except (KeyboardInterrupt, SystemExit) as stop:
        status = 130 if isinstance(stop, KeyboardInterrupt) else stop.code if isinstance(stop.code, int) else 1
        if status not in STOPPED:
            raise
        found = f"{STOPPED[status]}; the same command goes on from the last checkpoint"
        console.print(f"[yellow]{found}[/]")
        return {"error": {"kind": "Stopped", "found": found, "allowed": "", "remedy": "", "exit_code": status}}, status
    except Exception as error:
        return _fault(error), 1


def _fault(error: Exception) -> dict:
    """An error that nobody foresaw, of ours or of code that we were given to run: told whole."""
    traceback.print_exc()
    tell(HandrailError(f"{type(error).__name__}: {error}", "", "nobody foresaw this one; the traceback above says where it came from"))
    return {"error": {"kind": type(error).__name__, "found": str(error), "allowed": "", "remedy": "", "exit_code": 1}}


def tell(error: HandrailError) -> None:
    """The error on standard error: what was found, what is allowed, what to do."""
    who = f"process {os.environ['RANK']} of {processes()}: " if beside() else ""
    message = Text.assemble((f"{who}error: ", "bold red"), (error.found, "red"))
    if error.allowed:
        message.append_text(Text.assemble("\n", ("allowed: ", "bold"), error.allowed))
    if error.remedy:
        message.append_text(Text.assemble("\n", ("what to do: ", "bold"), error.remedy))
    Console(stderr=True, soft_wrap=True).print(message)


J = TypeVar("J")


def finite(value: J) -> J | None:
    """The value with None for every number that JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}  # type: ignore[return-value]
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]  # type: ignore[return-value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def shown(text: str) -> str:
    """Text of a model or a file, safe to print: control characters and those that turn the direction are made visible."""
    turning = set("\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff")
    return "".join(
        c if c in "\n\t" or (c >= " " and c != "\x7f" and not "\x80" <= c <= "\x9f" and c not in turning) else f"<U+{ord(c):04X}>"
        for c in text
    )
