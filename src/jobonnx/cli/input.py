"""Titles from a file as people have it: one per line, or a column of a table, compressed or not."""

from __future__ import annotations

import csv
import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

import click

from jobonnx.errors import JobonnxError, reason
from jobonnx.files import read_lines, split_lines, unreadable

column_option = click.option(
    "--column", metavar="NAME", help="Column of the titles, in a .csv, .tsv, .parquet or .jsonl file, or one of these with .gz."
)


@dataclass(frozen=True)
class Table:
    """Titles and, if there are any, an id for each."""

    titles: list[str]
    ids: list[str] | None = None


def read_titles(path: Path, column: str | None) -> list[str]:
    """Read a file of titles.

    Args:
        path: one title per line, or a table by its name: .csv, .tsv, .parquet, .jsonl; .gz may be added to any of them.
        column: name of the titles' column; a table needs it, lines have none.

    Raises:
        JobonnxError: it cannot be read, a table has no such column, or lines were asked for one.
    """
    from jobonnx.data import tables

    if path.suffix.lower() in (".csv", ".tsv"):
        return read_table(path, column, None).titles  # without pyarrow
    if tables.is_table(path):
        return tables.read_titles([path], column)[0]
    if column is not None:
        fix = "leave --column out, or name a .csv, .tsv or .parquet file"
        raise JobonnxError(f"{path} has one title per line and no column {column!r}; {fix}")
    if path.suffix.lower() != ".gz":
        return read_lines(path)
    try:
        with gzip.open(path) as file:
            content = file.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise JobonnxError(f"{path} cannot be read ({reason(error)}); download or compress it again") from None
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None
    return split_lines(content, str(path))


def read_table(path: Path, column: str | None, id_column: str | None) -> Table:
    """Read titles and ids from a file: one title per line, or columns of a .tsv or .csv file whose first line names them.

    Raises:
        JobonnxError: it cannot be read, or has no such column, or a line with too few or too many fields, or one without an id.
    """
    lines = read_lines(path)
    delimiter = {".tsv": "\t", ".csv": ","}.get(path.suffix.lower())
    if delimiter is None:
        if column or id_column:
            raise JobonnxError(f"{path} has one title per line and no columns; name a .tsv or .csv file, or leave out the columns")
        return Table(lines)
    # Spreadsheets quote fields that hold the separator, quotes or line ends, in .tsv files too.
    rows = csv.reader((f"{line}\n" for line in lines), delimiter=delimiter, strict=True)
    try:
        header = next(rows, [])
        places = {name: _column(path, header, name) for name in (column, id_column) if name is not None}
        if column is None:
            raise JobonnxError(f"{path} has the columns {', '.join(header)}; name the one of the titles with --column")
        titles: list[str] = []
        ids: list[str] = []
        for row in rows:
            if not row:  # an empty line
                continue
            if len(row) != len(header):
                raise JobonnxError(
                    f"{path}, line {rows.line_num} has {len(row)} fields and the first line {len(header)}; give each line as many"
                )
            titles.append(row[places[column]])
            if id_column is not None:
                if not row[places[id_column]].strip():
                    raise JobonnxError(f"{path}, line {rows.line_num} has no {id_column}; give every title an id")
                ids.append(row[places[id_column]])
    except csv.Error as error:
        raise JobonnxError(f"{path}, line {rows.line_num} is not valid {path.suffix[1:].upper()} ({error}); correct it") from None
    return Table(titles, ids if id_column is not None else None)


def _column(path: Path, header: list[str], name: str) -> int:
    if header.count(name) != 1:
        found = "no column" if name not in header else "more than one column"
        raise JobonnxError(f"{path} has {found} {name!r}; its first line has {', '.join(header) or 'nothing'}")
    return header.index(name)
