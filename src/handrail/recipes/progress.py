"""One progress bar for all long work, with rate and time left; silent when told so or when nobody watches."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

console = Console(stderr=True)


class _Rate(ProgressColumn):
    def render(self, task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each", style="dim")


Advance = Callable[[int, str], None]


@contextmanager
def progress(label: str, total: int, done: int = 0) -> Iterator[Advance]:
    """A bar for `total` pieces of work; call what it gives with (how many more are done, a remark)."""
    columns = (
        TextColumn("[bold]{task.description:<9}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TextColumn("[dim]left[/]"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[remark]}", style="cyan"),
    )
    with Progress(*columns, console=console, disable=console.quiet, transient=False) as bar:
        task = bar.add_task(label, total=total, completed=done, remark="")

        def advance(more: int, remark: str = "") -> None:
            bar.update(task, advance=more, remark=remark) if remark else bar.advance(task, more)

        yield advance


def cumulative(advance: Advance) -> Callable[[int], None]:
    """For work that reports how much of it is done in all, rather than how much more."""
    done = 0

    def to(total: int) -> None:
        nonlocal done
        advance(total - done, "")
        done = total

    return to
