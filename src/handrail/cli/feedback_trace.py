"""`handrail feedback trace`: from a trained model back to every label, who gave it, when, and what was shown."""

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from handrail.cli.feedback_store import STORE, store
from handrail.cli.frame import out, shown, verb
from handrail.errors import InputError

if TYPE_CHECKING:
    from handrail.feedback.kinds import Label
    from handrail.feedback.store import Database
    from handrail.inspector.origins import Origin

Run = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run or of a round.", show_default=False)]
One = Annotated[str, typer.Option("--label", metavar="ID", help="All about this one label; the beginning of its id is enough.")]
Of = Annotated[str, typer.Option("--db", metavar="PATH|URL", help="The store.", show_default="what the file's note says, else feedback.db")]
Rows = Annotated[int, typer.Option("--rows", min=0, help="Lines of the table at most; --json has all.")]


@verb
def trace(run: Run, label: One = "", rows: Rows = 20, db: Of = "") -> dict:
    """Walk from a trained model back to the labels that it learned from.

    The run's config names its files and the models that it began with; beside an exported file stands the note of its
    snapshot; the store makes the snapshot again and compares its SHA-256. So a model of PPO leads through its reward model to
    each answer: who gave it, when, in which order the responses stood.

    Example:  [bold]handrail feedback trace runs/reward[/]   [bold]handrail feedback trace runs/ppo --label ID[/]
    """
    from handrail.inspector.origins import origins

    found = origins(run)
    if not found:
        raise InputError(f"{run}: none of its files comes from a feedback store", "a file that `handrail feedback export` wrote")
    traced = []
    for origin in found:
        with store(db or origin.store or STORE) as open_store:
            traced.append((origin, behind(open_store, origin)))
    if label:
        origin, one = meant(label, traced)
        with store(db or origin.store or STORE) as open_store:
            return whole(open_store, origin, one)
    for origin, labels in traced:
        tell(origin, labels, rows)
    return {"run": str(run), "origins": [told(origin, labels) for origin, labels in traced]}


def behind(db: "Database", origin: "Origin") -> "list[Label]":
    """The labels behind a file: those of its snapshot, or where it has no note those that its lines name.

    Raises InputError where the store cannot make the snapshot again, byte for byte.
    """
    from handrail.feedback.store import review, snapshots

    if origin.note is not None:
        taken, labels = snapshots.again(db, origin.note.snapshot)
        if taken.sha256 != origin.note.labels_sha256:
            found = f"the store's snapshot {taken.id} has the SHA-256 {taken.sha256[:16]}…, the note of {origin.file} another"
            raise InputError(found, "the store that the file was exported from", "give --db PATH|URL")
        return labels
    return review.named(db, origin.labels)


def answer_of(label: "Label") -> str:
    """What was answered, in words."""
    from handrail.feedback.words import in_words

    return in_words(label.answer)


def moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def tell(origin: "Origin", labels: "list[Label]", rows: int) -> None:
    """A file and a table of its labels."""
    out.print(Text.assemble((str(origin.file), "bold"), f"  {origin.key} of {origin.run}"))
    if origin.note is None:
        out.print(
            Text(f"  no note beside it; its lines name {len(origin.labels):,} labels, {len(labels):,} of them in this store", "yellow")
        )
    else:
        note = origin.note
        out.print(
            Text(f"  snapshot {note.snapshot} of {note.project}, {moment(note.created)}, {note.labels:,} labels, the same in the store")
        )
        if not origin.same:
            out.print(Text("  the run was not started with these very bytes: the file was exported again, or mixed with others", "yellow"))
    table = Table(box=None, padding=(0, 1))
    for name in ("label", "labeller", "when", "task", "prompt", "answer"):
        table.add_column(name, no_wrap=True, overflow="ellipsis", min_width=5 if name in ("prompt", "answer") else None)
    length = enough(labels)
    for one in labels[:rows]:
        prompt = shown(one.prompt.messages[-1].content.replace("\n", " "))
        cells = (one.id[:length], one.labeller, moment(one.at)[:16], one.task, prompt[:40], shown(answer_of(one).replace("\n", " "))[:40])
        table.add_row(*(Text(cell) for cell in cells))
    out.print(table)
    more = f"and {len(labels) - rows:,} more; --json has all. " if len(labels) > rows else ""
    out.print(Text(f"  {more}--label=ID tells all about one", "dim"))


def enough(labels: "list[Label]") -> int:
    """How many characters of the ids tell them apart, at least 8."""
    longest = max((len(one.id) for one in labels), default=8)
    return next((n for n in range(8, longest) if len({one.id[:n] for one in labels}) == len(labels)), longest)


def told(origin: "Origin", labels: "list[Label]") -> dict[str, Any]:
    """A file and its labels for --json."""
    note = origin.note.model_dump(mode="json") if origin.note else None
    about = {"run": str(origin.run), "key": origin.key, "file": str(origin.file), "trained_on_these_bytes": origin.same, "note": note}
    return about | {"labels": [one.model_dump(mode="json") for one in labels]}


def meant(label: str, traced: "list[tuple[Origin, list[Label]]]") -> "tuple[Origin, Label]":
    """The label whose id begins so.  Raises InputError where the run has none, or several."""
    found = {one.id: (origin, one) for origin, labels in traced for one in labels if one.id.startswith(label)}
    if not found:
        raise InputError(f"the run did not learn from a label {label!r}", "an id that the table or the file's `label` names")
    if label not in found and len(found) > 1:
        raise InputError(f"{len(found)} labels begin with {label!r}", f"one of {', '.join(list(found)[:8])}", "give more of the id")
    return found.get(label) or next(iter(found.values()))


def whole(db: "Database", origin: "Origin", one: "Label") -> dict:
    """Print all about one label."""
    from handrail.feedback.store import review

    now, past = review.one_label(db, one.id)
    lines = [
        ("label", one.id),
        ("file", f"{origin.file} ({origin.key} of {origin.run})"),
        ("task", f"{one.project}/{one.task}, revision {one.revision}"),
    ]
    lines += [("labeller", one.labeller), ("when", f"{moment(one.at)}, after {one.seconds:.1f} s"), ("purpose", one.purpose)]
    lines += [(message.role, shown(message.content)) for message in one.prompt.messages]
    for place, index in enumerate(one.order):
        model = f", by {one.models[index]}" if one.models else ""
        lines.append(
            (f"response {'ABCDEFGHI'[index]}", f"(stood at place {place + 1} of the screen{model})\n{shown(one.responses[index])}")
        )
    lines += [("answer", shown(answer_of(one)))] + ([("reason", shown(one.reason))] if one.reason else [])
    if now is None or now.answer != one.answer:
        lines.append(("since then", "taken back" if now is None else f"changed to: {shown(answer_of(now))}"))
    lines.append(("shown", f"SHA-256 {one.shown}"))
    lines += [(f"event {event.version}", f"{event.act} by {event.by}, {moment(event.at)}") for event in past]
    grid = Table.grid(padding=(0, 2))
    for name, text in lines:
        grid.add_row(Text(name, "bold"), Text(text))
    out.print(grid)
    return {"file": str(origin.file), "label": one.model_dump(mode="json"), "past": [asdict(event) for event in past]}
