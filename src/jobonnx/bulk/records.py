"""How a vector is kept: a record of bytes while it is on its way, columns of Arrow in a part of the output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from jobonnx.arrays import Bools, Floats

DTYPES = ("float32", "float16", "int8", "binary")
Bytes = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class Records:
    """The layout of a record: the vector, for int8 its scale, and whether its title was truncated.

    - float32, float16: the components.
    - int8: component i is round(x[i] / scale), where scale = max(|x|) / 127 is the vector's own, float32. A cosine needs no scale.
    - binary: bit i is x[i] > 0, eight to a byte, the first in the highest bit, as numpy.packbits packs them.

    Attributes:
        dtype: one of `DTYPES`.
        dimension: of the vectors.
    """

    dtype: str
    dimension: int

    @property
    def length(self) -> int:
        """How many numbers a vector has in the output: the dimension, or the bytes of its bits."""
        return -(-self.dimension // 8) if self.dtype == "binary" else self.dimension

    @property
    def width(self) -> int:
        """Bytes of a record."""
        return self._bytes + (4 if self.dtype == "int8" else 0) + 1

    def pack(self, vectors: Floats, truncated: Bools) -> Bytes:
        """Make records of vectors.

        Args:
            vectors: float32 [n, dimension].
            truncated: bool [n].

        Returns:
            uint8 [n, width].
        """
        parts = [_bytes(self._components(vectors))]
        if self.dtype == "int8":
            parts.append(_bytes(_scales(vectors)))
        return np.concatenate([*parts, truncated[:, None].astype(np.uint8)], axis=1)

    def truncated(self, records: Bytes) -> Bools:
        """Tell which titles were truncated: bool [n]."""
        truncated: Bools = records[:, -1] != 0
        return truncated

    def fields(self) -> dict[str, Any]:
        """Return the columns that records become, name -> Arrow type."""
        import pyarrow as pa

        item = {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8(), "binary": pa.uint8()}[self.dtype]
        vector = {"vector": pa.list_(item, self.length)}
        return {**vector, "scale": pa.float32()} if self.dtype == "int8" else vector

    def columns(self, records: Bytes, valid: Bools) -> dict[str, Any]:
        """Make columns of Arrow from records: name -> array.

        Args:
            records: uint8 [n, width].
            valid: bool [n]; where it is False, the columns are null whatever the record holds.
        """
        import pyarrow as pa

        fields = self.fields()
        missing = pa.array(~valid)
        values = pa.Array.from_buffers(
            fields["vector"].value_type, len(records) * self.length, [None, pa.py_buffer(_packed(records[:, : self._bytes]))]
        )
        columns = {"vector": pa.FixedSizeListArray.from_arrays(values, type=fields["vector"], mask=missing)}
        if "scale" in fields:
            scales = _packed(records[:, self._bytes : self._bytes + 4]).view(np.float32)[:, 0]
            columns["scale"] = pa.array(scales, pa.float32(), mask=~valid)
        return columns

    @property
    def _bytes(self) -> int:
        return self.length * {"float32": 4, "float16": 2}.get(self.dtype, 1)

    def _components(self, vectors: Floats) -> Any:
        if self.dtype == "binary":
            return np.packbits(vectors > 0, axis=1)
        if self.dtype == "int8":
            return np.rint(vectors / _scales(vectors)).astype(np.int8)
        return np.ascontiguousarray(vectors, dtype=self.dtype)


def _scales(vectors: Floats) -> Floats:
    """Return the scale of each vector, float32 [n, 1]; 1 for one of zeros."""
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0)
    scales: Floats = np.where(largest > 0, largest / np.float32(127), np.float32(1)).astype(np.float32)
    return scales


def _bytes(rows: Any) -> Bytes:
    """View rows of any numbers as rows of bytes."""
    return np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), -1)


def _packed(rows: Bytes) -> Bytes:
    return np.ascontiguousarray(rows)
