"""The file that graphs keep their large tensors in: one per storage precision, whatever is written for several targets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx

_ALIGNMENT = 4096  # of each tensor: a page, so that it can be memory-mapped
_MOST_IN_ONE_FILE = (1 << 31) - (1 << 20)  # bytes: protocol buffers have 2 GiB at most, and metadata follows


class DataFile:
    """External data of one or more ONNX graphs in the same folder. Equal bytes are stored once, whoever asks."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[bytes, int] = {}  # sha256 of a tensor's bytes -> its offset
        self._file: BinaryIO | None = None

    @contextmanager
    def open(self) -> Iterator[DataFile]:
        """Open for `add`: made anew the first time, later on with every tensor where it was."""
        with open(self.path, "ab" if self._places else "wb") as self._file:
            yield self

    def add(self, array: np.ndarray[Any, Any]) -> tuple[int, int]:
        """Store an array's bytes, in C order.

        Returns:
            Offset and length, in bytes.
        """
        assert self._file is not None, "open() first"
        key = hashlib.sha256(array.data).digest()
        if key not in self._places:
            self._file.write(b"\0" * (-self._file.tell() % _ALIGNMENT))
            self._places[key] = self._file.tell()
            self._file.write(array.data)
        return self._places[key], array.nbytes


def into_one_file(graph: Path, data: Path) -> None:
    """Move a graph's tensors from its data file into the graph, where they fit; programs for the web want one file."""
    if graph.stat().st_size + data.stat().st_size < _MOST_IN_ONE_FILE:
        onnx.save(onnx.load(graph), graph)
        data.unlink()
