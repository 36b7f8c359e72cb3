"""Vectors to JSON, part by part: numbers, or little-endian float32 in base64."""

from __future__ import annotations

import binascii
from collections.abc import Iterator

import numpy as np
import orjson

from jobonnx.arrays import Floats, unit

_PART = 16  # rows that are written at once: about 1 ms for 1,024 numbers each


def shortened(vectors: Floats, dimension: int | None, normalize: bool) -> Floats:
    """Keep the first components and bring the rows to unit length again, as Encoder.encode does."""
    if dimension is not None and dimension < vectors.shape[1]:
        return unit(vectors[:, :dimension])
    return unit(vectors) if normalize else vectors


def openai(vectors: Floats, model: str, tokens: int, as_base64: bool) -> Iterator[bytes]:
    """Write the reply of /v1/embeddings."""
    yield b'{"object":"list","data":['
    for first in range(0, len(vectors), _PART):
        rows = _rows(vectors[first : first + _PART], as_base64)
        yield (b"," if first else b"") + b",".join(
            b'{"object":"embedding","index":%d,"embedding":%b}' % (first + number, row) for number, row in enumerate(rows)
        )
    yield b'],"model":%b,"usage":{"prompt_tokens":%d,"total_tokens":%d}}' % (orjson.dumps(model), tokens, tokens)


def plain(vectors: Floats) -> Iterator[bytes]:
    """Write a list of lists of numbers."""
    yield b"["
    for first in range(0, len(vectors), _PART):
        yield (b"," if first else b"") + b",".join(_rows(vectors[first : first + _PART], False))
    yield b"]"


def joined(parts: Iterator[bytes], rows: int) -> bytes | Iterator[bytes]:
    """Join the parts of a small reply; a large one stays in parts."""
    return b"".join(parts) if rows <= _PART else parts


def _rows(vectors: Floats, as_base64: bool) -> list[bytes]:
    if as_base64:
        little = np.ascontiguousarray(vectors, dtype="<f4")
        return [b'"%b"' % binascii.b2a_base64(row, newline=False) for row in little]
    return [orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY) for row in np.ascontiguousarray(vectors)]
