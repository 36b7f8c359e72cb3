"""The approximate search, for corpora of more than a few million titles: clusters of shortened vectors, few of them scanned.

The exact search reads every vector for each block of queries; with five million titles that is 20 GB for one query. Here a query
is compared with the vectors of the clusters nearest to it, each shortened to 8 bits per dimension (faiss' IVF with a scalar
quantizer). The best of those are candidates, which the caller scores exactly on the full vectors (`jobonnx.search.topk.rank`).
"""

from __future__ import annotations

import hashlib
import os
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from jobonnx.arrays import Floats, Ints
from jobonnx.errors import JobonnxError, native
from jobonnx.search.topk import Rows, rank, search

_SAMPLES = 500  # titles that the recall is measured with: 5,000 neighbours, of which 0.5% are 25
_RECALL = 0.995  # the aim, so that queries other than the samples have 0.99
_TRAINED_ON = 64  # vectors per cluster that the clusters are found with; faiss asks for 39 at least


@dataclass(frozen=True)
class Approximate:
    """A built approximate search.

    Attributes:
        index: the faiss index over the visible rows, by row number.
        probes: clusters scanned per query.
    """

    index: Any
    probes: int

    @classmethod
    def build(cls, rows: Rows) -> tuple[Self, float]:
        """Build the search over the visible rows, of which there must be some.

        Returns:
            The search, and its recall@10. It scans as few clusters as reach a recall of 0.995 on 500 of the rows, each of which is
            left out of its own neighbours.

        Raises:
            JobonnxError: faiss is not installed, or fails.
        """
        faiss = _faiss()
        visible = rows.visible_rows()
        # About the square root of n: comparing a query with the clusters' centres then costs no more than scanning those it needs.
        clusters = max(1, min(int(2 * len(visible) ** 0.5), len(visible) // 39))
        trained_on = _spread(visible, _TRAINED_ON * clusters)
        with _native("faiss could not build the approximate search"):
            index = faiss.index_factory(rows.dimension, f"IVF{clusters},SQ8", faiss.METRIC_INNER_PRODUCT)
            index.cp.min_points_per_centroid = 1  # or faiss prints a warning for fewer than 39 titles
            index.train(rows.take(trained_on))
            for first, vectors, hidden in rows.blocks(65536):
                numbers = np.arange(first, first + len(vectors))
                if hidden is not None:
                    numbers, vectors = numbers[~hidden], vectors[~hidden]
                index.add_with_ids(np.ascontiguousarray(vectors), numbers)

        samples = _spread(visible, _SAMPLES)
        queries = rows.take(samples)
        k = min(11, len(visible))  # 10 and the sample
        exact, _ = search(queries, rows, k)
        probes = 1
        while True:
            built = cls(index, probes)
            recall = _recall(built, rows, samples, queries, exact)
            if recall >= _RECALL or probes == clusters:
                return built, recall
            probes = min(probes + 1 + probes // 4, clusters)

    @classmethod
    def load(cls, saved: mmap, path: Path, probes: int) -> Self:
        """Read what `save` wrote to `path`, from a map of it: the file may have been deleted since.

        Raises:
            JobonnxError: faiss is not installed, or refuses the contents, or they are of another kind.
        """
        faiss = _faiss()
        place = 0  # not the map's position, which two threads would share

        def read(size: int) -> bytes:
            nonlocal place
            place += size
            return saved[place - size : place]

        with native(f"{path} cannot be read by faiss", "build the approximate search again"):
            index = faiss.read_index(faiss.PyCallbackIOReader(read))
        if type(index) is not faiss.IndexIVFScalarQuantizer or index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise JobonnxError(f"{path} is no approximate search of jobonnx; build the approximate search again")
        return cls(index, probes)

    def save(self, file: IO[bytes]) -> str:
        """Write the search to a file, and return the SHA-256 of what was written.

        Raises:
            OSError: the disk refuses.
        """
        faiss = _faiss()
        digest = hashlib.sha256()

        def write(content: bytes) -> None:
            file.write(content)  # an OSError passes through faiss, which would only name the place in its source
            digest.update(content)

        faiss.write_index(self.index, faiss.PyCallbackIOWriter(write))
        return digest.hexdigest()

    def candidates(self, queries: Floats, k: int) -> list[Ints]:
        """Find for each query of float32 [q, d] the rows int64 that may be its best `k`: at least `k`, or all if they are fewer."""
        faiss = _faiss()
        # The 8 bits misorder close neighbours: of the 10 nearest, the last may stand some places further back.
        wanted = min(4 * k + 32, self.index.ntotal)
        found: list[Ints] = [np.empty(0, np.int64)] * len(queries)
        left, probes = np.arange(len(queries)), self.probes
        while len(left):
            with _native("faiss could not search"):
                _, rows = self.index.search(queries[left], wanted, params=faiss.SearchParametersIVF(nprobe=probes))
            for query, row in zip(left.tolist(), rows, strict=True):
                found[query] = row[row >= 0]
            if probes >= self.index.nlist:
                break
            # A query whose clusters held fewer than k scans more of them.
            left = left[[len(found[query]) < min(k, self.index.ntotal) for query in left.tolist()]]
            probes = min(4 * probes, self.index.nlist)
        return found


def _recall(built: Approximate, rows: Rows, samples: Ints, queries: Floats, exact: Floats) -> float:
    """Measure the share of the samples' nearest others that is found; a title that ties with the last of them counts as one."""
    k = exact.shape[1]
    hits = 0
    for sample, query, best, some in zip(samples, queries, exact, built.candidates(queries, k), strict=True):
        scores, indices = rank(query, rows, some, k)
        hits += min(k - 1, int(np.count_nonzero((scores >= best[-1]) & (indices != sample))))
    return hits / (len(samples) * (k - 1)) if k > 1 else 1.0


def _spread(rows: Ints, count: int) -> Ints:
    """Choose `count` of the rows, or all if they are fewer, evenly spaced: the same ones at each build."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64)]


def _native(what: str) -> AbstractContextManager[None]:
    return native(what, "use the exact search, or a machine with more memory")


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise JobonnxError("the approximate search needs faiss; install it with: pip install 'jobonnx[approximate]'") from error
    return faiss


def _one_thread_after_fork() -> None:
    """Let faiss work with one thread in a forked process.

    GNU's OpenMP waits there for ever for threads that only the parent has. It asks for none where it may use only one.
    """
    if faiss := sys.modules.get("faiss"):
        faiss.omp_set_num_threads(1)


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_one_thread_after_fork)
