"""Files in and out of the feedback store.

export, write_export     labels -> files that others read; FORMATS names the formats, Options what they may be told
records_of               labels -> rankings, ratings, demonstrations
items_of                 records -> items for a task
read_items, write_items  items <-> a file
read_archive, write_archive   a whole project <-> a file
"""

from handrail.feedback.formats.archive import (
    Archive,
    ArchiveEvent,
    ArchiveHeader,
    ArchiveItem,
    ArchivePerson,
    ArchiveTask,
    read_archive,
    write_archive,
)
from handrail.feedback.formats.exporting import FORMATS, Export, export, write_export
from handrail.feedback.formats.items import Items, items_of, read_items, write_items
from handrail.feedback.formats.options import Options
from handrail.feedback.formats.said import records_of

__all__ = [
    "FORMATS",
    "Archive",
    "ArchiveEvent",
    "ArchiveHeader",
    "ArchiveItem",
    "ArchivePerson",
    "ArchiveTask",
    "Export",
    "Items",
    "Options",
    "export",
    "items_of",
    "read_archive",
    "read_items",
    "records_of",
    "write_archive",
    "write_export",
    "write_items",
]
