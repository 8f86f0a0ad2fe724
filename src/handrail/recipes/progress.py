"""One account of all long work, with rate and time left: a bar in a terminal, else a line now and then; silent when told so."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

console = Console(stderr=True)
EVERY = 30.0  # seconds between lines where there is no terminal

Advance = Callable[[int, str], None]


@contextmanager
def progress(label: str, total: int, done: int = 0) -> Iterator[Advance]:
    """An account of `total` pieces of work; call what it gives with (how many more are done, a remark)."""
    with (_bar if console.is_terminal else _lines)(label, total, done) as advance:
        yield advance


def cumulative(advance: Advance) -> Callable[[int], None]:
    """For work that reports how much of it is done in all, rather than how much more."""
    done = 0

    def to(total: int) -> None:
        nonlocal done
        advance(total - done, "")
        done = total

    return to


def clock(seconds: float) -> str:
    """2:05, or 1:02:05 from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def times(spent: float, left: float | None) -> str:
    """2:14 of 8:54, as far as the rest can be told."""
    return f"{clock(spent)} of {clock(spent + left)}" if left else clock(spent)


def rate(speed: float) -> str:
    """4.2/s, or 26.8 s: of each piece of work."""
    return f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s"


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(rate(speed) if speed else "", "dim")


class _Times(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(times(task.finished_time or task.elapsed or 0.0, task.time_remaining), "dim")


def _whole() -> Column:
    return Column(no_wrap=True)


@contextmanager
def _bar(label: str, total: int, done: int) -> Iterator[Advance]:
    columns = (
        TextColumn("[bold]{task.description:<9}"),
        BarColumn(bar_width=8),
        MofNCompleteColumn(table_column=_whole()),
        _Rate(table_column=_whole()),
        _Times(table_column=_whole()),
        TextColumn("{task.fields[remark]}", style="cyan", table_column=Column(no_wrap=True, overflow="ellipsis")),
    )
    with Progress(*columns, console=console, disable=console.quiet, transient=False) as bar:
        task = bar.add_task(label, total=total, completed=done, remark="")

        def advance(more: int, remark: str = "") -> None:
            bar.update(task, advance=more, remark=remark) if remark else bar.advance(task, more)

        yield advance


@contextmanager
def _lines(label: str, total: int, done: int) -> Iterator[Advance]:
    """A line every so often, and one at the end."""
    started = told = time.monotonic()
    at, said = done, ""

    def tell(now: float) -> None:
        speed = (at - done) / (now - started) if now > started else 0.0
        told = times(now - started, (total - at) / speed if speed else None)
        parts = (f"{at}/{total}", rate(speed) if speed else "", told, said)
        console.print(f"{label:<9} {'  '.join(part for part in parts if part)}", soft_wrap=True, markup=False, highlight=False)

    def advance(more: int, remark: str = "") -> None:
        nonlocal at, said, told
        at, said = at + more, remark or said
        now = time.monotonic()
        if now - told >= EVERY and at < total:
            told = now
            tell(now)

    try:
        yield advance
    finally:
        tell(time.monotonic())
