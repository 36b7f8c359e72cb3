"""How alike vectors are: the four functions of sentence-transformers, of every pair and of paired rows, in numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from jobonnx.arrays import Floats, unit

Compare = Callable[[Floats, Floats], Floats]


def _distances(order: int) -> Compare:
    """Minus the distance of every pair, row by row: [len(a), len(b), dimension] at once would not fit."""
    return lambda a, b: np.asarray([-np.linalg.norm(b - row, order, axis=1) for row in a], np.float32).reshape(len(a), len(b))


def _paired_distances(order: int) -> Compare:
    return lambda a, b: (-np.linalg.norm(a - b, order, axis=1)).astype(np.float32)


def _paired_products(a: Floats, b: Floats) -> Floats:
    products: Floats = (a * b).sum(axis=1)
    return products


# Name -> the function of every pair, float32 [len(a), len(b)], and the one of paired rows, float32 [rows].
SIMILARITIES: dict[str, tuple[Compare, Compare]] = {
    "cosine": (lambda a, b: unit(a) @ unit(b).T, lambda a, b: _paired_products(unit(a), unit(b))),
    "dot": (lambda a, b: a @ b.T, _paired_products),
    "euclidean": (_distances(2), _paired_distances(2)),
    "manhattan": (_distances(1), _paired_distances(1)),
}


def similarity_name(value: Any) -> str:
    """Return a similarity's name.

    Args:
        value: a name, a member of sentence-transformers' `SimilarityFunction`, or None for cosine.

    Raises:
        ValueError: there is none of that name.
    """
    name = "cosine" if value is None else getattr(value, "value", value)
    if name not in SIMILARITIES:
        raise ValueError(f"similarity_fn_name={name!r} is unknown; it is one of {', '.join(SIMILARITIES)}")
    return str(name)


def every_pair(name: str, a: Any, b: Any) -> Floats:
    """Compare every vector of `a` with every one of `b`: float32 [len(a), len(b)]."""
    return SIMILARITIES[name][0](_rows(a), _rows(b))


def paired(name: str, a: Any, b: Any) -> Floats:
    """Compare row i of `a` with row i of `b`: float32 [rows].

    Raises:
        ValueError: they have different numbers of rows.
    """
    a, b = _rows(a), _rows(b)
    if len(a) != len(b):
        raise ValueError(
            f"similarity_pairwise compares row by row, and got {len(a)} and {len(b)} rows; use similarity for every pair"
        )
    return SIMILARITIES[name][1](a, b)


def _rows(vectors: Any) -> Floats:
    return np.atleast_2d(np.asarray(vectors, dtype=np.float32))
