"""Retrieval measures, from the grades of the documents at each rank.

Accuracy, precision, recall, nDCG, MRR and MAP at a cutoff k are defined as in sentence-transformers'
`InformationRetrievalEvaluator`, which fills the tables of model cards:

- a document is relevant if its grade is above 0;
- precision@k divides by k, even where fewer documents were ranked;
- nDCG discounts rank r by 1 / log2(r + 1). The gain of a document is its grade, as in trec_eval's `ndcg_cut`, which is 0 or 1 in
  sets without grades. The ideal ranking has the relevant documents by descending grade;
- MAP@k divides by min(k, relevant), so that MAP@1 is accuracy@1;
- a document is never skipped for having its query's id.

Three measures see the complete ranking: `map`, `recip_rank` and `ndcg`, as in trec_eval. `map` divides by all relevant documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jobonnx.arrays import Bools, Doubles, Ints

CUTOFFS = (1, 20, 50, 100, 150, 200)
"""The model card's cutoffs for accuracy, precision, recall, nDCG and MRR."""

MAP_CUTOFFS = (*CUTOFFS, 500)
"""The model card's cutoffs for MAP."""

OFFICIAL_CUTOFFS = (5, 10)
"""The cutoffs of precision in TalentCLEF's scoring script that the model card does not have."""


def all_metrics(grades: Ints, relevant: Ints, ideal: Ints | None, cutoffs: Sequence[int] | None) -> dict[str, Doubles]:
    """Compute every metric per query: at cutoffs, then those of the complete ranking.

    Args:
        grades: as for `ranking_metrics`.
        relevant: as for `ranking_metrics`.
        ideal: as for `ranking_metrics`.
        cutoffs: cutoffs of all metrics; None for the model card's 37 and TalentCLEF's precision at 5 and 10.

    Returns:
        metric name -> float64 [queries].
    """
    if cutoffs is None:
        metrics = ranking_metrics(grades, relevant, ideal=ideal)
        metrics |= {f"precision@{k}": found(grades, k) / k for k in OFFICIAL_CUTOFFS}
    else:
        metrics = ranking_metrics(grades, relevant, cutoffs, cutoffs, ideal=ideal)
    return metrics | uncut_metrics(grades, relevant, ideal)


def ranking_metrics(
    grades: Ints | Bools,
    relevant: Ints,
    cutoffs: Sequence[int] = CUTOFFS,
    map_cutoffs: Sequence[int] = MAP_CUTOFFS,
    *,
    ideal: Ints | None = None,
) -> dict[str, Doubles]:
    """Compute the model card's metrics per query; the definitions stand at the top of this module.

    Args:
        grades: [queries, depth]: the grade of the document at each rank, 0 or False where it is not relevant. Ranks past
            `depth` count as not relevant.
        relevant: [queries]: relevant documents of each query, ranked or not; at least 1.
        cutoffs: cutoffs of all metrics but MAP.
        map_cutoffs: cutoffs of MAP.
        ideal: [queries, most relevant]: the grades of each query's relevant documents, ranked or not, descending, then zeros.
            None where every grade is 0 or 1.

    Returns:
        `accuracy@k`, `precision@k`, `recall@k`, `ndcg@k`, `mrr@k` and `map@k`, each float64 [queries].
    """
    grades = _with_a_rank(grades)
    hits = grades > 0
    hits_so_far = hits.cumsum(axis=1)
    gain = _discounted(grades)
    best_gain = _ideal_gain(relevant, ideal)
    precision_sum = np.where(hits, hits_so_far / np.arange(1, hits.shape[1] + 1), 0.0).cumsum(axis=1)
    reciprocal = _reciprocal_rank(hits)

    def at(cumulated: np.ndarray[Any, Any], k: int) -> Doubles:
        return cumulated[:, min(k, cumulated.shape[1]) - 1].astype(np.float64)

    metrics = {f"accuracy@{k}": (at(hits_so_far, k) > 0).astype(np.float64) for k in cutoffs}
    metrics |= {f"precision@{k}": at(hits_so_far, k) / k for k in cutoffs}
    metrics |= {f"recall@{k}": at(hits_so_far, k) / relevant for k in cutoffs}
    metrics |= {f"ndcg@{k}": at(gain, k) / at(best_gain, k) for k in cutoffs}
    metrics |= {f"mrr@{k}": np.where(at(hits_so_far, k) > 0, reciprocal, 0.0) for k in cutoffs}
    metrics |= {f"map@{k}": at(precision_sum, k) / np.minimum(k, relevant) for k in map_cutoffs}
    return metrics


def uncut_metrics(grades: Ints | Bools, relevant: Ints, ideal: Ints | None = None) -> dict[str, Doubles]:
    """Compute trec_eval's `map`, `recip_rank` and `ndcg` per query, float64 [queries]; arguments as for `ranking_metrics`."""
    grades = _with_a_rank(grades)
    hits = grades > 0
    precision = np.where(hits, hits.cumsum(axis=1) / np.arange(1, hits.shape[1] + 1), 0.0)
    return {
        "map": precision.sum(axis=1) / relevant,
        "recip_rank": _reciprocal_rank(hits),
        "ndcg": _discounted(grades)[:, -1] / _ideal_gain(relevant, ideal)[:, -1],
    }


def found(grades: Ints | Bools, k: int) -> Ints:
    """Count the relevant documents among the first k, int64 [queries]."""
    counts: Ints = (grades[:, :k] > 0).sum(axis=1)
    return counts


def _with_a_rank(grades: Ints | Bools) -> Ints | Bools:
    """Give rankings of no document a first rank, with nothing relevant at it."""
    return grades if grades.shape[1] else np.zeros((len(grades), 1), np.int64)


def _discounted(grades: np.ndarray[Any, Any]) -> Doubles:
    """Cumulate the gain at each rank, float64 [queries, depth]."""
    gain: Doubles = (grades / np.log2(np.arange(2, grades.shape[1] + 2))).cumsum(axis=1)
    return gain


def _ideal_gain(relevant: Ints, ideal: Ints | None) -> Doubles:
    """Compute the ideal ranking's cumulated gain, float64 [queries, most relevant]; flat past a query's last one."""
    if ideal is None:
        ideal = (np.arange(relevant.max()) < relevant[:, None]).astype(np.int64)
    return _discounted(ideal)


def _reciprocal_rank(hits: Bools) -> Doubles:
    return np.where(hits.any(axis=1), 1 / (hits.argmax(axis=1) + 1.0), 0.0)
