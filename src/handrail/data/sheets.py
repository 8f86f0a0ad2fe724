"""Rows of CSV, strictly: each row as many cells as the header, quotes closed, UTF-8.

Cells are text; where a field is a number or a list, its cell is read as one.  A file of our own (its rows say "apostrophe"
in the column `inert`) has an apostrophe before each cell that a spreadsheet could have run, which is taken away, and a prompt
of several messages as JSON in the column `messages`.
"""

import csv
from collections.abc import Iterator
from io import BufferedIOBase
from typing import Any

from handrail.data import strict
from handrail.data.strict import Cell
from handrail.errors import DataError

_DELIMITERS = ",;\t"


def records(stream: BufferedIOBase, file: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line on which it begins, values by column) of each row.  Raises DataError with the file and line."""
    csv.field_size_limit(2**31 - 1)  # a response may be a megabyte
    first = strict.text(stream.readline(), f"{file}, line 1")
    delimiter = max(_DELIMITERS, key=first.count)
    reader = csv.reader(_lines(first, stream, file), delimiter=delimiter, strict=True)
    header: list[str] = []
    before = 0
    try:
        for cells in reader:
            where, line, before = f"{file}, line {before + 1}", before + 1, reader.line_num
            if not cells:
                continue
            if not header:
                header = _header(cells, where)
            elif len(cells) != len(header):
                found = f"{len(cells)} cells where the header has {len(header)}"
                raise DataError(f"{where}: {found}", "a cell for each column", "put quotes around text with commas or line breaks")
            else:
                yield line, _values(dict(zip(header, map(Cell, cells), strict=True)), where)
    except csv.Error as error:
        raise DataError(f"{file}, line {reader.line_num}: not CSV: {error}", "cells in closed quotes", "write the file again") from None


def _lines(first: str, stream: BufferedIOBase, file: str) -> Iterator[str]:
    yield first
    for number, raw in enumerate(stream, start=2):
        try:
            yield raw.decode("utf-8")
        except UnicodeDecodeError:
            yield strict.text(raw, f"{file}, line {number}")  # which says what is wrong


def _header(cells: list[str], where: str) -> list[str]:
    twice = next((name for name in cells if cells.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{where}: the column {twice!r} stands twice", "each column once", "rename one of the two")
    return cells


def _values(row: dict[str, Cell], where: str) -> dict[str, Any]:
    if row.get("inert") != "apostrophe":
        return dict(row)
    values: dict[str, Any] = {name: Cell(cell.removeprefix("'")) for name, cell in row.items() if name not in ("inert", "messages")}
    if row.get("messages"):
        values["prompt"] = strict.parse(row["messages"].encode(), f"{where}, 'messages'")
    return values
