"""A snapshot in a format, as one file to download."""

import hashlib
import io
import zipfile
from dataclasses import dataclass

from handrail.feedback import exports
from handrail.feedback.formats.folder import SUMS, sums
from handrail.feedback.store import Database, snapshots
from handrail.feedback.store.labels import NotThere

EPOCH = (1980, 1, 1, 0, 0, 0)  # of every file, so that the same snapshot gives the same bytes


@dataclass(frozen=True)
class Bundle:
    """A ZIP and the name it is to have."""

    name: str
    content: bytes
    sha256: str


def bundle(db: Database, snapshot: str, form: str, *, weights: bool = False) -> Bundle:
    """The files of an export with their notes in a ZIP.  Raises NotThere, InputError."""
    if not snapshots.there(db, snapshot):
        raise NotThere(f"there is no snapshot {snapshot!r}", "one of the project's snapshots")
    taken, made, notes = exports.make(db, snapshot, form, weighted=weights)
    files = exports.with_notes(made, notes)
    content = packed({**files, SUMS: sums(files)})
    name = f"{taken.project}-{taken.id}-{form}{'-weighted' if weights else ''}.zip"
    return Bundle(name, content, hashlib.sha256(content).hexdigest())


def packed(files: dict[str, bytes]) -> bytes:
    """A ZIP that depends on the files alone."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            about = zipfile.ZipInfo(name, EPOCH)
            about.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(about, files[name])
    return stream.getvalue()
