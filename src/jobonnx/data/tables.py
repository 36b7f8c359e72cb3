"""Tables of titles: Parquet, CSV, TSV and JSON lines, plain or compressed, here or on any file system that pyarrow reaches.

A table is read in blocks, so memory stays the same however long it is. Of Parquet, the columns asked for are decoded page by page:
the scanner of pyarrow's dataset module decodes whole row groups, and a writer may have made one of the whole file. JSON lines are
decoded by msgspec: pyarrow stops at a value of another type, where a caller may want to leave out that row alone.

pyarrow comes with the extra `bulk` and is imported when a table is looked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import Any

from jobonnx.errors import JobonnxError, Stopped, reason

_BLOCK = 8 << 20  # bytes of CSV that are parsed at once: the longest row that is read
_LINE = 64 << 20  # bytes of the longest line of JSON that is read
_ROWS = 8192  # of Parquet and JSON lines that are decoded at once
_CHUNK = 1 << 18  # bytes of JSON lines that are read at once
_NAMES = 30  # columns that an error lists
_SUFFIXES = ".parquet, or in .csv, .tsv, .jsonl, .ndjson or .json, to which .gz or .zst may be added"
_AGAIN = "make or download the file again"


@dataclass(frozen=True)
class TableFile:
    """A file that holds a table.

    Attributes:
        name: as errors call it: the path, or the address on another file system.
        path: on its file system.
        filesystem: pyarrow's.
        size: bytes when it was found.
        modified: when it was last written before it was found, in nanoseconds since 1970; None where nobody knows.
    """

    name: str
    path: str
    filesystem: Any = field(repr=False, compare=False)
    size: int
    modified: int | None

    def check(self) -> None:
        """Check that the file is as it was found.

        Raises:
            JobonnxError: it has changed: somebody still writes it, say.
        """
        with _readable(self):
            info = self.filesystem.get_file_info(self.path)
        if (info.size, _modified(info)) != (self.size, self.modified):
            now = "is gone" if info.size is None else f"has {info.size:,} bytes now"
            fix = "read it when nobody writes it any more"
            raise JobonnxError(f"{self.name} has changed while it was read (it had {self.size:,} bytes and {now}); {fix}")


@dataclass(frozen=True)
class Rows:
    """Neighbouring rows of one file.

    Attributes:
        file: the file.
        first: the number of the first row in its file, from 0.
        titles: a pyarrow string array, null where a row has no title.
        ids: a pyarrow array of the ids, in the file's own type; None if no ids were asked for.
        wrong: what stands in place of a title, by its place in this block: "null", "a number", ...
        share: how much of the file has been read, 0 to 1.
    """

    file: TableFile
    first: int
    titles: Any
    ids: Any
    wrong: dict[int, str]
    share: float


@dataclass(frozen=True)
class _Block:
    """What a reader gives: pyarrow arrays by column, and what is no text in them, by column and place; no columns if skipped."""

    rows: int
    share: float
    columns: dict[str, Any] = field(default_factory=dict)
    wrong: dict[str, dict[int, str]] = field(default_factory=dict)


_Reader = Callable[[TableFile, list[str], int], Iterator[_Block]]


def is_table(path: str | os.PathLike[str]) -> bool:
    """Tell whether a name is that of a table: .parquet, .csv, .tsv, .jsonl, .ndjson or .json, maybe with .gz or .zst."""
    return _reader(os.fspath(path)) is not None


def find_tables(inputs: Sequence[str | os.PathLike[str]]) -> list[TableFile]:
    """Find the files of tables.

    Args:
        inputs: each a file, a folder, or a pattern (`*`, `?` and `[...]` within a name, `**` for any folders); paths, or addresses
            on other file systems, such as s3://bucket/ads/*.parquet, in which only the stars are special.

    Returns:
        The files in the order of `inputs`; those of a folder or a pattern by path.

    Raises:
        JobonnxError: pyarrow is not installed, nothing is found, or a file is no table.
    """
    return [file for one in inputs for file in _find(os.fspath(one))]


def read_rows(files: Sequence[TableFile], column: str, id_column: str | None = None, skip: int = 0) -> Iterator[Rows]:
    """Read titles, and ids where a column of them is named, block by block.

    Args:
        files: what `find_tables` found.
        column: name of the titles' column.
        id_column: name of the ids' column.
        skip: how many rows to leave out at the beginning, counted over all files.

    Raises:
        JobonnxError: a file is damaged, is not UTF-8, lacks a column, or has changed since it was found.
    """
    for file in files:
        blocks = _blocks(file, column, id_column, skip)
        while True:
            try:
                with _readable(file):
                    block = next(blocks, None)
            except JobonnxError:
                file.check()  # a file that somebody still writes may end in the middle of a row
                raise
            if block is None:
                break
            if isinstance(block, Rows):
                yield block
            else:
                skip -= block
        file.check()


def read_titles(
    inputs: Sequence[str | os.PathLike[str]], column: str | None, id_column: str | None = None
) -> tuple[list[str], list[str] | None]:
    """Read whole tables into memory.

    Args:
        inputs: as `find_tables` takes them.
        column: name of the titles' column; None is an error that lists the columns.
        id_column: name of the ids' column.

    Returns:
        The titles, and the ids as text, None if no ids were asked for.

    Raises:
        JobonnxError: as `find_tables` and `read_rows`; or a row has no title, or no id.
    """
    files = find_tables(inputs)
    if column is None:
        with _readable(files[0]):
            names = _listed(_names(files[0]))
        raise JobonnxError(f"{files[0].name} has the columns {names}; name the one of the titles with --column")
    titles: list[str] = []
    ids: list[str] = []
    for rows in read_rows(files, column, id_column):
        for place, what in rows.wrong.items():
            number = rows.first + place + 1
            fix = "give every row a title, or leave it out"
            raise JobonnxError(f"{rows.file.name}, row {number:,} has {what} in {column!r}; {fix}")
        titles += rows.titles.to_pylist()
        if rows.ids is not None:
            more = ["" if name is None else str(name) for name in rows.ids.to_pylist()]
            if "" in more:
                number = rows.first + more.index("") + 1
                raise JobonnxError(f"{rows.file.name}, row {number:,} has no {id_column}; give every title an id")
            ids += more
    return titles, None if id_column is None else ids


def _arrow() -> Any:
    """Import pyarrow, with those of its modules that are used."""
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.csv
        import pyarrow.fs
        import pyarrow.parquet
    except ImportError as error:
        raise JobonnxError(f'tables need pyarrow ({reason(error)}); install it: pip install "jobonnx[bulk]"') from None
    return pyarrow


@contextmanager
def _readable(file: TableFile) -> Iterator[None]:
    """Turn whatever goes wrong with a file into one sentence."""
    try:
        yield
    except (JobonnxError, Stopped):
        raise
    except MemoryError:
        raise JobonnxError(f"{file.name} cannot be read (out of memory); free some memory") from None
    except OSError as error:  # Arrow's decompressors raise it too, without a number
        fix = "mend that" if error.errno else _AGAIN
        raise JobonnxError(f"{file.name} cannot be read ({error.strerror or reason(error)}); {fix}") from None
    except Exception as error:  # what Arrow and msgspec raise has no common base below this one
        said = reason(error)
        if isinstance(error, UnicodeDecodeError) or "invalid utf" in said.lower():
            raise JobonnxError(f"{file.name} is not UTF-8; convert it, for instance with iconv") from None
        if "straddling" in said:
            said = f"a row has more than {_BLOCK:,} bytes, or a quote is not closed"
        raise JobonnxError(f"{file.name} cannot be read ({said}); {_AGAIN}") from None


def _find(one: str) -> list[TableFile]:
    fs = _arrow().fs
    remote = "://" in one
    try:
        if remote:
            filesystem, path = fs.FileSystem.from_uri(one)
        else:
            filesystem, path = fs.LocalFileSystem(), Path(one).absolute().as_posix()
        info = filesystem.get_file_info(path)
        if info.type == fs.FileType.File:
            if not is_table(path):
                raise JobonnxError(f"{one} is no table by its name; the name has to end in {_SUFFIXES}")
            return [TableFile(one, path, filesystem, info.size, _modified(info))]
        pattern = f"{path.rstrip('/')}/**" if info.type == fs.FileType.Directory else path
        fixed = pattern[: min((pattern.index(mark) for mark in "*?[" if mark in pattern), default=0)].rpartition("/")[0]
        deep = "**" in pattern or "/" in pattern[len(fixed) + 1 :]
        below = filesystem.get_file_info(fs.FileSelector(fixed or "/", allow_not_found=True, recursive=deep)) if fixed else []
    except (OSError, ValueError, NotImplementedError) as error:
        raise JobonnxError(f"{one!r} cannot be read ({reason(error)}); mend that or name another file") from None
    files = []
    for info in sorted(below, key=lambda info: str(info.path)):
        if info.type == fs.FileType.File and is_table(info.path) and _matches(info.path.split("/"), pattern.split("/")):
            scheme = one.partition("://")[0]
            local = info.path if Path(one).is_absolute() else os.path.relpath(info.path)
            name = f"{scheme}://{info.path}" if remote else local
            files.append(TableFile(name, info.path, filesystem, info.size, _modified(info)))
    if not files:
        what = "holds no table" if pattern != path else "matches no table" if fixed else "does not exist"
        raise JobonnxError(f"{one} {what}; name a table, a folder of tables, or a pattern in quotes")
    return files


def _matches(parts: list[str], pattern: list[str]) -> bool:
    """Match a path with a pattern, name by name; hidden files, and leftovers such as Spark's _SUCCESS, have to be named."""
    if not parts or not pattern:
        return not parts and not pattern
    if parts[0][:1] in (".", "_") and pattern[0][:1] != parts[0][:1]:
        return False
    if pattern[0] == "**":
        return _matches(parts[1:], pattern) or _matches(parts, pattern[1:] or ["*"])
    return fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _modified(info: Any) -> int | None:
    return None if info.mtime_ns is None else int(info.mtime_ns)


def _reader(path: str) -> _Reader | None:
    """Return the function that reads a file of this name; None if that is no table's."""
    if path.lower().endswith(".parquet"):
        return _read_parquet
    return {".csv": _read_csv, ".tsv": _read_csv, ".jsonl": _read_json, ".ndjson": _read_json, ".json": _read_json}.get(_kind(path))


def _kind(path: str) -> str:
    return Path(path.lower().removesuffix(".gz").removesuffix(".zst")).suffix


@contextmanager
def _stream(file: TableFile) -> Iterator[tuple[Any, Callable[[], float]]]:
    """Open a file, decompressed if its name says so; and give the function that tells which share of it has been read."""
    pa = _arrow()
    compression = {".gz": "gzip", ".zst": "zstd"}.get(Path(file.path).suffix.lower())
    with file.filesystem.open_input_stream(file.path, compression=None) as raw:
        counted = _Counted(raw)
        stream = pa.PythonFile(counted, mode="r")
        yield (
            stream if compression is None else pa.CompressedInputStream(stream, compression),
            lambda: min(1.0, counted.count / max(1, file.size)),
        )


class _Counted:
    """A stream that counts what is read of it: Arrow's own know no position on all file systems."""

    closed = False

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        content: bytes = self._raw.read(size)
        self.count += len(content)
        return content

    def close(self) -> None:
        self.closed = True


def _names(file: TableFile) -> list[str]:
    """Return the names of a file's columns; of JSON lines, those of the first ones."""
    read = _reader(file.path)
    if read is _read_parquet:
        with file.filesystem.open_input_file(file.path) as opened:
            return list(_arrow().parquet.ParquetFile(opened).schema_arrow.names)
    with _stream(file) as (stream, _):
        if read is _read_csv:
            return list(_arrow().csv.open_csv(stream, **_csv_options(file)).schema.names)
        return _keys(line for _, line in islice(_lines(file, stream), _ROWS))


def _choose(file: TableFile, names: Sequence[str], columns: Sequence[str]) -> None:
    """Raise JobonnxError unless a file has each of these columns once."""
    for column in columns:
        if (count := list(names).count(column)) != 1:
            found = "more than one column" if count else "no column"
            raise JobonnxError(f"{file.name} has {found} {column!r}; it has {_listed(names)}")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES:,} more" if len(names) > _NAMES else ""
    return (", ".join(names[:_NAMES]) or "no columns") + more


def _rows(file: TableFile, first: int, block: _Block, skipped: int, column: str, id_column: str | None) -> Rows:
    """Cut what is skipped off a block, and make its titles text: what is none becomes null and is told."""
    pa = _arrow()
    titles = block.columns[column][skipped:]
    wrong = {place - skipped: what for place, what in block.wrong.get(column, {}).items() if place >= skipped}
    if pa.types.is_dictionary(titles.type):
        titles = titles.dictionary_decode()
    if pa.types.is_string(titles.type) or pa.types.is_large_string(titles.type) or pa.types.is_string_view(titles.type):
        titles.validate(full=True)  # Parquet's claim that it is UTF-8 is believed otherwise
        titles = titles.cast(pa.string())
    else:
        wrong |= {int(place): f"a value of type {titles.type}" for place in titles.is_valid().to_numpy(False).nonzero()[0]}
        titles = pa.nulls(len(titles), pa.string())
    for place in titles.is_null().to_numpy(False).nonzero()[0] if titles.null_count else ():
        wrong.setdefault(int(place), "null")
    ids = None if id_column is None else block.columns[id_column][skipped:]
    return Rows(file, first + skipped, titles, ids, dict(sorted(wrong.items())), block.share)


def _blocks(file: TableFile, column: str, id_column: str | None, skip: int) -> Iterator[Rows | int]:
    """Read a file: blocks of rows, and before them how many were left out."""
    read = _reader(file.path)
    if read is None:
        raise ValueError(f"{file.name} is no table; take files from find_tables")
    first = 0
    for block in read(file, list(dict.fromkeys(name for name in (column, id_column) if name is not None)), skip):
        if skipped := min(skip, block.rows):
            yield skipped
        if skipped < block.rows:
            yield _rows(file, first, block, skipped, column, id_column)
        skip -= skipped
        first += block.rows


def _read_parquet(file: TableFile, columns: list[str], skip: int) -> Iterator[_Block]:
    with file.filesystem.open_input_file(file.path) as opened:
        parquet = _arrow().parquet.ParquetFile(opened, buffer_size=1 << 20)
        _choose(file, parquet.schema_arrow.names, columns)
        sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
        start = 0
        while start < len(sizes) and sum(sizes[: start + 1]) <= skip:
            start += 1
        if start:
            yield _Block(sum(sizes[:start]), 0.0)
        if start < len(sizes):
            rows = sum(sizes[:start])
            for batch in parquet.iter_batches(_ROWS, row_groups=range(start, len(sizes)), columns=columns, use_threads=False):
                rows += batch.num_rows
                yield _Block(batch.num_rows, rows / sum(sizes), {name: batch.column(name) for name in columns})


def _read_csv(file: TableFile, columns: list[str], skip: int) -> Iterator[_Block]:
    if not file.size:
        raise JobonnxError(f"{file.name} is empty; its first line has to name the columns")
    _choose(file, _names(file), columns)
    with _stream(file) as (stream, share):
        for batch in _arrow().csv.open_csv(stream, **_csv_options(file, columns)):
            yield _Block(batch.num_rows, share(), {name: batch.column(name) for name in columns})


def _csv_options(file: TableFile, columns: list[str] | None = None) -> dict[str, Any]:
    pa = _arrow()
    types = dict.fromkeys(columns or (), pa.string())  # an id such as 007 is no number
    return {
        "read_options": pa.csv.ReadOptions(block_size=_BLOCK, use_threads=False),  # without threads, errors number the row
        "parse_options": pa.csv.ParseOptions(delimiter="\t" if _kind(file.path) == ".tsv" else ",", newlines_in_values=True),
        "convert_options": pa.csv.ConvertOptions(include_columns=columns, column_types=types, strings_can_be_null=False),
    }


def _read_json(file: TableFile, columns: list[str], skip: int) -> Iterator[_Block]:
    import msgspec

    names = {f"column_{place}": name for place, name in enumerate(columns)}
    kind = msgspec.defstruct("Line", [(name, msgspec.Raw, msgspec.Raw()) for name in names], rename=names)
    decode = msgspec.json.Decoder(kind).decode
    with _stream(file) as (stream, share):
        lines = _lines(file, stream)
        first = True
        while block := list(islice(lines, _ROWS)):
            rows = []
            for number, line in block:
                try:
                    rows.append([_json_value(raw) for raw in msgspec.structs.astuple(decode(line))])
                except (msgspec.MsgspecError, RecursionError) as error:
                    fix = "give one object on each line"
                    raise JobonnxError(f"{file.name}, line {number:,} is no JSON object ({reason(error)}); {fix}") from None
            by_column = dict(zip(columns, zip(*rows, strict=True), strict=True))
            if first and any(all(value is _MISSING for value in values) for values in by_column.values()):
                _choose(file, _keys(line for _, line in block), columns)
            first = False
            yield _json_block(file, by_column, columns[0], share())


@dataclass(frozen=True)
class _Odd:
    """What is neither text nor a whole number."""

    what: str


_MISSING = _Odd("null")  # no such key in the object
_ODD = {b"n": "null", b"{": "an object", b"[": "a list", b"t": "a boolean", b"f": "a boolean"}


def _json_value(raw: Any) -> str | int | _Odd:
    """Decode a value: text, a whole number, or what it is instead."""
    import msgspec

    start = bytes(memoryview(raw)[:1])
    if start == b'"':
        return msgspec.json.decode(raw, type=str)
    if not start:
        return _MISSING
    if start in _ODD:
        return _Odd(_ODD[start])
    try:
        return msgspec.json.decode(raw, type=int)
    except msgspec.ValidationError:
        return _Odd("a number")


def _json_block(file: TableFile, by_column: dict[str, tuple[str | int | _Odd, ...]], titles: str, share: float) -> _Block:
    pa = _arrow()
    columns, wrong = {}, {}
    for name, values in by_column.items():
        if name == titles:
            columns[name] = pa.array([value if isinstance(value, str) else None for value in values], pa.string())
            wrong[name] = {
                place: value.what if isinstance(value, _Odd) else "a number"
                for place, value in enumerate(values)
                if not isinstance(value, str)
            }
            continue
        for value in values:
            if isinstance(value, _Odd) and value.what != "null":
                raise JobonnxError(f"{file.name} has {value.what} in {name!r}; an id has to be text or a whole number")
        kinds = {type(value) for value in values if not isinstance(value, _Odd)}
        if len(kinds) > 1:
            raise JobonnxError(f"{file.name} has text and numbers in {name!r}; make all ids text, or all numbers")
        type_ = pa.int64() if kinds == {int} else pa.string()
        columns[name] = pa.array([None if isinstance(value, _Odd) else value for value in values], type_)
    return _Block(len(columns[titles]), share, columns, wrong)


def _keys(lines: Any) -> list[str]:
    """Return the names that objects have, in the order of appearance."""
    import msgspec

    return list(dict.fromkeys(key for line in lines for key in msgspec.json.decode(line, type=dict[str, msgspec.Raw])))


def _lines(file: TableFile, stream: Any) -> Iterator[tuple[int, bytes]]:
    """Read the lines that are not blank, with their numbers from 1."""
    number, rest = 0, b""
    while True:
        chunk = stream.read(_CHUNK)
        *lines, rest = (rest + chunk).split(b"\n") if chunk else (rest, b"")
        for line in lines:
            number += 1
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if line.strip():
                yield number, line
        if not chunk:
            return
        if len(rest) > _LINE:
            raise JobonnxError(f"{file.name}, line {number + 1:,} has more than {_LINE:,} bytes; give one object on each line")
