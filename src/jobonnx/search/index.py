"""A list of titles on disk, with their vectors and the encoder that made them, ready to be searched.

An index is one folder:

    manifest.json                what the index is: fingerprint, dimension, and every other file's size and SHA-256
    00000003-0.vectors           a segment's vectors: float32, little-endian, row after row, mapped into memory
    00000003-0.titles            its titles: a JSON array of strings, UTF-8
    00000005-0.removed           its removed rows, once there are any: a bit a row, the first row the lowest bit
    00000006-0.approximate       the approximate search (a faiss index), once it is built
    lock                         held by the process that writes

A file is written once, under the number of the state it is for, and never changed. `add`, `remove` and
`build_approximate` write new files, force them to the disk, and then replace the manifest in one step. Killed anywhere,
they leave the old state or the new one; files that no manifest names are swept by the next write. A reader keeps the
state that it opened.

Each `add` makes one segment. Segments are rewritten, without their removed rows, at two moments: `add` takes into the
new segment those at the end that are no larger than it (so there are few, and a row is rewritten at most about log2(n)
times), and `remove` rewrites a segment of which more than half is removed. Rows keep the order in which they were
added.
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, Self, cast

import numpy as np

from jobonnx.errors import JobonnxError
from jobonnx.search.approximate import Approximate
from jobonnx.search.topk import Bools, Floats, Ints, Rows, check_vectors, rank, search

FORMAT = "jobonnx-index-1"
_MANIFEST = "manifest.json"
_LOCK = "lock"
# What a sweep may delete; whatever else is in the folder is not ours.
_OURS = re.compile(r"\d{8,}-\d+\.(vectors|titles|removed|approximate)|manifest\.json\.new")


@dataclass(frozen=True)
class Match:
    """A title found, with the cosine of its vector and the query's."""

    title: str
    score: float


class Index:
    """Titles with their vectors on disk, from one encoder. Made by `Index.create`, opened by `Index.open`.

    A title is held once. Searching is safe from several threads, also while one of them writes. An open index sees its
    own writes; those of another process it sees when it is opened again, or when it writes itself.
    """

    def __init__(self, path: Path, state: "_State") -> None:
        self.path = path
        self._state = state  # replaced as a whole, never changed
        self._confirmed = True  # whether the manifest's name has been forced to the disk since it was replaced

    @classmethod
    def create(cls, path: str | os.PathLike[str], fingerprint: str, dimension: int) -> Self:
        """Makes an empty index in the folder `path`, which must be new or empty.

        Args:
            path: the folder.
            fingerprint: of the encoder whose vectors it will hold.
            dimension: of the vectors, at least 1.

        Raises:
            JobonnxError: the folder holds something, or cannot be written.
            ValueError: `dimension` is below 1.
        """
        if dimension < 1:
            raise ValueError(f"the dimension is {dimension}; it must be at least 1")
        folder = Path(path)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(folder):
                # What a killed `create` leaves is no reason to refuse.
                if strangers := {entry.name for entry in folder.iterdir()} - {_LOCK, f"{_MANIFEST}.new"}:
                    raise JobonnxError(f"{folder} already holds {min(strangers)}; make the index in a new or empty folder")
                _write_manifest(folder, _State(fingerprint, dimension, 0, (), None))
                try:
                    _sync_folder(folder)
                except OSError:
                    (folder / _MANIFEST).unlink()  # or it could not be made again here
                    raise
        except OSError as error:
            raise JobonnxError(f"cannot make an index in {folder}: {error}") from error
        return cls.open(folder)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, verify: bool = True) -> Self:
        """Opens the index in the folder `path`.

        Args:
            path: the folder.
            verify: whether to compare every file's SHA-256 (about 2 s for 4 GB in memory, on one core). Without, the
                files' sizes are still compared, and the hashes of the manifest and the titles.

        Raises:
            JobonnxError: there is no index, or a file is missing, truncated, altered, or of a later format.
        """
        folder = Path(path)
        while True:
            state = _read_manifest(folder)
            try:
                state.load(verify)
            except (JobonnxError, OSError) as error:
                # A writer may have replaced the manifest, and swept the old files, since it was read.
                if _read_manifest(folder) != state:
                    continue
                if isinstance(error, OSError):
                    raise JobonnxError(f"cannot read the index in {folder}: {error}") from error
                raise
            return cls(folder, state)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the encoder whose vectors are here."""
        return self._state.fingerprint

    @property
    def dimension(self) -> int:
        """The dimension of the vectors."""
        return self._state.dimension

    @property
    def has_approximate(self) -> bool:
        """Whether `search(..., approximate=True)` can be asked for."""
        return self._state.approximate is not None

    def __len__(self) -> int:
        return sum(segment.live for segment in self._state.segments)

    def __iter__(self) -> Iterator[str]:
        """The titles, in the order in which they were added."""
        for segment in self._state.segments:
            for row in segment.live_rows.tolist():
                yield segment.titles[row]

    def add(self, titles: Sequence[str], vectors: Floats, *, fingerprint: str) -> int:
        """Adds titles with their vectors; a title that is already there, or comes twice, is passed over.

        Args:
            titles: n strings.
            vectors: float32 [n, dimension], of unit length.
            fingerprint: of the encoder that made them.

        Returns:
            How many titles were added. The approximate search is dropped if there were any: build it again.

        Raises:
            JobonnxError: another encoder's vectors, someone else is writing, or the disk refuses; nothing is changed,
                unless the message says so.
            TypeError, ValueError: titles or vectors that are not as above.
        """
        _check_titles(titles)
        self._check_vectors(vectors, "vectors", fingerprint)
        if len(vectors) != len(titles):
            raise ValueError(f"there are {len(titles)} titles and {len(vectors)} vectors; they must agree")
        with self._writing() as state:
            rows: dict[str, int] = {}
            for row, title in enumerate(titles):
                rows.setdefault(title, row)
            for segment in state.segments:
                held = segment.titles
                for row in segment.live_rows.tolist() if rows else ():
                    rows.pop(held[row], None)
            new = np.array(sorted(rows.values()), np.int64)
            if not len(new):
                return 0
            kept = list(state.segments)
            merged: list[_Segment] = []
            size = len(new)
            while kept and kept[-1].live <= size:
                merged.insert(0, kept.pop())
                size += merged[0].live
            added = [titles[row] for row in new.tolist()]
            old = [(segment, segment.live_rows) for segment in merged]
            kept.append(self._write_segment(state, len(kept), old, added, (vectors[rows_] for rows_ in _runs(new))))
            self._commit(replace(state, segments=tuple(kept), approximate=None))
            return len(new)

    def remove(self, titles: Sequence[str]) -> int:
        """Removes titles; one that is not there is passed over.

        Returns:
            How many titles were removed. The approximate search is dropped if there were any: build it again.

        Raises:
            JobonnxError: someone else is writing, or the disk refuses; nothing is changed, unless the message says so.
            TypeError: `titles` is not a sequence of strings.
        """
        _check_titles(titles)
        unwanted = frozenset(titles)
        with self._writing() as state:
            segments: list[_Segment] = []
            for number, segment in enumerate(state.segments):
                removed = segment.removed.copy()
                removed[[row for row in segment.live_rows.tolist() if segment.titles[row] in unwanted]] = True
                live = segment.rows - int(np.count_nonzero(removed))
                if live == segment.live:
                    segments.append(segment)
                elif live >= segment.rows / 2:
                    bits = np.packbits(removed, bitorder="little").tobytes()
                    file = _write(self._new(state, number, "removed"), [bits])
                    segments.append(replace(segment, live=live, removed_file=file))
                elif live:
                    segments.append(self._write_segment(state, number, [(segment, np.flatnonzero(~removed))], [], []))
            count = sum(segment.live for segment in state.segments) - sum(segment.live for segment in segments)
            if count:
                self._commit(replace(state, segments=tuple(segments), approximate=None))
            return count

    def build_approximate(self) -> float:
        """Builds the approximate search over the titles as they are now, for corpora past a few million, and saves it.

        It holds a byte per dimension, and is read into memory at the first search. It scans as few clusters as find,
        for 500 of the titles, at least 99.5% of the 10 others nearest to each. It belongs to this state of the index:
        adding or removing a title drops it.

        Returns:
            The recall@10 that was measured, between 0.995 and 1.

        Raises:
            JobonnxError: the extra is not installed, the index is empty, someone else is writing, or the disk refuses.
        """
        with self._writing() as state:
            rows = self._rows(state)
            if not rows.visible:
                raise JobonnxError(f"{self.path} holds no titles; add some before building the approximate search")
            built, recall = Approximate.build(rows)
            path = self._new(state, 0, "approximate")
            built.save(path)
            self._commit(replace(state, approximate=_Saved(_seal(path), built.probes, recall)))
            return recall

    def search(self, vectors: Floats, k: int, *, fingerprint: str, approximate: bool = False) -> list[list[Match]]:
        """The `k` titles nearest to each query.

        Args:
            vectors: the queries, float32 [q, dimension], of unit length.
            k: titles wanted per query, at least 1; more than there are gives them all.
            fingerprint: of the encoder that made the queries.
            approximate: whether to use what `build_approximate` built. The scores are exact all the same; a title may
                be missed.

        Returns:
            For each query its matches, best first; equal scores in the order in which the titles were added.

        Raises:
            JobonnxError: another encoder's queries; `approximate` without a build for this state of the index, or
                without the extra.
            TypeError, ValueError: queries that are not as above, or `k` below 1.
        """
        self._check_vectors(vectors, "queries", fingerprint)
        if k < 1:
            raise ValueError(f"k is {k}; ask for at least 1 title")
        state = self._state
        rows = self._rows(state)
        if not approximate:
            scores, indices = search(vectors, rows, k)
            found = list(zip(scores, indices, strict=True))
        elif state.approximate is None:
            raise JobonnxError(f"{self.path} has no approximate search for its present titles; call build_approximate() first")
        else:
            candidates = state.approximate.opened.candidates(vectors, k)
            found = [rank(query, rows, some, k) for query, some in zip(vectors, candidates, strict=True)]
        return [self._matches(state, scores, indices) for scores, indices in found]

    def _matches(self, state: "_State", scores: Floats, indices: Ints) -> list[Match]:
        starts = np.cumsum([0] + [segment.rows for segment in state.segments])
        homes = np.searchsorted(starts, indices, side="right") - 1
        places = zip(homes.tolist(), (indices - starts[homes]).tolist(), scores.tolist(), strict=True)
        return [Match(state.segments[home].titles[row], score) for home, row, score in places]

    def _check_vectors(self, vectors: Floats, name: str, fingerprint: str) -> None:
        if fingerprint != self.fingerprint:
            raise JobonnxError(
                f"{self.path} holds vectors of the encoder {self.fingerprint} and the {name} are from {fingerprint}; "
                "use that encoder, or make a new index"
            )
        check_vectors(vectors, name)
        if vectors.shape[1] != self.dimension:
            raise ValueError(f"the {name} have {vectors.shape[1]} dimensions and the index {self.dimension}; they must agree")

    def _rows(self, state: "_State") -> Rows:
        parts = [(s.vectors, s.removed if s.live < s.rows else None) for s in state.segments]
        return Rows(parts, checked=True)  # by `add`

    @contextmanager
    def _writing(self) -> Iterator["_State"]:
        """Holds the lock; gives the state that is on disk now, which another process may have changed."""
        try:
            with _locked(self.path):
                now = _read_manifest(self.path)
                if (now.fingerprint, now.dimension) != (self.fingerprint, self.dimension):
                    raise JobonnxError(f"{self.path} has been replaced by another index since it was opened; open it again")
                if not self._confirmed:
                    self._confirm()
                if now != self._state:
                    self._state = type(self).open(self.path, verify=False)._state
                try:
                    yield self._state
                finally:
                    if self._confirmed:  # or the manifest that a power failure brings back would name deleted files
                        _sweep(self.path)
        except OSError as error:
            raise JobonnxError(f"cannot write to {self.path}: {error}; the index is as it was") from error

    def _commit(self, state: "_State") -> None:
        state = replace(state, generation=state.generation + 1)
        state.load(verify=False)  # now: once the lock is free another writer may sweep its files
        _write_manifest(self.path, state)
        self._state = state
        self._confirm()

    def _confirm(self) -> None:
        """Forces the new manifest's name to the disk."""
        self._confirmed = False
        try:
            _sync_folder(self.path)
        except OSError as error:
            raise JobonnxError(
                f"{self.path} has been changed, but the disk did not confirm it ({error}); "
                "a power failure may bring the old state back until the same call succeeds"
            ) from error
        self._confirmed = True

    def _new(self, state: "_State", number: int, kind: str) -> Path:
        """Where the state after `state` keeps its file of this kind for the segment at place `number`."""
        return self.path / f"{state.generation + 1:08d}-{number}.{kind}"

    def _write_segment(
        self,
        state: "_State",
        number: int,
        old: Sequence[tuple["_Segment", Ints]],
        titles: list[str],
        vectors: Iterable[Floats],
    ) -> "_Segment":
        """Writes the segment at place `number`: rows of old segments, then `titles` with `vectors`, some at a time."""
        for segment, _ in old:
            segment.vectors_file.check_hash()  # or rows that were damaged since would get a new, matching hash
        kept = (segment.vectors[some] for segment, rows in old for some in _runs(rows))
        every = [segment.titles[row] for segment, rows in old for row in rows.tolist()] + titles
        text = json.dumps(every, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
        return _Segment(
            rows=len(every),
            live=len(every),
            dimension=self.dimension,
            vectors_file=_write(self._new(state, number, "vectors"), (some.tobytes() for some in chain(kept, vectors))),
            titles_file=_write(self._new(state, number, "titles"), [text]),
            removed_file=None,
        )


@dataclass(frozen=True)
class _File:
    """A file as it was written."""

    path: Path
    size: int
    sha256: str

    def check_size(self) -> None:
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            raise JobonnxError(f"{self.path} is missing; restore it or make the index again") from None
        if size != self.size:
            raise JobonnxError(f"{self.path} has {size} bytes and {self.size} were written; restore it or make the index again")

    def check_hash(self) -> None:
        self._compare(_hash(self.path))

    def read(self) -> bytes:
        data = self.path.read_bytes()
        self._compare(hashlib.sha256(data).hexdigest())
        return data

    def _compare(self, sha256: str) -> None:
        if sha256 != self.sha256:
            raise JobonnxError(
                f"{self.path} was altered (its SHA-256 differs from the manifest's); restore it or make the index again"
            )


@dataclass(frozen=True)
class _Segment:
    """Rows that were written together."""

    rows: int
    live: int  # rows that are not removed
    dimension: int
    vectors_file: _File
    titles_file: _File
    removed_file: _File | None

    @cached_property
    def vectors(self) -> Floats:
        return np.memmap(self.vectors_file.path, np.float32, "r", shape=(self.rows, self.dimension))

    @cached_property
    def titles(self) -> list[str]:
        return cast(list[str], json.loads(self.titles_file.read()))  # json reads bytes with surrogatepass, as they were written

    @cached_property
    def removed(self) -> Bools:
        if self.removed_file is None:
            return np.zeros(self.rows, np.bool_)
        bits = np.frombuffer(self.removed_file.read(), np.uint8)
        return np.unpackbits(bits, count=self.rows, bitorder="little").astype(np.bool_)

    @property
    def live_rows(self) -> Ints:
        return np.flatnonzero(~self.removed)


@dataclass(frozen=True)
class _Saved:
    """An approximate search on disk."""

    file: _File
    probes: int
    recall: float

    @cached_property
    def mapped(self) -> mmap:
        """The file's contents. They stay when the file is swept, and take no memory before they are searched."""
        with self.file.path.open("rb") as file:
            return mmap(file.fileno(), 0, access=ACCESS_READ)

    @cached_property
    def opened(self) -> Approximate:
        return Approximate.load(self.mapped, self.file.path, self.probes)


@dataclass(frozen=True)
class _State:
    """What a manifest says."""

    fingerprint: str
    dimension: int
    generation: int
    segments: tuple[_Segment, ...]
    approximate: _Saved | None

    @property
    def files(self) -> list[_File]:
        found = [file for s in self.segments for file in (s.vectors_file, s.titles_file, s.removed_file) if file]
        return found + ([self.approximate.file] if self.approximate else [])

    def load(self, verify: bool) -> None:
        """Checks the files and opens them: a writer may sweep them away later."""
        for file in self.files:
            file.check_size()
        if verify:
            with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing releases the interpreter's lock
                for _ in pool.map(_File.check_hash, self.files):
                    pass
        for segment in self.segments:
            _ = segment.vectors, segment.titles, segment.removed
        if self.approximate:
            _ = self.approximate.mapped


def _read_manifest(folder: Path) -> _State:
    path = folder / _MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
        body, checksum = manifest["index"], manifest["sha256"]
        if manifest["format"] != FORMAT:
            raise JobonnxError(
                f"{path} has the format {manifest['format']!r} and this jobonnx reads {FORMAT!r}; make the index again"
            )
        if checksum != _checksum(body):
            raise JobonnxError(f"{path} was altered (its contents differ from its SHA-256); restore it or make the index again")
    except OSError as error:
        raise JobonnxError(f"{folder} is not an index that can be read: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise JobonnxError(f"{path} is damaged ({error}); restore it or make the index again") from error

    def file(entry: dict[str, Any]) -> _File:
        return _File(folder / entry["name"], entry["size"], entry["sha256"])

    return _State(
        body["fingerprint"],
        body["dimension"],
        body["generation"],
        tuple(
            _Segment(
                rows=entry["rows"],
                live=entry["live"],
                dimension=body["dimension"],
                vectors_file=file(entry["vectors"]),
                titles_file=file(entry["titles"]),
                removed_file=file(entry["removed"]) if entry["removed"] else None,
            )
            for entry in body["segments"]
        ),
        _Saved(file(saved["file"]), saved["probes"], saved["recall"]) if (saved := body["approximate"]) else None,
    )


def _write_manifest(folder: Path, state: _State) -> None:
    """Replaces the manifest. Raises OSError only if the old one is still there; the new name is yet to be synchronised."""

    def file(written: _File) -> dict[str, Any]:
        return {"name": written.path.name, "size": written.size, "sha256": written.sha256}

    saved = state.approximate
    body = {
        "fingerprint": state.fingerprint,
        "dimension": state.dimension,
        "generation": state.generation,
        "segments": [
            {
                "rows": segment.rows,
                "live": segment.live,
                "vectors": file(segment.vectors_file),
                "titles": file(segment.titles_file),
                "removed": segment.removed_file and file(segment.removed_file),
            }
            for segment in state.segments
        ],
        "approximate": saved and {"file": file(saved.file), "probes": saved.probes, "recall": saved.recall},
    }
    manifest = {"format": FORMAT, "sha256": _checksum(body), "index": body}
    new = folder / f"{_MANIFEST}.new"
    _write(new, [json.dumps(manifest, indent=1).encode()])
    _sync_folder(folder)  # the files' names must be on the disk before the manifest that names them
    os.replace(new, folder / _MANIFEST)


def _checksum(body: Any) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _write(path: Path, chunks: Iterable[bytes]) -> _File:
    """Writes a file and forces it to the disk."""
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        file.flush()
        os.fsync(file.fileno())
    return _File(path, size, digest.hexdigest())


def _seal(path: Path) -> _File:
    """`_write` for a file that another library has written."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    return _File(path, path.stat().st_size, _hash(path))


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    if sys.platform != "win32":  # Windows cannot open a folder, and keeps names in order by itself
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _sweep(folder: Path) -> None:
    """Deletes an index's files that its manifest does not name. Only under the lock: they may be a writer's."""
    # A manifest that cannot be read names nothing for certain. Nor does a sweep that fails undo what was written.
    with suppress(JobonnxError, OSError):
        named = {file.path.name for file in _read_manifest(folder).files}
        for path in folder.iterdir():
            if path.name not in named and _OURS.fullmatch(path.name):
                with suppress(OSError):  # Windows keeps a file that a reader has mapped; a later sweep takes it
                    path.unlink()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the folder's lock, which the system frees when the process ends, however it ends."""
    with (folder / _LOCK).open("ab") as file:
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise JobonnxError(f"{folder} is being written by someone else; try again when they are done") from None
        yield  # closing the file frees the lock


def _check_titles(titles: Sequence[str]) -> None:
    if isinstance(titles, str):
        raise TypeError("titles must be a sequence of strings, not one string")
    for number, title in enumerate(titles):
        if not isinstance(title, str):
            raise TypeError(f"titles[{number}] must be a string, not {type(title).__name__}")


def _runs(rows: Ints) -> Iterator[Ints]:
    """`rows`, some at a time: what is copied at once is 32 MiB with 1,024 dimensions."""
    for first in range(0, len(rows), 8192):
        yield rows[first : first + 8192]
