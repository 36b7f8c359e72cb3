"""What a job is: its input, what becomes of it, and how the input is cut into ranges, one for each part of the output."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from jobonnx.data.tables import Rows, TableFile, read_rows
from jobonnx.errors import JobonnxError

ON_BAD_ROW = ("skip", "null", "error")
MOST_BYTES = 1 << 16  # of a title, in UTF-8: whatever is longer is no title
PART_ROWS = 1 << 14  # of the input: 64 MiB of 1,024 float32 components; what a kill can lose, and a fair size of a Parquet file


@dataclass(frozen=True)
class Job:
    """What is to be done.

    Attributes:
        files: the input.
        column: name of the titles' column.
        id_column: name of the ids' column; None for the numbers of the rows, from 0, over all files.
        on_bad_row: what becomes of a row whose title is null, no text, or longer than `MOST_BYTES`: "skip" leaves it out, "null"
            keeps its id without a title and vector, "error" stops.
        prompt: is put before every title.
        part_rows: rows of the input for each part of the output.
    """

    files: tuple[TableFile, ...]
    column: str
    id_column: str | None = None
    on_bad_row: str = "error"
    prompt: str = ""
    part_rows: int = PART_ROWS

    def __post_init__(self) -> None:
        if self.on_bad_row not in ON_BAD_ROW:
            raise ValueError(f"on_bad_row={self.on_bad_row!r} is unknown; it is one of {', '.join(ON_BAD_ROW)}")


@dataclass(frozen=True)
class Range:
    """Rows of the input that become one part of the output.

    Attributes:
        number: from 0; range n has the rows from n * `Job.part_rows` on.
        rows: of the input.
        ids: pyarrow array of the ids of the rows that are kept.
        titles: pyarrow string array of their titles; null where `Job.on_bad_row` is "null".
        null: rows without a title.
        refused: rows whose title is no text, or too long.
        read: share of the input's bytes that lie before the end of this range, about.
    """

    number: int
    rows: int
    ids: Any
    titles: Any
    null: int
    refused: int
    read: float


def ranges(job: Job, done: int = 0) -> Iterator[Range]:
    """Cut the input into ranges, in order.

    Args:
        job: the job.
        done: how many ranges to leave out at the beginning.

    Raises:
        JobonnxError: the input is damaged, has ids of several types, or a bad row that is an error.
    """
    import pyarrow as pa

    first = done * job.part_rows
    id_type = _id_type(job) if job.id_column is not None else pa.int64()
    sizes = [max(1, file.size) for file in job.files]
    before = {file: sum(sizes[:place]) for place, file in enumerate(job.files)}
    held: list[_Piece] = []
    for rows in read_rows(job.files, job.column, job.id_column, first):
        pieces = [_piece(job, rows, first + sum(piece.rows for piece in held), id_type)]
        read = (before[rows.file] + rows.share * max(1, rows.file.size)) / sum(sizes)
        while sum(piece.rows for piece in held + pieces) >= job.part_rows:
            missing = job.part_rows - sum(piece.rows for piece in held)
            yield _range(job, done, [*held, pieces[0].head(missing)], read)
            held, pieces = [], [pieces[0].tail(missing)]
            done, first = done + 1, first + job.part_rows
        held += [piece for piece in pieces if piece.rows]
    if held:
        yield _range(job, done, held, 1.0)


@dataclass(frozen=True)
class _Piece:
    """Neighbouring rows, the bad ones among them."""

    ids: Any
    titles: Any
    bad: dict[int, str]

    @property
    def rows(self) -> int:
        return len(self.titles)

    def head(self, rows: int) -> _Piece:
        return _Piece(self.ids[:rows], self.titles[:rows], {place: what for place, what in self.bad.items() if place < rows})

    def tail(self, rows: int) -> _Piece:
        return _Piece(self.ids[rows:], self.titles[rows:], {p - rows: what for p, what in self.bad.items() if p >= rows})


def _piece(job: Job, rows: Rows, first: int, id_type: Any) -> _Piece:
    import pyarrow as pa
    import pyarrow.compute as pc

    bad = dict(rows.wrong)
    sizes = pc.binary_length(rows.titles).fill_null(0).to_numpy(zero_copy_only=False)
    for place in np.flatnonzero(sizes > MOST_BYTES):
        bad[int(place)] = f"a text of {sizes[place]:,} bytes"
    if rows.ids is None:
        return _Piece(pa.array(np.arange(first, first + len(rows.titles))), rows.titles, bad)
    ids = _plain(rows.ids)
    if ids.null_count == len(ids):
        ids = pa.nulls(len(ids), id_type)
    if ids.type != id_type:
        raise JobonnxError(
            f"{rows.file.name} has values of type {ids.type} in {job.id_column!r} and {job.files[0].name} has {id_type}; "
            "give all ids one type"
        )
    return _Piece(ids, rows.titles, bad)


def _id_type(job: Job) -> Any:
    import pyarrow as pa

    first = next(read_rows(job.files, job.column, job.id_column), None)
    return pa.string() if first is None else _plain(first.ids).type


def _plain(ids: Any) -> Any:
    """Give text and whole numbers one type each, however a file keeps them."""
    import pyarrow as pa

    if pa.types.is_dictionary(ids.type):
        ids = ids.dictionary_decode()
    if pa.types.is_large_string(ids.type) or pa.types.is_string_view(ids.type):
        return ids.cast(pa.string())
    if pa.types.is_integer(ids.type) and not pa.types.is_uint64(ids.type):
        return ids.cast(pa.int64())
    return ids


def _range(job: Job, number: int, pieces: list[_Piece], read: float) -> Range:
    import pyarrow as pa

    rows = sum(piece.rows for piece in pieces)
    ids = pa.concat_arrays([piece.ids for piece in pieces])
    titles = pa.concat_arrays([piece.titles for piece in pieces])
    starts = np.cumsum([0, *(piece.rows for piece in pieces)])
    bad = {int(start) + place: what for start, piece in zip(starts, pieces, strict=False) for place, what in piece.bad.items()}
    if bad:
        if job.on_bad_row == "error":
            place = min(bad)
            raise JobonnxError(
                f"row {number * job.part_rows + place + 1:,} of the input (id {_shown(ids[place].as_py())}) has {bad[place]} "
                f"in {job.column!r}; correct it, or pass --on-bad-row skip or null"
            )
        good = np.ones(rows, bool)
        good[list(bad)] = False
        if job.on_bad_row == "skip":
            ids, titles = ids.filter(pa.array(good)), titles.filter(pa.array(good))
        else:
            titles = pa.compute.if_else(pa.array(good), titles, pa.scalar(None, pa.string()))
    null = sum(what == "null" for what in bad.values())
    return Range(number, rows, ids, titles, null, len(bad) - null, read)


def _shown(name: Any) -> str:
    return str(name)[:100]
