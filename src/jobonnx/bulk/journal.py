"""What is done, on disk: the journal of a job, and the map from every title met so far to its record.

An output is one folder:

    part-00000000.parquet    ids, titles and vectors of the first range of the input, and so on
    _journal.sqlite          what the job is, and which parts are done
    _map.sqlite              every distinct title's record, by a hash of its text; deleted when the job is finished

A part is written under another name and forced to the disk. Then one transaction of SQLite over the journal and the map makes the
part done and its titles known: this is the moment that counts. Then the part gets its name. So a part that has its name is in the
journal. One that is in the journal and lacks its name gets it at the next start, and whatever else is half-made is deleted then.
SQLite makes a transaction over two files atomic in its rollback modes (https://www.sqlite.org/atomiccommit.html, section 5), so
there is no WAL here.

A cache outlives the output. It is a map of its own, written after the part: what a kill keeps from it is computed again some day.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from jobonnx.bulk.records import Bytes
from jobonnx.errors import JobonnxError, reason
from jobonnx.files import FULL
from jobonnx.strict_json import json_text, parse_json

JOURNAL, MAP = "_journal.sqlite", "_map.sqlite"
_FORMAT = 1
_KEYS = 500  # looked up at once
_CACHED = 32 << 10  # KiB of each file that SQLite keeps in memory
_PATIENCE = 60  # seconds that a commit waits for another job that uses the same cache
_AGAIN = "restore it, or embed into another folder"


@dataclass(frozen=True)
class Counts:
    """What was counted, of one part or of several.

    Attributes:
        read: rows of the input.
        written: rows of the output.
        distinct: titles that no earlier row had.
        computed: titles that the model computed.
        cached: distinct titles whose vectors a cache had.
        reused: rows that took the vector of an earlier row or of the cache.
        truncated: rows whose title was longer than the model takes.
        null: rows without a title.
        refused: rows whose title was no text, or too long.
    """

    read: int = 0
    written: int = 0
    distinct: int = 0
    computed: int = 0
    cached: int = 0
    reused: int = 0
    truncated: int = 0
    null: int = 0
    refused: int = 0

    def __add__(self, other: Counts) -> Counts:
        mine, others = asdict(self), asdict(other)
        return Counts(**{name: mine[name] + others[name] for name in mine})


class Journal:
    """The journal of one output, and its map. One process at a time; safe to share between threads; a context manager."""

    def __init__(self, folder: Path, identity: Mapping[str, Any], cache: Path | None = None) -> None:
        """Open the journal of an output, or begin one, and complete what a killed process left.

        Args:
            folder: the output; it need not exist.
            identity: what decides the output, as JSON knows it; that of the job which began it has to be equal.
            cache: a file with the records of earlier jobs, which is made if it does not exist.

        Raises:
            JobonnxError: the output is another job's, is in use, or cannot be written.
        """
        self.folder = folder
        self._lock = threading.Lock()
        self._cache: Map | None = None
        with self.written():
            folder.mkdir(parents=True, exist_ok=True)
            strangers = {entry.name for entry in folder.iterdir()} - {f"{JOURNAL}-journal"}
            if strangers and JOURNAL not in strangers:
                raise JobonnxError(f"{folder} holds {min(strangers)}, which no job made; name a new or empty folder")
            self._db = _connect(folder / JOURNAL, 1)
        try:
            with self.written():
                self._begin(identity)
                self.finished = self._value("finished")
                if self.finished is None:
                    self._db.execute("ATTACH ? AS map", (str(folder / MAP),))
                    self._map = Map(self._db, "map", folder / MAP, identity)
                self._recover()
            if cache is not None and self.finished is None:
                with self.written(cache):
                    self._cache = Map(_connect(cache, _PATIENCE), "main", cache, identity)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files."""
        with self._lock:
            self._db.close()
            if self._cache is not None:
                self._cache.db.close()

    def counts(self) -> tuple[int, Counts]:
        """Return how many parts are done, and what was counted in them."""
        with self._lock:
            rows = self._db.execute("SELECT counts FROM part ORDER BY number").fetchall()
        total = sum((parse_json(row[0], Counts, str(self.folder / JOURNAL), _AGAIN) for row in rows), Counts())
        return len(rows), total

    def find(self, keys: Sequence[bytes]) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
        """Look titles up: the records that this job's map has, and those that only the cache has."""
        with self._lock, self.written():
            known = self._map.find(keys)
        if self._cache is None:
            return known, {}
        with self._lock, self.written(self._cache.path):
            return known, self._cache.find([key for key in keys if key not in known])

    def commit(self, number: int, partial: Path, counts: Counts, new: Mapping[bytes, bytes], cached: Mapping[bytes, bytes]) -> None:
        """Make a part done and its titles known, and give it its name.

        Args:
            number: of the part.
            partial: the part, forced to the disk.
            counts: what was counted in it.
            new: records that were computed for it, by key.
            cached: records that the cache had.

        Raises:
            JobonnxError: the disk refuses, or another job holds the cache; nothing is changed.
        """
        with self._lock, self.written():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._map.add({**new, **cached})
                size = partial.stat().st_size
                self._db.execute("INSERT INTO part VALUES (?, ?, ?)", (number, size, json_text(asdict(counts))))
                self._db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise
            os.replace(partial, self.part(number))
            _sync(self.folder)
        if self._cache is not None:
            with self._lock, self.written(self._cache.path):
                self._cache.db.execute("BEGIN IMMEDIATE")
                self._cache.add(new)
                self._cache.db.execute("COMMIT")

    def finish(self, report: Mapping[str, Any]) -> None:
        """Write down that the job is finished, and delete the map."""
        with self._lock, self.written():
            self._db.execute("INSERT INTO job VALUES ('finished', ?)", (json_text(report),))
            self._db.execute("DETACH map")
            self.finished = dict(report)
            self._remove_map()

    def part(self, number: int) -> Path:
        """Return the path of a part."""
        return self.folder / f"part-{number:08d}.parquet"

    def partial(self, number: int) -> Path:
        """Return the path of a part in the making."""
        return self.folder / f"_part-{number:08d}.partial"

    def _begin(self, identity: Mapping[str, Any]) -> None:
        """Lock the journal, make its tables if it is new, and compare the job with the one that began it."""
        self._db.execute("PRAGMA main.locking_mode=EXCLUSIVE")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("BEGIN EXCLUSIVE")
        self._db.execute("CREATE TABLE IF NOT EXISTS job (name TEXT PRIMARY KEY, value TEXT)")
        self._db.execute("CREATE TABLE IF NOT EXISTS part (number INTEGER PRIMARY KEY, size INTEGER, counts TEXT)")
        self._db.execute("INSERT OR IGNORE INTO job VALUES ('identity', ?)", (json_text({"format": _FORMAT, **identity}),))
        self._db.execute("COMMIT")
        self._db.execute(f"PRAGMA busy_timeout={_PATIENCE * 1000}")
        began = self._value("identity") or {}
        for name, value in {"format": _FORMAT, **identity}.items():
            if began.get(name) != value:
                raise JobonnxError(
                    f"{self.folder} was begun with another {name.replace('_', ' ')} ({_differs(began.get(name), value)}); "
                    "give the same again, or name another folder"
                )

    def _recover(self) -> None:
        """Give parts that are done their names, and delete what is not done."""
        rows = self._db.execute("SELECT number, size FROM part ORDER BY number").fetchall()
        if [number for number, _ in rows] != list(range(len(rows))):
            raise JobonnxError(f"{self.folder / JOURNAL} lacks a part in the middle; {_AGAIN}")
        for number, size in rows:
            part, partial = self.part(number), self.partial(number)
            if not part.exists() and partial.exists():
                os.replace(partial, part)
            if not part.is_file() or part.stat().st_size != size:
                raise JobonnxError(f"{part} is missing or has been changed; {_AGAIN}")
        # The last is the name under which SQLite joins two files in a transaction; both have been opened, so nobody asks for it.
        for pattern in ("_part-*.partial", f"{JOURNAL}-mj*"):
            for entry in self.folder.glob(pattern):
                entry.unlink()
        _sync(self.folder)
        if self.finished is not None:
            self._remove_map()

    def _remove_map(self) -> None:
        for name in (MAP, f"{MAP}-journal"):
            (self.folder / name).unlink(missing_ok=True)

    def _value(self, name: str) -> dict[str, Any] | None:
        row = self._db.execute("SELECT value FROM job WHERE name = ?", (name,)).fetchone()
        return None if row is None else parse_json(row[0], dict[str, Any], str(self.folder / JOURNAL), _AGAIN)

    @contextmanager
    def written(self, path: Path | None = None) -> Iterator[None]:
        """Turn what the disk refuses into one sentence."""
        path = self.folder if path is None else path
        go_on = "then give the same command again: it goes on where it stopped"
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise JobonnxError(f"{path} is being written by another process; wait until that has ended") from None
            if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                raise JobonnxError(f"{path} is damaged ({reason(error)}); {_AGAIN}") from None
            fix = "free some space" if code == sqlite3.SQLITE_FULL else "mend that"
            raise JobonnxError(f"{path} cannot be written ({reason(error)}); {fix}, {go_on}") from None
        except OSError as error:
            fix = "free some space" if error.errno in FULL else "mend that"
            raise JobonnxError(f"{path} cannot be written ({error.strerror or reason(error)}); {fix}, {go_on}") from None


class Map:
    """Records of titles by a hash of their text, in a file of SQLite, all of one encoder and one layout."""

    def __init__(self, db: sqlite3.Connection, name: str, path: Path, identity: Mapping[str, Any]) -> None:
        """Make the tables where there are none.

        Args:
            db: a connection.
            name: of the file within it.
            path: the file, as errors call it.
            identity: of the job: its fingerprint, dtype and dimension have to be those of the records.

        Raises:
            JobonnxError: the records are of another encoder or layout.
        """
        self.db, self.path, self._name = db, path, name
        db.execute(f"PRAGMA {name}.synchronous=FULL")
        db.execute(f"PRAGMA {name}.cache_size=-{_CACHED}")
        maker = tuple(identity[part] for part in ("fingerprint", "dtype", "dimension"))
        db.execute("BEGIN IMMEDIATE")
        db.execute(f"CREATE TABLE IF NOT EXISTS {name}.made_by (fingerprint TEXT, dtype TEXT, dimension INTEGER)")
        db.execute(f"CREATE TABLE IF NOT EXISTS {name}.title (key BLOB PRIMARY KEY, record INTEGER) WITHOUT ROWID")
        db.execute(f"CREATE TABLE IF NOT EXISTS {name}.record (number INTEGER PRIMARY KEY, content BLOB)")
        there = db.execute(f"SELECT * FROM {name}.made_by").fetchone()
        if there is None:
            db.execute(f"INSERT INTO {name}.made_by VALUES (?, ?, ?)", maker)
        db.execute("COMMIT")
        if there is not None and there != maker:
            raise JobonnxError(
                f"{path} holds {there[1]} vectors of the encoder {there[0]}, and this job makes {maker[1]} vectors of {maker[0]}; "
                "name another cache"
            )

    def find(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Look records up."""
        found: dict[bytes, bytes] = {}
        for first in range(0, len(keys), _KEYS):
            some = keys[first : first + _KEYS]
            marks = ",".join("?" * len(some))
            query = (
                f"SELECT key, content FROM {self._name}.title JOIN {self._name}.record ON record = number WHERE key IN ({marks})"
            )
            found.update(self.db.execute(query, some))
        return found

    def add(self, records: Mapping[bytes, bytes]) -> None:
        """Add records, within a transaction of the caller; one whose title is there already is passed over."""
        if not records:
            return
        start = self.db.execute(f"SELECT coalesce(max(number), -1) + 1 FROM {self._name}.record").fetchone()[0]
        self.db.executemany(f"INSERT INTO {self._name}.record VALUES (?, ?)", enumerate(records.values(), start))
        # Sorted, so that neighbours in the tree are written together. Another job with the same cache may have added a title.
        pairs = sorted(zip(records, range(start, start + len(records)), strict=True))
        self.db.executemany(f"INSERT OR IGNORE INTO {self._name}.title VALUES (?, ?)", pairs)


def records_of(keys: Sequence[bytes], records: Bytes) -> dict[bytes, bytes]:
    """Pair keys with the rows of an array of records."""
    return {key: record.tobytes() for key, record in zip(keys, records, strict=True)}


def as_array(records: Sequence[bytes], width: int) -> Bytes:
    """Make an array of records: uint8 [n, width]."""
    return np.frombuffer(b"".join(records), np.uint8).reshape(len(records), width)


def _differs(old: Any, new: Any) -> str:
    """Show two values; of two lists, the first place where they differ."""
    if isinstance(old, list) and isinstance(new, list):
        place = next((p for p, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
        old, new = old[place : place + 1], new[place : place + 1]
    return f"{str(old)[:300]}, and now {str(new)[:300]}"


def _connect(path: Path, patience: float) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=patience)


def _sync(folder: Path) -> None:
    """Force a folder's names to the disk; Windows has no such call and keeps them by itself."""
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
