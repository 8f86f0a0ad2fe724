"""Labels to files, by the name of a format."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from handrail.errors import InputError
from handrail.feedback.formats.argilla import argilla
from handrail.feedback.formats.folder import sums, write_folder
from handrail.feedback.formats.labelstudio import labelstudio
from handrail.feedback.formats.options import Made, Options
from handrail.feedback.formats.pairs import transcripts, trl
from handrail.feedback.formats.said import Sayings, said
from handrail.feedback.formats.sheets import sheets
from handrail.feedback.formats.tables import datasets, handrail, parquet
from handrail.feedback.kinds import Label

FORMATS: dict[str, Callable[[Sayings, Options], Made]] = {
    "handrail": handrail,
    "trl": trl,
    "hh": transcripts,
    "labelstudio": labelstudio,
    "argilla": argilla,
    "csv": sheets,
    "parquet": parquet,
    "datasets": datasets,
}


@dataclass(frozen=True, slots=True)
class Export:
    """The files of an export by name, how many records the labels are, and what the format cannot hold, by reason."""

    format: str
    files: dict[str, bytes]
    records: dict[str, int]
    left_out: dict[str, int]

    @property
    def sha256(self) -> str:
        """Of all files together: the SHA-256 of SHA256SUMS."""
        return hashlib.sha256(sums(self.files)).hexdigest()

    @property
    def described(self) -> str:
        """One sentence: "trl: 12 rankings, 3 ratings; left out: a pair of equal place ... (2)"."""
        told = ", ".join(f"{number} {name}" for name, number in self.records.items() if number) or "nothing"
        left = "; ".join(f"{reason} ({number})" for reason, number in self.left_out.items())
        return f"{self.format}: {told}" + (f"; left out: {left}" if left else "")


def export(form: str, labels: Sequence[Label], options: Options | None = None) -> Export:
    """The files that labels are in a format.  The same labels and options give the same bytes.

    Raises InputError for a format that there is not, a wrong weight, and labels of which the format can hold nothing.
    """
    if form not in FORMATS:
        raise InputError(f"there is no format {form!r}", f"one of {', '.join(FORMATS)}")
    options = options or Options()
    sayings = said(labels, options.weights)
    made = FORMATS[form](sayings, options)
    left_out = dict(sayings.left_out + made.left_out)
    found = Export(form, made.files, sayings.counts, left_out)
    if not made.files:
        raise InputError(f"nothing to export: {found.described}", "at least one label that the format can hold", "choose another format")
    if "README.md" not in made.files:
        found.files["README.md"] = f"# Human feedback\n\n{found.described}\n\n{made.note}\n".encode()
    return found


def write_export(form: str, labels: Sequence[Label], folder: Path, options: Options | None = None) -> Export:
    """`export` into `folder`, whole or not at all, with SHA256SUMS; an earlier export there is replaced.

    Raises what `export` and `write_folder` raise.
    """
    found = export(form, labels, options)
    write_folder(folder, found.files)
    return found
