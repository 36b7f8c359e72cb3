"""The titles that `/match` ranks: an index on disk, which is opened again when it is replaced, or the built-in titles."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from jobonnx.arrays import Floats
from jobonnx.data.titles import read_titles
from jobonnx.errors import JobonnxError
from jobonnx.search.corpus import cached_index, nearest_titles
from jobonnx.search.index import Index, Match
from jobonnx.search.store import DATABASE

_PART = 128  # built-in titles that are encoded at once, so that requests come between


class PreparingError(JobonnxError):
    """The titles are not encoded yet."""


class Corpus(Protocol):
    """Titles with their vectors."""

    def search(self, vectors: Floats, count: int) -> list[list[Match]]:
        """Find the nearest titles to each query, best first."""

    def check(self) -> None:
        """Raise PreparingError if they cannot be searched yet."""

    def refresh(self) -> bool | None:
        """Look whether the titles were replaced: None if not, else whether the new ones could be opened."""

    def __len__(self) -> int: ...


class OnDisk:
    """An index that `jobonnx index` made."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        """Open it.

        Raises:
            JobonnxError: there is none, it is damaged, or its vectors are of another encoder.
        """
        self._path, self._fingerprint = path, fingerprint
        self.problem: JobonnxError | None = None  # why what replaced it could not be opened
        self._seen = self._state()
        self._index = self._open()

    def __len__(self) -> int:
        return len(self._index)

    def search(self, vectors: Floats, count: int) -> list[list[Match]]:
        """Find the nearest titles to each query, best first."""
        index = self._index
        return index.search(vectors, count, fingerprint=self._fingerprint, approximate=index.has_approximate)

    def check(self) -> None:
        """Do nothing: it can be searched from the start."""

    def refresh(self) -> bool | None:
        """Open it again if it was replaced or written to; what cannot be opened is left alone until it changes once more."""
        state = self._state()
        if state is None or state == self._seen:  # None: in the middle of being replaced
            return None
        self._seen = state
        try:
            self._index = self._open()  # a search under way keeps the old one
        except JobonnxError as error:
            self.problem = error
            return False
        self.problem = None
        return True

    def _state(self) -> tuple[int, int, int] | None:
        try:
            status = os.stat(self._path / DATABASE)
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _open(self) -> Index:
        index = Index.open(self._path)
        if index.fingerprint != self._fingerprint:
            raise JobonnxError(
                f"{self._path} was made with the encoder {index.fingerprint} and this service runs {self._fingerprint}; "
                "name the bundle and variant that made it, or make a new index"
            )
        return index


class BuiltIn:
    """The titles that come with the package, encoded in the background when they are first wanted, and kept in the user's cache."""

    def __init__(self, fingerprint: str, dimension: int, prompt: str, encode: Callable[[list[str]], Floats]) -> None:
        """Encode nothing yet.

        Args:
            fingerprint: of the encoder.
            dimension: of its vectors.
            prompt: what stands before every title when it is encoded.
            encode: makes vectors of unit length; called on a thread of its own, with few titles at once.
        """
        self.fingerprint, self.dimension = fingerprint, dimension
        self._prompt, self._encode_part = prompt, encode
        self._titles = read_titles()
        self._done = 0
        self._found: Callable[[Floats, int], list[list[Match]]] | None = None
        self._error: Exception | None = None
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        return len(self._titles)

    def prepare(self) -> None:
        """Begin to encode, unless that has begun."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._prepare, name="jobonnx-titles", daemon=True)
                self._thread.start()

    def check(self) -> None:
        """Begin to encode them.

        Raises:
            PreparingError: they are not encoded yet.
            Exception: why that failed; the next call tries again.
        """
        if self._found is not None:
            return
        if (error := self._error) is not None:
            self._error = None
            raise error
        self.prepare()
        if self._found is None:
            share = 100 * self._done // max(1, len(self._titles))
            raise PreparingError(f"the built-in titles are being encoded ({share}% of {len(self):,}); try again in a few seconds")

    def search(self, vectors: Floats, count: int) -> list[list[Match]]:
        """Find the nearest titles to each query, best first; `check` has passed."""
        assert self._found is not None, "check() says when they can be searched"
        return self._found(vectors, count)

    def refresh(self) -> bool | None:
        """Nothing replaces them."""
        return None

    def encode(self, titles: list[str], /, *, prompt: str, normalize_embeddings: bool = True) -> Floats:
        """Encode titles part by part, as `cached_index` wants it."""
        import numpy as np

        parts = []
        for first in range(0, len(titles), _PART):
            parts.append(self._encode_part([prompt + title for title in titles[first : first + _PART]]))
            self._done = first + len(parts[-1])
        return np.concatenate(parts)

    def _prepare(self) -> None:
        try:
            index = cached_index(self._titles, self, self._prompt)
            if index is not None:
                self._found = lambda vectors, count: index.search(vectors, count, fingerprint=self.fingerprint)
                return
            corpus = self.encode(self._titles, prompt=self._prompt)  # a cache that cannot be written costs the time at every start
            self._found = lambda vectors, count: nearest_titles(vectors, self._titles, corpus, count)
        except Exception as error:
            self._error = error
            with self._lock:
                self._thread = None  # the next request tries again
