"""A snapshot in a format, as one file to download."""

import hashlib
import io
import zipfile
from dataclasses import dataclass

from handrail.errors import InputError
from handrail.feedback.formats import Options, export
from handrail.feedback.formats.folder import SUMS, sums
from handrail.feedback.quality import summary
from handrail.feedback.server.board import weights as weights_of
from handrail.feedback.store import Database, projects, review, snapshots
from handrail.feedback.store.labels import NotThere

EPOCH = (1980, 1, 1, 0, 0, 0)  # of every file, so that the same snapshot gives the same bytes


@dataclass(frozen=True)
class Bundle:
    """A ZIP and the name it is to have."""

    name: str
    content: bytes
    sha256: str


def bundle(db: Database, snapshot: str, form: str, *, weights: bool = False) -> Bundle:
    """The files of an export in a ZIP.  Raises NotThere, InputError."""
    try:
        taken, found = snapshots.again(db, snapshot)
    except InputError as error:
        raise NotThere(error.found, error.allowed, error.remedy) from error
    made = export(form, found, options(db, taken, weights=weights))
    content = packed({**made.files, SUMS: sums(made.files)})
    name = f"{taken.project}-{taken.id}-{form}{'-weighted' if weights else ''}.zip"
    return Bundle(name, content, hashlib.sha256(content).hexdigest())


def options(db: Database, taken: snapshots.Snapshot, *, weights: bool) -> Options:
    """What a format is told of a snapshot: the tasks' settings, and where asked for how much each labeller's rankings weigh."""
    tasks = {task.name: task.settings for task in projects.all_tasks(db, taken.project)}
    found = weights_of(summary(review.everything(db, taken.project, taken.upto)[1])) if weights else {}
    return Options(weights=found, tasks=tasks)


def packed(files: dict[str, bytes]) -> bytes:
    """A ZIP that depends on the files alone."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            about = zipfile.ZipInfo(name, EPOCH)
            about.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(about, files[name])
    return stream.getvalue()
