"""The nearest titles to each query, exactly: top-k cosine in blocks, in bounded memory, with one rule for ties.

The *score* of a query and a title is the inner product of their unit-length float32 vectors, summed in float64 and rounded to
float32. It is a function of the two vectors alone, so titles with equal vectors tie wherever they stand, on every machine and at
every block size. A matrix product does not promise that: its last bits depend on the shapes it is called with. It is used here as a
sieve: at the rate of the BLAS it finds every title that could be among the best k, given its greatest possible rounding error. Only
those few are scored.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator

import numpy as np

from jobonnx.arrays import Bools, Floats, Ints

# Queries and titles per block. With 1,024 dimensions the titles take 32 MiB and the scores another 32 MiB. The product ran within
# 5% of its best rate from 500 x 4,096 upward, and lost up to half below (OpenBLAS on 2 cores). Fewer queries get more titles, as
# many as keep the scores at 32 MiB: on a busy machine each call of the BLAS can wait 10 ms for its threads.
_QUERIES, _TITLES, _MOST_TITLES = 1024, 8192, 65536

# How far the square of a vector's length may be from 1. Vectors that were float16 for a while are within it.
_UNIT_TOLERANCE = 2e-3


def top_k(queries: Floats, corpus: Floats, k: int, *, block: tuple[int, int] | None = None) -> tuple[Floats, Ints]:
    """Find the `k` titles with the highest cosine to each query, exactly.

    Memory beyond the vectors: about 5 bytes per score of a block (42 MB without `block`), and 100 bytes per query and match (100 MB
    for the top 100 of 10,000 queries). The worst case is a corpus whose scores nearly all tie, closer than a product's rounding
    error: up to 20 kB more per query (132 MB in all for the top 10 of 2,000 queries, without `block`). Most of its titles are
    scored one by one, which is slow (44 s for 50,000 titles of 128 dimensions, on 2 cores). No matrix of queries x titles is made.

    Args:
        queries: float32 [q, d], each row of unit length.
        corpus: float32 [n, d], each row of unit length. It may be a `numpy.memmap`; it is read once, front to back.
        k: titles wanted per query, at least 1; more than `n` gives `n`.
        block: queries and titles per block, instead of those that fit. It changes time and memory, never the answer.

    Returns:
        Scores float32 [q, min(k, n)] and indices into `corpus` int64 [q, min(k, n)], best first. Equal scores come in the order of
        their indices, also where `k` cuts through them. A score may be above 1 by rounding.

    Raises:
        TypeError: an array that is not float32, or a `k` or block that is not an integer.
        ValueError: an array that is not two-dimensional, dimensions that differ, `k` or a block below 1, or a vector that is not of
            unit length (one with NaN or infinity is not).
    """
    check_vectors(queries, "queries")
    check_shape(corpus, "corpus")
    if corpus.shape[1] != queries.shape[1]:
        raise ValueError(f"the queries have {queries.shape[1]} dimensions and the corpus {corpus.shape[1]}; they must agree")
    return search(queries, Rows(corpus, None, checked=False), k, block=block)


class Rows:
    """Vectors to search, some of their rows hidden.

    Args:
        vectors: float32 [n, d].
        hidden: bool [n], true where a row is hidden, or None. Hidden rows keep their numbers.
        checked: whether the vectors are known to be of unit length; otherwise they are checked as they are read.
    """

    def __init__(self, vectors: Floats, hidden: Bools | None, *, checked: bool) -> None:
        self._vectors = np.asarray(vectors)  # slicing an array is much cheaper than slicing a numpy.memmap
        self._hidden = hidden
        self._checked = checked
        #: How many rows are not hidden.
        self.visible = len(vectors) - (0 if hidden is None else int(np.count_nonzero(hidden)))

    def __len__(self) -> int:
        return len(self._vectors)

    @property
    def dimension(self) -> int:
        """The dimension d of the vectors."""
        return int(self._vectors.shape[1])

    def visible_rows(self) -> Ints:
        """Return the numbers of the rows that are not hidden, int64, ascending."""
        return np.arange(len(self)) if self._hidden is None else np.flatnonzero(~self._hidden)

    def blocks(self, size: int) -> Iterator[tuple[int, Floats, Bools | None]]:
        """Read the rows in order, at most `size` at a time: the first one's number, the vectors, and which are hidden."""
        for first in range(0, len(self), size):
            vectors = self._vectors[first : first + size]
            if not self._checked:
                check_unit(vectors, "corpus", first)
            yield first, vectors, None if self._hidden is None else self._hidden[first : first + size]

    def are_visible(self, indices: Ints) -> bool:
        """Tell whether `indices` int64 [m] are numbers of rows that are not hidden, each at most once."""
        if len(indices) == 0:
            return True
        if indices.min() < 0 or indices.max() >= len(self) or len(np.unique(indices)) < len(indices):
            return False
        return self._hidden is None or not self._hidden[indices].any()

    def take(self, indices: Ints) -> Floats:
        """Return the vectors at `indices` int64 [m], as float32 [m, d]."""
        taken: Floats = self._vectors[indices]
        return taken


def search(queries: Floats, rows: Rows, k: int, *, block: tuple[int, int] | None = None) -> tuple[Floats, Ints]:
    """Do the work of `top_k` over the visible rows of `rows`, for queries that `check_vectors` has passed."""
    k = min(check_integer(k, "k"), rows.visible)
    if k == 0 or len(queries) == 0:
        return np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    if block is None:
        block = _QUERIES, max(_TITLES, min(_MOST_TITLES, _QUERIES * _TITLES // len(queries)))
    block = check_integer(block[0], "the block's number of queries"), check_integer(block[1], "the block's number of titles")
    sieves = [_Sieve(queries[first : first + block[0]], rows, k) for first in range(0, len(queries), block[0])]
    # One pair of buffers for all products: fresh memory of 32 MiB per product costs page faults.
    size = min(block[0], len(queries)) * min(block[1], len(rows))
    products, passed = np.empty(size, np.float32), np.empty(size, np.bool_)
    for first, vectors, hidden in rows.blocks(block[1]):
        for sieve in sieves:
            shape = (len(sieve.queries), len(vectors))
            used = shape[0] * shape[1]
            sieve.offer(first, vectors, hidden, products[:used].reshape(shape), passed[:used].reshape(shape))
    found = [best for sieve in sieves for best in sieve.finish()]
    return np.stack([scores for scores, _ in found]), np.stack([indices for _, indices in found])


def rank(query: Floats, rows: Rows, indices: Ints, k: int) -> tuple[Floats, Ints]:
    """Score the rows at `indices` and keep the best `k`.

    Args:
        query: float32 [d].
        rows: where the vectors are.
        indices: int64 [m], in any order, without repeats.
        k: how many to keep.

    Returns:
        Scores float32 and indices int64 [min(k, m)], best first, equal scores in the order of their indices.

    Raises:
        ValueError: a score that two vectors of unit length do not have.
    """
    scores = np.empty(len(indices), np.float32)
    for first in range(0, len(indices), 1024):  # 8 MiB of float64 products at 1,024 dimensions
        # Product, then sum over each row: NumPy adds one row in the same order whatever the number of rows, as a BLAS
        # does not.
        with np.errstate(over="ignore", invalid="ignore"):
            products = np.multiply(rows.take(indices[first : first + 1024]), query, dtype=np.float64)
            scores[first : first + 1024] = products.sum(axis=1)
    _check_scores(scores)
    order = np.lexsort((indices, -scores))[:k]
    return scores[order], indices[order]


def check_shape(vectors: Floats, name: str) -> None:
    """Check that `vectors` is an array float32 [n, d], d at least 1.

    Raises:
        TypeError: it is no float32 array.
        ValueError: it has another shape.
    """
    if not isinstance(vectors, np.ndarray) or vectors.dtype != np.float32:
        raise TypeError(f"{name} must be a float32 array, not {getattr(vectors, 'dtype', type(vectors).__name__)}")
    if vectors.ndim != 2 or vectors.shape[1] == 0:
        raise ValueError(f"{name} must have the shape [count, dimensions], not {list(vectors.shape)}")


def check_vectors(vectors: Floats, name: str) -> None:
    """Check the shape of `vectors`, and that the square of each row's length is within 0.002 of 1 (so not NaN).

    Raises:
        TypeError: it is no float32 array.
        ValueError: it has another shape, or a row is not of unit length.
    """
    check_shape(vectors, name)
    for first in range(0, len(vectors), _TITLES):
        check_unit(vectors[first : first + _TITLES], name, first)


def check_integer(value: int, name: str, least: int = 1, most: int | None = None) -> int:
    """Check that `value` is an integer between `least` and `most`, and return it as an int.

    Raises:
        TypeError: it is no integer; True and 1.0 are none.
        ValueError: it is out of range.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if number < least or (most is not None and number > most):
        raise ValueError(f"{name} is {number}; it must be at least {least}{'' if most is None else f' and at most {most}'}")
    return number


def check_unit(vectors: Floats, name: str, first: int) -> None:
    """Check that rows are finite and of unit length.

    Args:
        vectors: float32 [n, d].
        name: what errors call them.
        first: the number that errors give the first row.

    Raises:
        ValueError: a row is not.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.einsum("ij,ij->i", vectors, vectors)
        bad = np.flatnonzero(~(np.abs(squares - 1) <= _UNIT_TOLERANCE))  # not "> tolerance", which NaN would pass
    if len(bad):
        row = int(bad[0])
        fault = f"has length {np.sqrt(squares[row]):.4g}" if np.isfinite(squares[row]) else "holds NaN or infinity"
        raise ValueError(f"{name}[{first + row}] {fault}; vectors must be finite and of unit length")


def _check_scores(scores: Floats) -> None:
    """Refuse what vectors that were checked cannot give; a file of vectors may have been altered since.

    One NaN would set the floor of a sieve, and hide every title behind it.
    """
    if scores.size and not scores.max() <= 1 + 2 * _UNIT_TOLERANCE:  # NaN, which is the maximum then, is not
        raise ValueError("a vector is not finite or not of unit length")


class _Sieve:
    """The candidates of one block of queries: every title seen so far that may be among a query's best `k`."""

    def __init__(self, queries: Floats, rows: Rows, k: int) -> None:
        self.queries = np.ascontiguousarray(queries)
        self._rows = rows
        self._k = k
        # The error of a float32 inner product of unit vectors, summed in any order, is at most d u / (1 - d u), u = 2**-24
        # (Higham, Accuracy and Stability of Numerical Algorithms, 3.1). The + 2 covers rounding the score and the tolerated length.
        # Two products whose scores are in the other order differ by at most twice that. It lets about one more candidate per query
        # pass, which costs little.
        self._margin = np.float32(2 * (queries.shape[1] + 2) * 2.0**-24 * (1 + _UNIT_TOLERANCE))
        # A product below its query's floor cannot belong to the best k. Those of visible rows start above it; those of hidden rows
        # are set below it.
        self._floors = np.full(len(queries), -2, np.float32)
        self._kept: list[tuple[Ints, Ints, Floats]] = []  # query within the block, row, product
        self._count = 0
        self._limit = 2 * len(queries) * k

    def offer(self, first: int, vectors: Floats, hidden: Bools | None, products: Floats, passed: Bools) -> None:
        """Take in the rows from number `first` on; `products` and `passed` [queries, rows] are buffers."""
        with np.errstate(over="ignore", invalid="ignore"):
            np.matmul(self.queries, vectors.T, out=products)
        _check_scores(products)
        if hidden is not None:
            products[:, hidden] = -np.inf
        if not self._kept:
            self._raise_floors_to_best(products)  # or every title of the first block would pass
        # A comparison and a search for true bytes cost 2% of the product; a partition of each block costs 80%.
        np.greater_equal(products, self._floors[:, None], out=passed)
        # Scores that rise from block to block, or are nearly equal, would let every title of a block pass, at 60 bytes per score.
        # The block's best k stop rising scores; nearly equal ones are taken in some columns at a time.
        step, crowd = products.shape[1], max(products.shape[1] // 16, 2 * self._k)
        if np.count_nonzero(passed) > crowd * len(self.queries):
            step = crowd
            self._raise_floors_to_best(products)
            np.greater_equal(products, self._floors[:, None], out=passed)
        for start in range(0, products.shape[1], step):
            some = slice(start, start + step)
            hits = np.flatnonzero(passed[:, some])
            if len(hits):
                which, columns = np.divmod(hits, min(step, products.shape[1] - start))
                self._kept.append((which, columns + (first + start), products[:, some].ravel()[hits]))
                self._count += len(hits)
                if self._count > self._limit:
                    self._shrink()

    def finish(self) -> Iterator[tuple[Floats, Ints]]:
        """Return for each query the scores and rows of its best `k`."""
        self._shrink()
        which, indices, _ = self._kept[0]
        starts = np.searchsorted(which, np.arange(1, len(self.queries)))
        for query, mine in zip(self.queries, np.split(indices, starts), strict=True):
            yield rank(query, self._rows, mine, self._k)

    def _raise_floors(self, which: Ints | slice, worst: Floats) -> None:
        """Raise the floors of some queries, given the k-th product of each: what is below scores less than k others."""
        self._floors[which] = np.maximum(self._floors[which], worst - self._margin)

    def _raise_floors_to_best(self, products: Floats) -> None:
        """Raise the floors to the k-th products of a block, if it has as many."""
        place = products.shape[1] - self._k
        if place > 0:
            for first in range(0, len(products), 64):  # a partition works on a copy
                some = slice(first, first + 64)
                self._raise_floors(some, np.partition(products[some], place, axis=1)[:, place])

    def _shrink(self) -> None:
        """Raise the floors to what has been seen, and drop the candidates below them."""
        which, indices, products = (np.concatenate(column) for column in zip(*self._kept, strict=True))
        order = np.lexsort((-products, which))
        which, indices, products = which[order], indices[order], products[order]
        starts = np.searchsorted(which, np.arange(len(self.queries) + 1))
        full = np.flatnonzero(np.diff(starts) >= self._k)
        self._raise_floors(full, products[starts[full] + self._k - 1])
        stay = products >= self._floors[which]
        # Many titles with nearly one score (a corpus full of repeats) would all stay. There only the scores can tell, and k stay.
        for crowded in np.flatnonzero(np.bincount(which[stay], minlength=len(self.queries)) > 2 * self._k + 1000):
            mine = starts[crowded] + np.flatnonzero(stay[starts[crowded] : starts[crowded + 1]])
            _, best = rank(self.queries[crowded], self._rows, indices[mine], self._k)
            stay[mine] = np.isin(indices[mine], best)
        self._kept = [(which[stay], indices[stay], products[stay])]
        self._count = int(np.count_nonzero(stay))
        # Room for k more per query. In random order that many come while the number of titles doubles, so there are few sorts.
        self._limit = self._count + len(self.queries) * self._k
