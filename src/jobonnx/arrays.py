"""The array types of the project, and unit length."""

from __future__ import annotations

from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float32]]
Doubles = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]

_SMALLEST_NORM = np.float32(1e-12)  # as torch.nn.functional.normalize: a row of zeros stays zeros


def unit(vectors: Floats) -> Floats:
    """Bring every row to unit length (L2), float32 [rows, dimension]; rows of zeros stay zeros."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True).astype(np.float32)
    normalised: Floats = vectors / np.maximum(norms, _SMALLEST_NORM)
    return normalised


def repeated(vectors: Floats, inverse: Ints) -> Floats:
    """Give every item its row, where equal items have one row between them.

    Args:
        vectors: float32 [distinct items, dimension], in the order of their first appearance.
        inverse: int64 [items], as `jobonnx.text.batching.deduplicate` gives it. As many items as rows are all distinct, so the rows
            stand in order, and nothing is copied.
    """
    return np.ascontiguousarray(vectors) if len(inverse) == len(vectors) else vectors[inverse]
