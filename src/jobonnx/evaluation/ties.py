"""Ties: in which order documents of one score are ranked, and what the other orders would have given.

Titles repeat in corpora of job titles, and equal titles get equal scores. Published figures depend on how a tool orders them:

- `trec`: score descending, then document id descending in code-point order. This is trec_eval's rule, down to its float32 scores.
- `sentence-transformers`: whatever PyTorch's `topk` and Python's `heapq` leave, as in `InformationRetrievalEvaluator`.
- `ranx`: whatever numba's quicksort leaves, which is not stable. TalentCLEF's scoring scripts rank with ranx.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, get_args

import numpy as np

from jobonnx.arrays import Bools, Doubles, Floats, Ints
from jobonnx.errors import JobonnxError

Ties = Literal["trec", "sentence-transformers", "ranx"]
TIES: tuple[Ties, ...] = get_args(Ties)

TIE_RULES: dict[Ties, str] = {
    "trec": "score descending, then document id descending in code-point order (trec_eval's rule)",
    "sentence-transformers": "the order that PyTorch's topk and heapq leave, as in InformationRetrievalEvaluator",
    "ranx": "the order that numba's quicksort leaves, as in ranx and TalentCLEF's scoring scripts",
}

_CHUNK = 50_000
"""Documents that `InformationRetrievalEvaluator` scores at a time, by default."""

_INSERTION_SORT = 15
"""numba's quicksort leaves stretches of at most so many items to an insertion sort."""


def descending(scores: np.ndarray[Any, np.dtype[np.floating[Any]]]) -> Ints:
    """Order one query's documents by descending score, equal ones as they stand, int64 [documents]."""
    return np.argsort(-scores, kind="stable")


def ranx_order(scores: Doubles | Floats) -> Ints:
    """Order one query's documents as ranx does: int64 [documents], positions in `scores`, which is in the order of the run's lines.

    ranx sorts with numba's argsort: a quicksort with the median of three as its pivot, and insertion sort for short stretches.
    """
    keys: list[float] = (-scores.astype(np.float64)).tolist()
    order = list(range(len(keys)))
    stretches = [(0, len(keys) - 1)]
    while stretches:
        low, high = stretches.pop()
        if high - low < _INSERTION_SORT:
            _insertion_sort(keys, order, low, high)
            continue
        middle = _partition(keys, order, low, high)
        stretches += [(low, middle - 1), (middle + 1, high)]
    return np.array(order, np.int64)


def heap_order(chunks: Iterable[Any], ids: Sequence[str], k: int) -> list[list[str]]:
    """Order documents as sentence-transformers' evaluator does.

    Args:
        chunks: torch tensors [queries, documents of the chunk]: the scores of all documents in the order of the corpus.
        ids: document ids.
        k: documents that it keeps per query, the largest cutoff.

    Returns:
        Per query at most `k` document ids, best first.
    """
    torch = _torch()
    heaps: list[list[tuple[float, str]]] = []
    first = 0
    for chunk in chunks:
        heaps = heaps or [[] for _ in range(len(chunk))]
        values, places = torch.topk(chunk, min(k, chunk.shape[1]), dim=1, largest=True, sorted=False)
        for heap, *row in zip(heaps, values.tolist(), places.tolist(), strict=True):
            for value, place in zip(*row, strict=True):
                push = heapq.heappush if len(heap) < k else heapq.heappushpop
                push(heap, (value, ids[first + place]))
        first += chunk.shape[1]
    # A heap is a list in no particular order; sorting by score alone leaves equal scores as they stand in it.
    return [[document for _, document in sorted(heap, key=lambda item: item[0], reverse=True)] for heap in heaps]


def moved_first(first: Sequence[int], order: Ints) -> Ints:
    """Give the positions `first`, then the others as `order` has them; int64 [documents]."""
    others = np.ones(len(order), np.bool_)
    others[list(first)] = False
    return np.concatenate([np.array(first, np.int64), order[others[order]]])


def cosines_of_torch(queries: Floats, corpus: Floats) -> Iterator[Any]:
    """Score as sentence-transformers does: torch tensors [queries, documents of a chunk].

    A float32 matrix product may score equal titles differently in the last bit. That is part of what its evaluator reports.
    """
    torch = _torch()
    asked, titles = (torch.nn.functional.normalize(torch.from_numpy(vectors), p=2, dim=1) for vectors in (queries, corpus))
    for chunk in titles.split(_CHUNK):
        yield torch.mm(asked, chunk.T)


def tensor(scores: Doubles) -> Any:
    """Wrap one query's scores for `heap_order`: a torch tensor [1, documents]."""
    return _torch().from_numpy(scores)[None]


def best_and_worst(grades: Ints, scores: Doubles | Floats, lengths: Ints) -> tuple[Ints, Ints]:
    """Reorder documents of equal score so that every metric is highest, and so that every metric is lowest.

    No metric falls when a document changes places with one of a lower grade above it, so these two orders bound them all.

    Args:
        grades: [queries, depth]: the grade at each rank.
        scores: [queries, depth]: not increasing.
        lengths: [queries]: documents ranked; ranks past them hold zeros.

    Returns:
        The grades in the two orders.
    """
    starts = np.ones(grades.shape, np.bool_)
    starts[:, 1:] = ~tied_with_next(scores, lengths)[:, :-1]
    groups = starts.cumsum(axis=1)
    # Group and grade as one integer: sorting it sorts the grades within each group.
    above = int(grades.max(initial=0)) + 1
    best = above - 1 - np.sort(groups * above + (above - 1 - grades), axis=1) % above
    worst = np.sort(groups * above + grades, axis=1) % above
    return best, worst


def tied_with_next(scores: Doubles | Floats, lengths: Ints) -> Bools:
    """Tell for each rank whether the document at the next one has the same score; bool [queries, depth], arguments as above."""
    tied = np.zeros(scores.shape, np.bool_)
    tied[:, :-1] = scores[:, 1:] == scores[:, :-1]
    return tied & (np.arange(1, scores.shape[1] + 1) < lengths[:, None])


def count_at(tied: Bools, cutoffs: Iterable[int]) -> Ints:
    """Count the queries in which a cutoff falls between two documents of one score: int64 [cutoffs]."""
    return np.array([np.count_nonzero(tied[:, k - 1]) if k <= tied.shape[1] else 0 for k in cutoffs], np.int64)


def _insertion_sort(keys: list[float], order: list[int], low: int, high: int) -> None:
    for i in range(low + 1, high + 1):
        item = order[i]
        while i > low and keys[item] < keys[order[i - 1]]:
            order[i] = order[i - 1]
            i -= 1
        order[i] = item


def _partition(keys: list[float], order: list[int], low: int, high: int) -> int:
    """Partition order[low:high + 1] around the median of its first, middle and last item, and return where that ends up."""
    middle = (low + high) >> 1
    for left, right in ((low, middle), (middle, high), (low, middle)):
        if keys[order[right]] < keys[order[left]]:
            order[left], order[right] = order[right], order[left]
    pivot = keys[order[middle]]
    order[middle], order[high] = order[high], order[middle]
    i, j = low, high - 1
    while True:
        while i < high and keys[order[i]] < pivot:
            i += 1
        while j >= low and pivot < keys[order[j]]:
            j -= 1
        if i >= j:
            break
        order[i], order[j] = order[j], order[i]
        i, j = i + 1, j - 1
    order[i], order[high] = order[high], order[i]
    return i


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        fix = "pip install torch, or leave --ties out: the range that is printed holds for every order"
        raise JobonnxError(f"--ties sentence-transformers runs PyTorch's own top-k, and torch is not installed; {fix}") from None
    return torch
