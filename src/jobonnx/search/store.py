"""How an index lies on disk, how it is written in one transaction, and how damage is noticed.

A *row* is a place in the file of vectors. A row with a title is live, a row without one is removed. Rows are written in *chunks* of
at most 1,024. A chunk is one row of the database: the SHA-256 of its vectors, which never change, and its titles and ids as JSON
with a SHA-256 over all of it. JSON, because one SQL row per title made opening 19 times slower.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import sqlite3
import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Self

import numpy as np

from jobonnx.arrays import Floats, Ints
from jobonnx.errors import JobonnxError, reason
from jobonnx.files import FULL
from jobonnx.search.approximate import Approximate
from jobonnx.search.topk import Rows, check_integer, check_unit
from jobonnx.strict_json import convert, parse_json

DATABASE = "index.sqlite"
MOST_DIMENSIONS = 1 << 16
_FORMAT = 3
_APPLICATION = 0x6A6F626F  # "jobo" in the database's header
_CHUNK = 1024  # rows; 4 MiB of vectors with 1,024 dimensions
_NAME = re.compile(r"[0-9a-f]{16}\.(vectors|approximate)")  # what a sweep may delete: other files are not the index's
_PATIENCE = 60  # seconds that a reader waits for a commit, and a commit for its readers
RESTORE = "restore it or make the index again"
_SCHEMA = (
    "CREATE TABLE header (body TEXT, sha256 TEXT)",
    "CREATE TABLE chunk (first INTEGER PRIMARY KEY, vectors_sha256 TEXT, content BLOB, sha256 TEXT)",
)


@dataclass(frozen=True)
class Saved:
    """An approximate search on disk."""

    name: str
    size: int
    sha256: str
    probes: int
    recall: float

    def __post_init__(self) -> None:
        _check_name(self.name, "approximate")
        check_integer(self.size, "size", 1)
        check_integer(self.probes, "probes", 1, 1 << 31)


@dataclass(frozen=True)
class Header:
    """What the index is.

    Attributes:
        version: a random word per commit, so that two headers are equal only if everything is.
        fingerprint: of the encoder.
        dimension: of the vectors.
        prompt: what stood before every title when it was encoded.
        rows: how many rows of the file of vectors are committed, removed ones included.
        vectors: the name of that file; None if there are no rows.
        approximate: the approximate search, if it is built for these titles.
    """

    version: str
    fingerprint: str
    dimension: int
    prompt: str
    rows: int
    vectors: str | None
    approximate: Saved | None

    def __post_init__(self) -> None:
        check_integer(self.dimension, "dimension", 1, MOST_DIMENSIONS)
        check_integer(self.rows, "rows", 0)
        if (self.vectors is None) != (self.rows == 0):
            raise ValueError(f"vectors is {self.vectors} and rows is {self.rows}; they have to agree")
        if self.vectors is not None:
            _check_name(self.vectors, "vectors")

    def next(self) -> Header:
        """Return the same header for another commit."""
        return replace(self, version=secrets.token_hex(8))


@dataclass(frozen=True)
class Chunk:
    """Rows with one checksum of their vectors: `count` of them from `first` on."""

    first: int
    count: int
    vectors_sha256: str


@dataclass(frozen=True)
class Content:
    """The titles of a chunk's rows, None for removed ones, and their ids, nothing if no row has any."""

    titles: list[str | None]
    ids: list[list[str]]

    def __post_init__(self) -> None:
        if not self.titles or (self.ids and len(self.ids) != len(self.titles)):
            raise ValueError("titles and ids have to be equally many")


@dataclass(frozen=True)
class State:
    """An index as it was committed. It keeps what it needs when a later write deletes the files.

    Attributes:
        folder: where it lies.
        header: what it is.
        rows: the live rows, int64 ascending.
        titles: their titles.
        ids: the ids of each live row that has some.
        chunks: every row's chunk, in order.
    """

    folder: Path
    header: Header
    rows: Ints
    titles: list[str]
    ids: dict[int, tuple[str, ...]]
    chunks: tuple[Chunk, ...]

    @classmethod
    def load(cls, db: sqlite3.Connection, folder: Path) -> Self:
        """Read the state within a transaction, check its titles and ids, and map its files into memory.

        Raises:
            JobonnxError: the database or a file is missing, truncated, altered, or of a later format.
        """
        header = read_header(db, folder)
        path = folder / DATABASE
        rows: list[int] = []
        titles: list[str] = []
        ids: dict[int, tuple[str, ...]] = {}
        chunks: list[Chunk] = []
        covered = 0
        for first, vectors_sha256, text, sha256 in db.execute("SELECT * FROM chunk ORDER BY first"):
            values = (vectors_sha256, text, sha256)
            if (
                not all(isinstance(value, bytes) for value in values)
                or _titles_sha256(first, vectors_sha256, text).encode() != sha256
            ):
                raise JobonnxError(f"{path} was altered (the titles from {first} on differ from their SHA-256); {RESTORE}")
            content = _parse(text, path)
            chunks.append(Chunk(first, len(content.titles), vectors_sha256.decode()))
            if first != covered:
                break
            rows += [row for row, title in enumerate(content.titles, first) if title is not None]
            titles += [title for title in content.titles if title is not None]
            ids |= {row: tuple(names) for row, names in enumerate(content.ids, first) if names}
            covered += len(content.titles)
        if covered != header.rows or (ids and not ids.keys() <= set(rows)):
            raise JobonnxError(f"{path} is damaged (its chunks do not fit together); {RESTORE}")
        state = cls(folder, header, np.array(rows, np.int64), titles, ids, tuple(chunks))
        state.map_files()
        return state

    def map_files(self) -> None:
        """Open the files, which a later write may delete."""
        _ = self.vectors, self.saved

    def verify(self) -> None:
        """Compare the SHA-256 of the vectors and of the approximate search, and the vectors' lengths.

        Raises:
            JobonnxError: a file was altered, or holds vectors that `Index.add` does not take.
        """
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing releases the interpreter's lock
            for _ in pool.map(self._check_chunk, self.chunks):
                pass
        if (saved := self.header.approximate) and hashlib.sha256(self.saved or b"").hexdigest() != saved.sha256:
            raise _altered(self.folder / saved.name)

    @cached_property
    def vectors(self) -> Floats:
        """The vectors of all rows, float32 [rows, dimension], mapped from their file."""
        shape = (self.header.rows, self.header.dimension)
        if self.header.vectors is None:
            return np.empty(shape, np.float32)
        path = self.folder / self.header.vectors
        _check_size(path, 4 * shape[0] * shape[1], or_more=True)
        return np.memmap(path, np.float32, "r", shape=shape)

    @cached_property
    def searched(self) -> Rows:
        """The rows as the searches take them."""
        hidden = None
        if len(self.rows) < self.header.rows:
            hidden = np.ones(self.header.rows, np.bool_)
            hidden[self.rows] = False
        return Rows(self.vectors, hidden, checked=True)  # by `Index.add`

    @cached_property
    def saved(self) -> mmap | None:
        """The approximate search's file, mapped: it takes no memory before it is searched."""
        if self.header.approximate is None:
            return None
        path = self.folder / self.header.approximate.name
        _check_size(path, self.header.approximate.size)
        with path.open("rb") as file:
            return mmap(file.fileno(), 0, access=ACCESS_READ)

    @cached_property
    def approximate(self) -> Approximate | None:
        """The approximate search, None if there is none."""
        if self.header.approximate is None or self.saved is None:
            return None
        return Approximate.load(self.saved, self.folder / self.header.approximate.name, self.header.approximate.probes)

    def rows_of(self, titles: Iterable[str]) -> dict[str, int]:
        """Find the rows of those of the titles that are here."""
        wanted = frozenset(titles)
        return {title: row for row, title in zip(self.rows.tolist(), self.titles, strict=True) if title in wanted} if wanted else {}

    def with_titles(self, titles: Sequence[str], blocks: Iterable[Floats], ids: dict[int, tuple[str, ...]]) -> State:
        """Append titles with their vectors, which are forced to the disk, and give rows their ids.

        Args:
            titles: new ones, for the rows from `header.rows` on.
            blocks: their vectors float32 [n_i, dimension], at most `_CHUNK` rows each.
            ids: all the ids of every row whose ids change.
        """
        header, chunks = self.header.next(), self.chunks
        if titles:
            name = header.vectors or f"{header.version}.vectors"
            chunks += tuple(_append(self.folder / name, header.rows, header.dimension, blocks))
            header = replace(header, rows=header.rows + len(titles), vectors=name, approximate=None)
        rows = np.concatenate([self.rows, np.arange(self.header.rows, header.rows)])
        return State(self.folder, header, rows, [*self.titles, *titles], self.ids | ids, chunks)

    def without(self, gone: Ints, ids: dict[int, tuple[str, ...]]) -> State:
        """Remove rows, and give rows their ids. If fewer than half of the rows are live then, they get a new file of vectors.

        Args:
            gone: the rows, int64.
            ids: all the ids of every row whose ids change.
        """
        stays = ~np.isin(self.rows, gone)
        rows, titles = self.rows[stays], [title for title, stay in zip(self.titles, stays.tolist(), strict=True) if stay]
        header = self.header.next()
        header = replace(header, approximate=None if len(gone) else header.approximate)
        ids = {row: had for row, had in (self.ids | ids).items() if had}
        if 2 * len(rows) >= header.rows:
            return State(self.folder, header, rows, titles, ids, self.chunks)
        self.verify()  # or rows that were damaged since would get a new, matching hash
        header = replace(header, rows=len(rows), vectors=f"{header.version}.vectors" if len(rows) else None)
        blocks = (self.vectors[some] for some in chunked(rows))
        chunks = tuple(_append(self.folder / str(header.vectors), 0, header.dimension, blocks)) if len(rows) else ()
        ids = {place: ids[row] for place, row in enumerate(rows.tolist()) if row in ids}
        return State(self.folder, header, np.arange(len(rows)), titles, ids, chunks)

    def with_approximate(self) -> State:
        """Build the approximate search over the live rows, and write it to the disk."""
        self.verify()  # faiss takes any number, and this takes a fraction of its time
        header = self.header.next()
        path = self.folder / f"{header.version}.approximate"
        built, recall = Approximate.build(self.searched)
        with path.open("xb") as file:
            sha256 = built.save(file)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(self.folder)
        saved = Saved(path.name, path.stat().st_size, sha256, built.probes, recall)
        return replace(self, header=replace(header, approximate=saved))

    def write(self, db: sqlite3.Connection, before: State, touched: Iterable[int]) -> None:
        """Bring the database from the state `before` to this one, within a transaction.

        Args:
            db: the database.
            before: the state that it holds.
            touched: the rows of `before` whose title or ids are others now.
        """
        firsts = [chunk.first for chunk in self.chunks]
        changed = {bisect_right(firsts, row) - 1 for row in touched} | set(range(len(before.chunks), len(self.chunks)))
        if self.header.vectors != before.header.vectors:
            db.execute("DELETE FROM chunk")
            changed = set(range(len(self.chunks)))
        for number in sorted(changed):
            self._write_chunk(db, self.chunks[number])
        write_header(db, self.header)

    def _write_chunk(self, db: sqlite3.Connection, chunk: Chunk) -> None:
        start, stop = np.searchsorted(self.rows, (chunk.first, chunk.first + chunk.count)).tolist()
        titles: list[str | None] = [None] * chunk.count
        for row, title in zip(self.rows[start:stop].tolist(), self.titles[start:stop], strict=True):
            titles[row - chunk.first] = title
        ids = [self.ids.get(row, ()) for row in range(chunk.first, chunk.first + chunk.count)] if self.ids else []
        content = {"titles": titles, "ids": ids if any(ids) else []}
        # As bytes: a title may hold half of a surrogate pair, which SQLite's text may not.
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
        sha256 = _titles_sha256(chunk.first, chunk.vectors_sha256.encode(), text)
        db.execute("INSERT OR REPLACE INTO chunk VALUES (?, ?, ?, ?)", (chunk.first, chunk.vectors_sha256, text, sha256))

    def _check_chunk(self, chunk: Chunk) -> None:
        path = self.folder / str(self.header.vectors)
        vectors = np.asarray(self.vectors[chunk.first : chunk.first + chunk.count])
        if _sha256(vectors) != chunk.vectors_sha256:
            raise _altered(path)
        try:
            check_unit(vectors, "row", chunk.first)  # a matching hash is no reason to trust a number; it costs a tenth of the hash
        except ValueError as error:
            raise JobonnxError(f"{path} is damaged ({reason(error)}); {RESTORE}") from None


@contextmanager
def database(folder: Path, *, make: bool = False) -> Iterator[sqlite3.Connection]:
    """Open an index's database; without a commit, nothing is changed.

    Readers open it for writing too: the first one after a kill undoes what was half written. Where the file may not be written,
    SQLite opens it for reading.
    """
    uri = f"{(folder.absolute() / DATABASE).as_uri()}?mode={'rwc' if make else 'rw'}"
    with closing(sqlite3.connect(uri, uri=True, timeout=_PATIENCE, isolation_level=None)) as db:
        try:
            db.text_factory = bytes
            db.execute("PRAGMA trusted_schema = OFF")
            db.execute("PRAGMA cell_size_check = ON")
            db.execute("PRAGMA cache_spill = OFF")  # or a large write would shut readers out before it commits
            db.execute("PRAGMA synchronous = EXTRA")  # a commit is on the disk when it returns
            yield db
        except UnicodeDecodeError as error:  # SQLite's message, which Python reads as UTF-8, quotes the damaged bytes
            raise sqlite3.DatabaseError("malformed, and not UTF-8") from error


def begin_write(db: sqlite3.Connection, folder: Path) -> None:
    """Begin a transaction that writes. A second writer is refused at once.

    Raises:
        sqlite3.Error: another writer, or a disk that refuses.
        OSError: the disk does not confirm what was committed earlier, which must not be built on.
    """
    db.execute("PRAGMA busy_timeout = 0")
    db.execute("BEGIN IMMEDIATE")
    db.execute(f"PRAGMA busy_timeout = {_PATIENCE * 1000}")
    sync_folder(folder)


def make_tables(db: sqlite3.Connection, header: Header) -> bool:
    """Make an empty index within a transaction; False if the database holds something already."""
    if db.execute("SELECT 1 FROM sqlite_master").fetchone():
        return False
    for statement in (*_SCHEMA, f"PRAGMA application_id = {_APPLICATION}", f"PRAGMA user_version = {_FORMAT}"):
        db.execute(statement)
    write_header(db, header)
    return True


def read_header(db: sqlite3.Connection, folder: Path) -> Header:
    """Read what the index is.

    Raises:
        JobonnxError: it is no index, of another format, or altered.
    """
    path = folder / DATABASE
    ((application,),), ((version,),) = (db.execute(f"PRAGMA {name}").fetchall() for name in ("application_id", "user_version"))
    if application != _APPLICATION:
        raise JobonnxError(f"{folder} is not an index that can be read ({DATABASE} is another database); name an index's folder")
    if version != _FORMAT:
        raise JobonnxError(f"{path} has the format {version} and this jobonnx reads {_FORMAT}; make the index again")
    # A database that was crafted may hold views and triggers in the tables' places.
    tables = db.execute("SELECT sql FROM sqlite_master ORDER BY rowid").fetchall()
    headers = db.execute("SELECT body, sha256 FROM header").fetchall() if tables == [(sql.encode(),) for sql in _SCHEMA] else []
    if len(headers) != 1 or not all(isinstance(value, bytes) for value in headers[0]):
        raise JobonnxError(f"{path} is damaged (its tables are not an index's); {RESTORE}")
    body, sha256 = headers[0]
    if hashlib.sha256(body).hexdigest().encode() != sha256:
        raise JobonnxError(f"{path} was altered (its header differs from its SHA-256); {RESTORE}")
    return parse_json(body, Header, str(path), RESTORE)


def write_header(db: sqlite3.Connection, header: Header) -> None:
    """Replace what the index is."""
    body = json.dumps(asdict(header))
    db.execute("DELETE FROM header")
    db.execute("INSERT INTO header VALUES (?, ?)", (body, hashlib.sha256(body.encode()).hexdigest()))


def sweep(folder: Path) -> None:
    """Delete what no committed state names: files, and rows past the committed ones. Under the lock: they may be a writer's."""
    # A sweep that fails, or comes too late, undoes nothing that was written.
    with suppress(JobonnxError, sqlite3.Error, OSError), database(folder) as db:
        begin_write(db, folder)  # it refuses while the disk has not confirmed the commit: the old state's files are needed then
        header = read_header(db, folder)
        named = {header.vectors, header.approximate and header.approximate.name}
        for path in folder.iterdir():
            with suppress(OSError):  # Windows keeps a file that a reader has mapped; a later sweep takes it
                if path.name == header.vectors:
                    size = 4 * header.rows * header.dimension
                    if path.stat().st_size > size:
                        os.truncate(path, size)
                elif path.name not in named and _NAME.fullmatch(path.name):
                    path.unlink()


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to the disk."""
    if sys.platform != "win32":  # Windows cannot open a folder, and keeps names in order by itself
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def unreadable(folder: Path, error: Exception) -> JobonnxError:
    """Say why an index could not be read."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if is_busy(error):
        return JobonnxError(f"{folder} is being written by someone else; try again when they are done")
    if is_full(error):  # undoing what a killed writer left takes a write
        return JobonnxError(f"{folder} cannot be read ({reason(error)}); free some space")
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM) or isinstance(
        error, OSError
    ):
        return JobonnxError(f"{folder} is not an index that can be read ({reason(error)}); mend that, or name another index")
    return JobonnxError(f"{folder / DATABASE} is damaged ({reason(error)}); {RESTORE}")


def is_busy(error: Exception) -> bool:
    """Tell whether SQLite refused because of another writer."""
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def is_full(error: Exception) -> bool:
    """Tell whether a write was refused for want of space: the disk's, a quota's, or within the limit on a file's size."""
    if isinstance(error, sqlite3.Error):
        # SQLite tells only the full disk apart. The others are a failed write, which is rarely anything else.
        return getattr(error, "sqlite_errorcode", 0) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE)
    return isinstance(error, OSError) and error.errno in FULL


def chunked(rows: Ints) -> Iterator[Ints]:
    """Split rows int64 into chunks."""
    for first in range(0, len(rows), _CHUNK):
        yield rows[first : first + _CHUNK]


def _append(path: Path, first: int, dimension: int, blocks: Iterable[Floats]) -> Iterator[Chunk]:
    """Write vectors from row `first` on, and force them to the disk: a chunk per block."""
    with path.open("r+b" if first else "xb") as file:
        file.seek(4 * first * dimension)
        for block in blocks:
            block = np.ascontiguousarray(block)
            file.write(block.data)
            yield Chunk(first, len(block), _sha256(block))
            first += len(block)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def _sha256(vectors: Floats) -> str:
    return hashlib.sha256(vectors.data).hexdigest()


def _check_size(path: Path, size: int, or_more: bool = False) -> None:
    try:
        found = path.stat().st_size
    except FileNotFoundError:
        raise JobonnxError(f"{path} is missing; {RESTORE}") from None
    if found < size or (found > size and not or_more):
        raise JobonnxError(f"{path} has {found} bytes and {size} were written; {RESTORE}")


def _check_name(name: str, kind: str) -> None:
    if not _NAME.fullmatch(name) or not name.endswith(kind):
        raise ValueError(f"{name!r} is not a name of a file of {kind}")


def _altered(path: Path) -> JobonnxError:
    return JobonnxError(f"{path} was altered (its SHA-256 differs from the one that was written); {RESTORE}")


def _titles_sha256(first: int, vectors_sha256: bytes, text: bytes) -> str:
    return hashlib.sha256(b"%d %b %b" % (first, vectors_sha256, text)).hexdigest()


def _parse(text: bytes, path: Path) -> Content:
    try:
        value = json.loads(text.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise JobonnxError(f"{path} is damaged ({reason(error)}); {RESTORE}") from error
    return convert(value, Content, str(path), RESTORE)
