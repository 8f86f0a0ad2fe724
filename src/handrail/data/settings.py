"""Where records come from."""

from pydantic import Field

from handrail.config import Settings


class Source(Settings):
    """A file, a folder, a glob or a hub dataset, and how to read it."""

    path: str = Field(min_length=1)
    """A file, a folder, a glob, or a hub dataset (`hub:org/name` says so explicitly)."""
    split: str = "train"
    """Which split of a folder or a hub dataset."""
    subset: str = ""
    """Which configuration of a hub dataset."""
    format: str = "auto"
    """The name of a format (see docs/data.md), or `auto`."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Our field to their column, for example `{prompt: question, response: best_answer}`."""
    limit: int = Field(default=0, ge=0)
    """Read only so many rows; 0 reads all."""
