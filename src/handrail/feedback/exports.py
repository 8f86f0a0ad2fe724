"""A snapshot of the store in a format, with how much each labeller's rankings weigh."""

from handrail.errors import InputError
from handrail.feedback import provenance
from handrail.feedback.formats import Export, Options, export
from handrail.feedback.provenance import Provenance
from handrail.feedback.quality import Quality, summary
from handrail.feedback.store import Database, projects, review, snapshots
from handrail.feedback.store.snapshots import Snapshot

ASIDE = ("README.md",)  # files of an export that hold no records


def weights(quality: Quality) -> dict[str, float]:
    """The weight of each labeller's rankings; over several kinds of task the mean, by answers."""
    told: dict[str, list[tuple[int, float]]] = {}
    for part in quality.parts:
        for one in part.reliability:
            if one.answers:
                told.setdefault(one.labeller, []).append((one.answers, one.weight))
    return {name: sum(n * w for n, w in some) / sum(n for n, _ in some) for name, some in sorted(told.items())}


def make(
    db: Database, snapshot: str, form: str, *, weighted: bool = False, threshold: float | None = None
) -> tuple[Snapshot, Export, dict[str, Provenance]]:
    """A snapshot, its files in a format, and the note of each file that holds records.

    With `weighted`, rankings weigh as much as their labeller was reliable in all answers up to the snapshot.  For trl a
    rating above `threshold` is wanted, None: above the middle of its scale.  The same arguments give the same bytes.
    Raises InputError.
    """
    taken, found = snapshots.again(db, snapshot)
    given = weights(summary(review.everything(db, taken.project, taken.upto)[1])) if weighted else {}
    made = export(form, found, Options(weights=given, tasks=projects.all_settings(db, taken.project), threshold=threshold))
    told = {"format": form, "records": made.records, "left_out": made.left_out, "weights": given}
    notes = {
        name: provenance.of(taken, name, provenance.digest(content)).model_copy(update=told)
        for name, content in made.files.items()
        if name not in ASIDE
    }
    return taken, made, notes


def with_notes(made: Export, notes: dict[str, Provenance]) -> dict[str, bytes]:
    """The files of an export, and beside each that holds records the note of where it comes from."""
    return made.files | {f"{name}.snapshot.json": provenance.text(note).encode() for name, note in notes.items()}


def only(made: Export) -> tuple[str, bytes]:
    """Name and content of the one file that holds records.  Raises InputError where there are several."""
    files = {name: content for name, content in made.files.items() if name not in ASIDE}
    if len(files) > 1:
        told = ", ".join(f"{number} {name}" for name, number in made.records.items() if number)
        raise InputError(f"{told}: {len(files)} files", "one file has one kind of record", "give a folder, or one task with --task")
    return next(iter(files.items()))
