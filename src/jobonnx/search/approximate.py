"""The approximate search, for corpora past a few million titles: clusters of shortened vectors, few of them scanned.

Exact search reads every vector for each block of queries; at five million titles that is 20 GB for one query. Here a
query is compared with the vectors of the clusters nearest to it, each shortened to 8 bits a dimension (faiss' IVF with
a scalar quantizer). The best of those are candidates; who asks scores them exactly on the full vectors
(`jobonnx.search.topk.rank`).
"""

from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from typing import Any, Self

import numpy as np

from jobonnx.errors import JobonnxError
from jobonnx.search.topk import Floats, Ints, Rows, rank, search

_SAMPLES = 500  # titles that the recall is measured with: 5,000 neighbours, of which 0.5% are 25
_RECALL = 0.995  # aimed at, so that other queries than the samples have 0.99
_TRAINED_ON = 64  # vectors per cluster that the clusters are found with; faiss asks for 39 at least


@dataclass(frozen=True)
class Approximate:
    """A built approximate search.

    Attributes:
        index: the faiss index over the visible rows, by row number.
        probes: clusters scanned for a query.
    """

    index: Any
    probes: int

    @classmethod
    def build(cls, rows: Rows) -> tuple[Self, float]:
        """Builds the search over the visible rows, of which there must be some.

        Returns:
            The search, scanning as few clusters as reach a recall@10 of 0.995 on 500 of the rows (each left out of its
            own neighbours), and the recall@10 reached.

        Raises:
            JobonnxError: faiss is not installed.
        """
        faiss = _faiss()
        visible = rows.visible_rows()
        # About the square root of n: comparing a query with the clusters' centres costs then no more than scanning
        # those it needs.
        clusters = max(1, min(int(2 * len(visible) ** 0.5), len(visible) // 39))
        trained_on = _spread(visible, _TRAINED_ON * clusters)
        index = faiss.index_factory(rows.dimension, f"IVF{clusters},SQ8", faiss.METRIC_INNER_PRODUCT)
        index.train(rows.take(trained_on))
        for first, vectors, hidden in rows.blocks(65536):
            numbers = np.arange(first, first + len(vectors))
            if hidden is not None:
                numbers, vectors = numbers[~hidden], vectors[~hidden]
            index.add_with_ids(np.ascontiguousarray(vectors), numbers)

        samples = _spread(visible, _SAMPLES)
        queries = rows.take(samples)
        k = min(11, len(visible))  # 10 and itself
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
        """Reads what `save` wrote to `path`, from a map of it: the file itself may have been deleted since.

        Raises:
            JobonnxError: faiss is not installed, or refuses the contents.
        """
        faiss = _faiss()
        place = 0  # not the map's own, which two threads would share

        def read(size: int) -> bytes:
            nonlocal place
            place += size
            return saved[place - size : place]

        try:
            return cls(faiss.read_index(faiss.PyCallbackIOReader(read)), probes)
        except RuntimeError as error:
            raise JobonnxError(
                f"{path} cannot be read by faiss; build the approximate search again ({_first_line(error)})"
            ) from error

    def save(self, path: Path) -> None:
        """Writes the search to `path`. Raises OSError if the disk refuses."""
        try:
            _faiss().write_index(self.index, str(path))
        except RuntimeError as error:
            raise OSError(_first_line(error)) from error

    def candidates(self, queries: Floats, k: int) -> list[Ints]:
        """For each query of float32 [q, d] the rows int64 that may be its best `k`: at least `k` if there are as many."""
        faiss = _faiss()
        # The 8 bits misorder close neighbours: of the 10 nearest, the last may stand some places further back.
        wanted = min(4 * k + 32, self.index.ntotal)
        found: list[Ints] = [np.empty(0, np.int64)] * len(queries)
        left, probes = np.arange(len(queries)), self.probes
        while len(left):
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
    """The share of the samples' nearest others that is found; what scores as the last of them counts as one of them."""
    k = exact.shape[1]
    hits = 0
    for sample, query, best, some in zip(samples, queries, exact, built.candidates(queries, k), strict=True):
        scores, indices = rank(query, rows, some, k)
        hits += min(k - 1, int(np.count_nonzero((scores >= best[-1]) & (indices != sample))))
    return hits / (len(samples) * (k - 1)) if k > 1 else 1.0


def _spread(rows: Ints, count: int) -> Ints:
    """`count` of the rows, or all if they are fewer, evenly spaced: the same ones at each build."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64)]


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise JobonnxError("the approximate search needs faiss; install it with: pip install 'jobonnx[approximate]'") from error
    return faiss
