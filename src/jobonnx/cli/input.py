"""Titles from a file as people have it: one per line, or a column of a table, compressed or not."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import click

from jobonnx.cli.index import read_table
from jobonnx.errors import JobonnxError, reason
from jobonnx.files import read_lines, split_lines, unreadable

column_option = click.option(
    "--column", metavar="NAME", help="Column of the titles, in a .csv, .tsv, .parquet or .jsonl file, or one of these with .gz."
)


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
