"""A list of titles on disk, with their vectors, their ids and the encoder that made them, ready to be searched.

An index is one folder:

    index.sqlite                   titles, ids, the encoder's fingerprint, and a SHA-256 of everything here (SQLite)
    9f86d081884c7d65.vectors       the vectors: float32, little-endian, row after row, mapped into memory
    2c26b46b68ffc68f.approximate   the approximate search (a faiss index), once it is built

Every write is one transaction of SQLite. `add` appends rows to the file of vectors, and forces them to the disk before it commits
the titles that name them. Rows past the committed number are leftovers, which the next write removes. `remove` deletes titles. When
fewer than half of the rows have a title, it writes those to a new file of vectors, which the same transaction names. Killed
anywhere, a write leaves the old state or the new one. A reader keeps the state that it opened: the titles in memory, and a map of
the vectors, whose committed rows never change.

Writing needs a file system whose locks work, which some network file systems do not offer. Reading needs no right to write.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from jobonnx.arrays import Floats, Ints
from jobonnx.errors import JobonnxError, reason
from jobonnx.search import store
from jobonnx.search.store import DATABASE, Header, State
from jobonnx.search.topk import check_integer, check_vectors, rank, search


@dataclass(frozen=True)
class Match:
    """A title found.

    Attributes:
        title: the title.
        score: the cosine of its vector and the query's.
        ids: its ids, in the order in which they were added.
    """

    title: str
    score: float
    ids: tuple[str, ...] = ()


class Index:
    """Titles with their vectors on disk, from one encoder. Made by `Index.create`, opened by `Index.open`.

    A title is held once, with any number of ids. Searching is safe from several threads, also while one of them writes. An open
    index sees its own writes; those of another process it sees when it is opened again, or when it writes itself.
    """

    def __init__(self, path: Path, state: State) -> None:
        self.path = path
        self._held: State | None = state  # replaced, never changed

    @classmethod
    def create(cls, path: str | os.PathLike[str], fingerprint: str, dimension: int, prompt: str = "") -> Self:
        """Make an empty index in the folder `path`, which must be new or empty.

        Args:
            path: the folder.
            fingerprint: of the encoder whose vectors it will hold.
            dimension: of the vectors, 1 to 65,536.
            prompt: what stands before every title when it is encoded.

        Raises:
            JobonnxError: the folder holds something, or cannot be written.
            TypeError, ValueError: a fingerprint, dimension or prompt that is not as above.
        """
        dimension = check_integer(dimension, "the dimension", 1, store.MOST_DIMENSIONS)
        if not isinstance(fingerprint, str):
            raise TypeError(f"the fingerprint must be a string, not {fingerprint!r}")
        if not fingerprint or not fingerprint.isprintable():
            raise ValueError(f"the fingerprint is {fingerprint!r}; it must be printable and not empty")
        _check_prompt(prompt)
        folder = Path(path)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # A killed `create` leaves a database without tables, which is no reason to refuse.
            if strangers := {entry.name for entry in folder.iterdir()} - {DATABASE, f"{DATABASE}-journal"}:
                raise JobonnxError(f"{folder} already holds {min(strangers)}; make the index in a new or empty folder")
            with store.database(folder, make=True) as db:
                store.begin_write(db, folder)
                if not store.make_tables(db, Header("", fingerprint, dimension, prompt, 0, None, None).next()):
                    raise JobonnxError(f"{folder} already holds {DATABASE}; make the index in a new or empty folder")
                try:
                    db.execute("COMMIT")
                except sqlite3.Error:
                    db.close()
                    (folder / DATABASE).unlink()  # or it could not be made again here
                    raise
        except (OSError, ValueError, sqlite3.Error) as error:
            fix = "free some space or name another folder" if store.is_full(error) else "name another folder"
            raise JobonnxError(f"cannot make an index in {folder} ({reason(error)}); {fix}") from error
        return cls.open(folder)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, verify: bool = True) -> Self:
        """Open the index in the folder `path`.

        Args:
            path: the folder.
            verify: whether to compare the SHA-256 of every vector (about 2 s for 4 GB in memory, on one core). Without, the
                files' sizes are still compared, and the SHA-256 of the titles and ids.

        Raises:
            JobonnxError: there is no index, or a file is missing, truncated, altered, or of a later format.
        """
        folder = Path(path)
        if not (folder / DATABASE).is_file():
            raise JobonnxError(f"{folder} is not an index that can be read (it holds no {DATABASE}); name an index's folder")
        try:
            with store.database(folder) as db:
                db.execute("BEGIN")  # until the files are mapped, no writer may sweep them away
                state = State.load(db, folder)
            if verify:
                state.verify()
        except (OSError, sqlite3.Error) as error:
            raise store.unreadable(folder, error) from error
        return cls(folder, state)

    def close(self) -> None:
        """Let go of the files. The index cannot be used any more; closing it again changes nothing."""
        self._held = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def _state(self) -> State:
        if self._held is None:
            raise ValueError(f"the index {self.path} is closed; open it again")
        return self._held

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the encoder whose vectors are here."""
        return self._state.header.fingerprint

    @property
    def dimension(self) -> int:
        """The dimension of the vectors."""
        return self._state.header.dimension

    @property
    def prompt(self) -> str:
        """What stood before every title when it was encoded."""
        return self._state.header.prompt

    @property
    def has_approximate(self) -> bool:
        """Whether `search(..., approximate=True)` can be asked for."""
        return self._state.header.approximate is not None

    @property
    def ids(self) -> dict[str, tuple[str, ...]]:
        """The ids of every title that has some, in the order in which they were added."""
        state = self._state
        return {title: state.ids[row] for row, title in zip(state.rows.tolist(), state.titles, strict=True) if row in state.ids}

    def __len__(self) -> int:
        return len(self._state.titles)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the titles, in the order in which they were added."""
        return iter(self._state.titles)

    def add(
        self, titles: Sequence[str], vectors: Floats, *, fingerprint: str, prompt: str = "", ids: Sequence[str] | None = None
    ) -> int:
        """Add titles with their vectors. A title that is already there, or comes twice, keeps its first vector.

        Args:
            titles: n strings.
            vectors: float32 [n, dimension], of unit length.
            fingerprint: of the encoder that made them.
            prompt: what stood before every title when it was encoded.
            ids: an id per title, or None. A title gets every id that it comes with, in addition to those that it has; an id may
                belong to several titles.

        Returns:
            How many titles were added. The approximate search is dropped if there were any: build it again.

        Raises:
            JobonnxError: vectors of another encoder or prompt, someone else is writing, or the disk refuses; nothing is changed,
                unless the message says so.
            TypeError, ValueError: titles, vectors or ids that are not as above.
        """
        _check_strings(titles, "titles")
        self._check_vectors(vectors, "vectors", fingerprint)
        _check_prompt(prompt)
        if prompt != self.prompt:
            raise JobonnxError(
                f"{self.path} holds vectors of titles behind the prompt {self.prompt!r} and these have {prompt!r}; "
                "encode them with that prompt, or make a new index"
            )
        if len(vectors) != len(titles):
            raise ValueError(f"there are {len(titles)} titles and {len(vectors)} vectors; they must agree")
        given: dict[str, list[str]] = {title: [] for title in titles}
        if ids is not None:
            _check_strings(ids, "ids")
            if len(ids) != len(titles):
                raise ValueError(f"there are {len(titles)} titles and {len(ids)} ids; they must agree")
            for title, name in zip(titles, ids, strict=True):
                given[title].append(name)
        firsts: dict[str, int] = {}
        for place, title in enumerate(titles):
            firsts.setdefault(title, place)

        with self._writing() as (db, state):
            rows = state.rows_of(given)
            new = [title for title in given if title not in rows]
            rows |= {title: state.header.rows + number for number, title in enumerate(new)}
            changed: dict[int, tuple[str, ...]] = {}
            for title, more in given.items():
                had = state.ids.get(rows[title], ())
                if len(merged := tuple(dict.fromkeys((*had, *more)))) > len(had):
                    changed[rows[title]] = merged
            if new or changed:
                places = np.array([firsts[title] for title in new], np.int64)
                after = state.with_titles(new, (vectors[some] for some in store.chunked(places)), changed)
                self._commit(db, after, changed)
            return len(new)

    def remove(self, titles: Sequence[str] = (), *, ids: Sequence[str] = ()) -> int:
        """Remove titles, or ids; one that is not there is passed over.

        Args:
            titles: titles to remove, with all their ids.
            ids: ids to take from every title that has them. A title whose last id goes is removed too.

        Returns:
            How many titles were removed. The approximate search is dropped if there were any: build it again.

        Raises:
            JobonnxError: someone else is writing, or the disk refuses; nothing is changed, unless the message says so.
            TypeError: `titles` or `ids` is not a sequence of strings.
        """
        _check_strings(titles, "titles")
        _check_strings(ids, "ids")
        unwanted = frozenset(ids)
        with self._writing() as (db, state):
            left: dict[int, tuple[str, ...]] = {}  # the ids that stay of each row that loses some
            if unwanted:
                for row, had in state.ids.items():
                    if not unwanted.isdisjoint(had):
                        left[row] = tuple(name for name in had if name not in unwanted)
            gone = {row for row, stay in left.items() if not stay} | set(state.rows_of(titles).values())
            if gone or left:
                left |= dict.fromkeys(gone, ())
                self._commit(db, state.without(np.array(sorted(gone), np.int64), left), left)
            return len(gone)

    def build_approximate(self) -> float:
        """Build the approximate search over the titles as they are now, for corpora past a few million, and save it.

        It holds a byte per dimension, and is read into memory at the first search. It scans as few clusters as find, for 500 of
        the titles, at least 99.5% of the 10 others nearest to each. It belongs to these titles: adding or removing one drops it.

        Returns:
            The recall@10 that was measured, between 0.995 and 1.

        Raises:
            JobonnxError: the extra is not installed, the index is empty, someone else is writing, or the disk refuses.
        """
        with self._writing() as (db, state):
            if not state.titles:
                raise JobonnxError(f"{self.path} holds no titles; add some before building the approximate search")
            after = state.with_approximate()
            self._commit(db, after, ())
            assert after.header.approximate is not None
            return after.header.approximate.recall

    def search(self, vectors: Floats, k: int, *, fingerprint: str, approximate: bool = False) -> list[list[Match]]:
        """Find the `k` titles nearest to each query.

        Args:
            vectors: the queries, float32 [q, dimension], of unit length.
            k: titles wanted per query, at least 1; more than there are gives them all.
            fingerprint: of the encoder that made the queries.
            approximate: whether to use what `build_approximate` built. The scores are exact all the same; a title may be missed.

        Returns:
            For each query its matches, best first; equal scores in the order in which the titles were added.

        Raises:
            JobonnxError: another encoder's queries; `approximate` without a build for these titles, or without the extra; vectors
                that were altered since, as far as a search can see it.
            TypeError, ValueError: queries or `k` that are not as above.
        """
        self._check_vectors(vectors, "queries", fingerprint)
        check_integer(k, "k", 1)
        state = self._state
        if approximate and state.approximate is None:
            raise JobonnxError(f"{self.path} has no approximate search for its present titles; call build_approximate() first")
        try:
            if state.approximate is None or not approximate:
                found = list(zip(*search(vectors, state.searched, k), strict=True))
            else:
                candidates = state.approximate.candidates(vectors, k)
                if not all(state.searched.are_visible(some) for some in candidates):
                    raise JobonnxError(f"{self.path} has an approximate search of other titles; build it again")
                found = [rank(query, state.searched, some, k) for query, some in zip(vectors, candidates, strict=True)]
        except ValueError as error:  # the queries and k have been checked
            raise JobonnxError(f"{self.path / str(state.header.vectors)} was altered ({reason(error)}); {store.RESTORE}") from None
        return [_matches(state, scores, rows) for scores, rows in found]

    def _check_vectors(self, vectors: Floats, name: str, fingerprint: str) -> None:
        if fingerprint != self.fingerprint:
            raise JobonnxError(
                f"{self.path} holds vectors of the encoder {self.fingerprint} and the {name} are from {fingerprint}; "
                "use that encoder, or make a new index"
            )
        check_vectors(vectors, name)
        if vectors.shape[1] != self.dimension:
            raise ValueError(f"the {name} have {vectors.shape[1]} dimensions and the index {self.dimension}; they must agree")

    @contextmanager
    def _writing(self) -> Iterator[tuple[sqlite3.Connection, State]]:
        """Begin a transaction, and give the state that is on disk now, which another process may have changed."""
        try:
            with store.database(self.path) as db:
                store.begin_write(db, self.path)
                header, old = store.read_header(db, self.path), self._state.header
                if (header.fingerprint, header.dimension, header.prompt) != (old.fingerprint, old.dimension, old.prompt):
                    raise JobonnxError(f"{self.path} has been replaced by another index since it was opened; open it again")
                if header != old:
                    self._held = State.load(db, self.path)
                yield db, self._state
        except (OSError, sqlite3.Error) as error:
            if store.is_busy(error):
                raise JobonnxError(f"{self.path} is being written by someone else; try again when they are done") from None
            fix = "free some space" if store.is_full(error) else "mend that and repeat the call"
            raise JobonnxError(f"cannot write to {self.path} ({reason(error)}); the index is as it was; {fix}") from error
        finally:
            store.sweep(self.path)

    def _commit(self, db: sqlite3.Connection, state: State, touched: Iterable[int]) -> None:
        state.write(db, self._state, touched)
        state.map_files()  # now: after the commit another writer may sweep them away
        try:
            db.execute("COMMIT")
        except sqlite3.Error as error:
            db.close()
            committed = False
            with suppress(JobonnxError, sqlite3.Error), store.database(self.path) as again:
                committed = store.read_header(again, self.path) == state.header
            if not committed:
                raise
            self._held = state
            raise JobonnxError(
                f"{self.path} has been changed, but the disk did not confirm it ({reason(error)}); "
                "a power failure may bring the old state back until the same call succeeds"
            ) from error
        self._held = state


def _matches(state: State, scores: Floats, rows: Ints) -> list[Match]:
    places = np.searchsorted(state.rows, rows).tolist()
    found = zip(places, rows.tolist(), scores.tolist(), strict=True)
    return [Match(state.titles[place], score, state.ids.get(row, ())) for place, row, score in found]


def _check_prompt(prompt: str) -> None:
    if not isinstance(prompt, str):
        raise TypeError(f"the prompt must be a string, not {prompt!r}")
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise ValueError(f"the prompt {prompt!r} holds half of a surrogate pair, which is no character") from None


def _check_strings(strings: Sequence[str], name: str) -> None:
    if isinstance(strings, str) or not isinstance(strings, Sequence):
        raise TypeError(f"{name} must be a sequence of strings, not {type(strings).__name__}")
    for number, string in enumerate(strings):
        if not isinstance(string, str):
            raise TypeError(f"{name}[{number}] must be a string, not {type(string).__name__}")
