"""Vectors of texts that were computed before, bounded in bytes; the ones used longest ago go first."""

from __future__ import annotations

import sys
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from jobonnx.arrays import Floats

Text = str | tuple[int, ...]  # a text, or token ids that the caller made
_ENTRY = 400  # bytes beside vector and text: entry, array header, place in the table (a test measures it)


@dataclass(frozen=True, slots=True)
class Cached:
    """A vector, float32 [dimension], and how many tokens its text has."""

    vector: Floats
    tokens: int


class Cache:
    """Vectors by text. It belongs to one encoder, so the fingerprint is a part of every key without being stored in each.

    Not safe to share between threads: the scheduler calls it under its lock.
    """

    def __init__(self, fingerprint: str, most_bytes: int) -> None:
        """Make an empty cache.

        Args:
            fingerprint: of the encoder that makes the vectors.
            most_bytes: what vectors, texts and entries may take; 0 keeps nothing.
        """
        self.fingerprint, self.most_bytes = fingerprint, most_bytes
        self.bytes = 0
        self._entries: OrderedDict[Text, Cached] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, text: Text) -> Cached | None:
        """Return what is kept of a text; None if nothing is."""
        found = self._entries.get(text)
        if found is not None:
            self._entries.move_to_end(text)
        return found

    def put(self, text: Text, vector: Floats, tokens: int) -> None:
        """Keep a vector, as a copy: a row of a batch would keep the whole batch in memory."""
        size = size_of(text, vector)
        if size > self.most_bytes or text in self._entries:
            return
        self._entries[text] = Cached(np.array(vector), tokens)
        self.bytes += size
        while self.bytes > self.most_bytes:
            old, entry = self._entries.popitem(last=False)
            self.bytes -= size_of(old, entry.vector)


def size_of(text: Text, vector: Floats) -> int:
    """Return the bytes that an entry of the cache takes."""
    return _ENTRY + sys.getsizeof(text) + vector.nbytes
