"""Titles whose vectors are made from their letters, and what an index that holds them has to answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np

from jobonnx.arrays import Floats
from jobonnx.search.index import Index, Match
from jobonnx.search.topk import top_k

DIMENSION = 16
FINGERPRINT = "sha256:one"


@cache
def vector(title: str) -> Floats:
    """Make a vector that belongs to its title, as an encoder's would."""
    made = np.random.default_rng(list(title.encode("utf-8", "surrogatepass"))).standard_normal(DIMENSION)
    return (made / np.linalg.norm(made)).astype(np.float32)


def vectors(titles: Sequence[str]) -> Floats:
    return np.stack([vector(title) for title in titles]) if titles else np.empty((0, DIMENSION), np.float32)


def add(index: Index, titles: Sequence[str], ids: Sequence[str] | None = None) -> int:
    return index.add(titles, vectors(titles), fingerprint=FINGERPRINT, ids=ids)


def check(index: Index, titles: Sequence[str], ids: Mapping[str, tuple[str, ...]] | None = None) -> None:
    """Check that the index holds these titles in this order, each with its vector and its ids, and ranks them as `top_k` does."""
    ids = ids or {}
    assert list(index) == list(titles)
    assert len(index) == len(titles)
    assert index.ids == ids
    queries = vectors(["query 1", "query 2"])
    scores, indices = top_k(queries, vectors(titles), 5)
    expected = [
        [Match(titles[i], float(s), ids.get(titles[i], ())) for i, s in zip(row_i, row_s, strict=True)]
        for row_i, row_s in zip(indices, scores, strict=True)
    ]
    assert index.search(queries, 5, fingerprint=FINGERPRINT) == expected


def some(count: int, start: int = 0) -> list[str]:
    return [f"title {number}" for number in range(start, start + count)]


#: What is done to an index of `some(40)`, and what it holds afterwards.
ACTIONS: dict[str, tuple[Callable[[Index], object], list[str]]] = {
    "add, few": (lambda index: add(index, some(5, 100)), [*some(40), *some(5, 100)]),
    "add, many": (lambda index: add(index, some(1200, 100)), [*some(40), *some(1200, 100)]),
    "remove, few": (lambda index: index.remove(some(6)), some(34, 6)),
    "remove, rewriting": (lambda index: index.remove(some(25)), some(15, 25)),
    "remove, all": (lambda index: index.remove(some(40)), []),
}
