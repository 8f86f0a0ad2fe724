"""What leaves the feedback store as files: exports for training, whole projects to be kept."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from handrail.cli.feedback_store import STORE, Db, Project, store
from handrail.cli.frame import out, verb
from handrail.cli.results import following
from handrail.errors import InputError

if TYPE_CHECKING:
    from handrail.feedback.store import Database

Out = Annotated[Path, typer.Argument(metavar="OUT", help="A file such as rankings.jsonl, or a folder.", show_default=False)]
File = Annotated[Path, typer.Argument(metavar="FILE", help="The archive.", show_default=False)]
Form = Annotated[str, typer.Option("--format", help="handrail, trl, hh, labelstudio, argilla, csv, parquet or datasets.")]
Taken = Annotated[str, typer.Option("--snapshot", metavar="ID", help="One that was taken before; a new one if not given.")]
Weights = Annotated[bool, typer.Option("--weights", help="Rankings weigh as much as their labeller is reliable.")]
Threshold = Annotated[
    float | None,
    typer.Option("--threshold", help="Format trl: ratings above it are wanted, below it not.", show_default="the middle of the scale"),
]
Tasks = Annotated[list[str] | None, typer.Option("--task", metavar="NAME", help="Of this task alone; may be repeated.")]
Flagged = Annotated[bool, typer.Option("--flagged", help="Flagged labels too.")]
Extra = Annotated[bool, typer.Option("--extra/--no-extra", help="Those beyond the overlap, which came after their time, too.")]
Settled = Annotated[bool, typer.Option("--settled/--unsettled", help="Of a settled item the adjudicator's answer alone.")]
Without = Annotated[list[str] | None, typer.Option("--without", metavar="PSEUDONYM", help="Leave a labeller out; may be repeated.")]


@verb
def export(
    target: Out,
    project: Project,
    form: Form = "handrail",
    snapshot: Taken = "",
    weights: Weights = False,
    threshold: Threshold = None,
    tasks: Tasks = None,
    flagged: Flagged = False,
    extra: Extra = True,
    settled: Settled = True,
    without: Without = None,
    db: Db = STORE,
) -> dict:
    """Write labels as files to train on, with a note that leads back to every one of them.

    A snapshot of the labels as they stand is taken, or an earlier one is made again, byte for byte. Beside each file stands
    FILE.snapshot.json: the snapshot's id and rules, the SHA-256 of the labels and of the file, how many there are. Leave the
    two together: `handrail feedback trace RUN` walks from a trained model back through it.

    A name with an ending is one file, for one kind of record; a name without one is a folder.

    Example:  [bold]handrail feedback export labels/rankings.jsonl --project support --task round-1 --weights[/]
    """
    from handrail.feedback import exports, provenance
    from handrail.feedback.formats.folder import write_file, write_folder

    rules = (tasks, flagged, extra, settled, without)
    if snapshot and (tasks or flagged or not extra or not settled or without):
        raise InputError(f"--snapshot {snapshot} beside rules", "a snapshot has the rules it was taken by", "leave one of the two away")
    if threshold is not None and form != "trl":
        raise InputError(f"--threshold {threshold:g} with format {form}", "it is for trl; other formats keep the number", "leave it away")
    with store(db) as found:
        snapshot = snapshot or take(found, project, *rules)
        taken, made, notes = exports.make(found, snapshot, form, weighted=weights, threshold=threshold)
    if taken.project != project:
        raise InputError(f"snapshot {taken.id} is one of project {taken.project}", f"one of {project}", "see `handrail feedback status`")
    if target.suffix:
        name, content = exports.only(made)
        note = notes[name].model_copy(update={"file": target.name, "store": provenance.seen_from(target.parent, db)})
        write_file(target, content)
        write_file(provenance.beside(target), provenance.text(note).encode())
        files = {str(target): note.file_sha256}
    else:
        seen = provenance.seen_from(target, db)
        write_folder(target, exports.with_notes(made, {name: note.model_copy(update={"store": seen}) for name, note in notes.items()}))
        files = {str(target / name): note.file_sha256 for name, note in notes.items()}
    out.print(Text.assemble(("✓ ", "green"), f"{taken.labels:,} labels in {target}, snapshot {taken.id}"))
    out.print(Text(f"  {made.described}", "dim"))
    if form == "handrail" and "rankings" in made.records and made.records["rankings"]:
        data = target if target.suffix else target / "rankings.jsonl"
        following([(f"handrail reward reward.yaml data.path={data}", "a reward model from these labels")])
    told = {"snapshot": taken.id, "labels": taken.labels, "labels_sha256": taken.sha256, "rules": taken.rules.model_dump(mode="json")}
    return told | {"files": files, "records": made.records, "left_out": made.left_out, "weights": next(iter(notes.values())).weights}


def take(
    db: "Database", project: str, tasks: list[str] | None, flagged: bool, extra: bool, settled: bool, without: list[str] | None
) -> str:
    """The id of a snapshot of the labels as they stand now.  Raises InputError."""
    from handrail.feedback.store import snapshots
    from handrail.feedback.store.snapshots import Rules

    rules = Rules(tasks=tuple(tasks or ()), flagged=flagged, extra=extra, settled=settled, without=tuple(without or ()))
    return snapshots.take(db, project, rules)[0].id


@verb
def archive(file: File, project: Project, db: Db = STORE) -> dict:
    """Keep a whole project in one file: tasks, items, every event. Names and secrets of people stay behind.

    Brought into an empty store by `handrail feedback restore`, it gives the same labels, snapshots and ids.

    Example:  [bold]handrail feedback archive support.jsonl --project support[/]
    """
    from handrail.feedback.formats import write_archive
    from handrail.feedback.store.archive import collect

    with store(db) as found:
        kept = collect(found, project)
    digest = write_archive(file, kept)
    out.print(
        Text.assemble(("✓ ", "green"), f"{len(kept.items):,} items and {len(kept.events):,} events in {file}, SHA-256 {digest[:16]}…")
    )
    return {"file": str(file), "sha256": digest, "items": len(kept.items), "events": len(kept.events), "people": len(kept.people)}


@verb
def restore(file: File, db: Db = STORE) -> dict:
    """Bring a project that was kept in a file into an empty store.

    People come back under their pseudonyms and without access: `handrail feedback invite --again PSEUDONYM` gives each a new link.

    Example:  [bold]handrail feedback restore support.jsonl --db again.db[/]
    """
    from handrail.feedback.formats import read_archive
    from handrail.feedback.store.archive import apply

    kept = read_archive(file)
    with store(db, make=True) as found:
        apply(found, kept)
    project = kept.header.project
    out.print(Text.assemble(("✓ ", "green"), f"project {project}: {len(kept.items):,} items and {len(kept.events):,} events into {db}"))
    return {"project": project, "items": len(kept.items), "events": len(kept.events), "people": len(kept.people)}
