"""A one-file report over the folder of a round or of a single run, and a picture of it."""

from handrail.inspector.picture import picture
from handrail.inspector.report import write_report

__all__ = ["picture", "write_report"]
