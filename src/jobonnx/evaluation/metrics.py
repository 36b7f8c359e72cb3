"""Retrieval metrics: the numbers of a sentence-transformers model card, for any encoder and any TREC run.

Accuracy, precision, recall, nDCG, MRR and MAP at a cutoff k are defined as in sentence-transformers'
`InformationRetrievalEvaluator`:

- relevance is binary, and a query without a relevant document is left out of every average;
- precision@k divides by k, even where fewer documents were ranked;
- nDCG discounts rank r by 1 / log2(r + 1); the ideal ranking has its min(k, relevant) first documents relevant;
- MAP@k divides by min(k, relevant), so that MAP@1 is accuracy@1;
- a document is never skipped for having its query's id.

TREC's `map` and `recip_rank` are trec_eval's, at full depth: `map` divides by all relevant documents. They are averaged
as by `trec_eval -c`: a judged query that is missing from a run scores 0.

**Ties** are ranked by one rule everywhere: score descending, then document id descending in code-point order. That is
trec_eval's rule, so a run with ties gets the same numbers there. (trec_eval holds scores as float32, this module a
run's scores as float64.)
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from jobonnx.errors import JobonnxError
from jobonnx.evaluation.formats import Counts, Dataset, Qrels, Ranking, Run, relevant_documents
from jobonnx.search.topk import top_k

CUTOFFS = (1, 20, 50, 100, 150, 200)
"""The model card's cutoffs for accuracy, precision, recall, nDCG and MRR."""

MAP_CUTOFFS = (*CUTOFFS, 500)
"""The model card's cutoffs for MAP."""

TIE_RULE = "score descending, then document id descending in code-point order (trec_eval's rule)"

RESAMPLES = 10_000
CONFIDENCE = 0.95

_QUERY_BLOCK = 1024
"""Queries scored at a time: 1,024 x 500 float64 intermediates are 4 MB each."""

_UNIT_TOLERANCE = 1e-4
"""Vectors this close to unit length are left as they are, so that scores are those of the encoder to the last bit."""

_Floats = NDArray[np.float64]


class TitleEncoder(Protocol):
    """What evaluation needs of an encoder: texts in, float32 [texts, dimensions] out, of any length but zero."""

    def encode(self, texts: list[str], /) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class Evaluation:
    """One ranking method on one set.

    Attributes:
        name: The set's name.
        query_ids: The queries that were scored: those with a relevant document.
        per_query: Metric name -> float64 [queries], in the order of `query_ids`.
        counts: What the rules for imperfect input changed.
    """

    name: str
    query_ids: tuple[str, ...]
    per_query: dict[str, _Floats]
    counts: Counts

    @property
    def means(self) -> dict[str, float]:
        """Metric name -> mean over the queries, in the order of the model card."""
        return {metric: float(values.mean()) for metric, values in self.per_query.items()}


@dataclass(frozen=True)
class Difference:
    """A mean difference, candidate less reference, with its 95 % interval."""

    mean: float
    low: float
    high: float


def evaluate(encoder: TitleEncoder, dataset: Dataset) -> Evaluation:
    """Scores an encoder on a set by cosine similarity, under the model card's names (`cosine_ndcg@20`, ...).

    Raises:
        JobonnxError: No query of the set has a relevant document, or the encoder returned a vector that is zero or not finite.
    """
    relevant = relevant_documents(dataset.qrels)
    queries = {query: text for query, text in dataset.queries.items() if query in relevant}
    if not queries:
        raise JobonnxError(f"no query of {dataset.name} has a relevant document; its qrels must name one.")
    documents = sorted(dataset.corpus, reverse=True)
    position = {document: index for index, document in enumerate(documents)}
    # A (query, document) pair as one integer: whether a ranked pair is relevant is then one np.isin for a block.
    reachable = [[position[document] for document in relevant[query] if document in position] for query in queries]
    pairs = np.array([row * len(documents) + index for row, indices in enumerate(reachable) for index in indices])
    sizes = np.array([len(relevant[query]) for query in queries])
    blocks = []
    for start, _, indices in _ranked_blocks(encoder, queries, dataset.corpus, documents, max(MAP_CUTOFFS)):
        rows = np.arange(start, start + len(indices))
        hits = np.isin(rows[:, None] * len(documents) + indices, pairs)
        blocks.append(ranking_metrics(hits, sizes[rows]))
    per_query = {f"cosine_{metric}": values for metric, values in _concatenated(blocks).items()}
    return Evaluation(dataset.name, tuple(queries), per_query, dataset.counts)


def rank(encoder: TitleEncoder, queries: Mapping[str, str], corpus: Mapping[str, str], depth: int) -> Iterator[Ranking]:
    """Ranks a corpus for each query by cosine similarity, ties by the rule of this module.

    Args:
        encoder: Texts to vectors.
        queries: Title by query id.
        corpus: Title by document id.
        depth: Documents a query, at most; the whole corpus where it is smaller.

    Raises:
        JobonnxError: The encoder returned a vector that is zero or not finite.
    """
    documents = sorted(corpus, reverse=True)
    query_ids = list(queries)
    for start, scores, indices in _ranked_blocks(encoder, queries, corpus, documents, depth):
        for row in range(len(indices)):
            yield Ranking(query_ids[start + row], [documents[index] for index in indices[row].tolist()], scores[row])


def evaluate_run(run: Run, qrels: Qrels, name: str = "run") -> Evaluation:
    """Scores a run: the model card's metrics without `cosine_`, then trec_eval's `map` and `recip_rank` at full depth.

    Judged queries missing from the run score 0 and queries without a relevant document are left out; both are counted.

    Raises:
        JobonnxError: The qrels have no relevant document, or none of their queries is in the run.
    """
    relevant = relevant_documents(qrels.relevance)
    query_ids = tuple(relevant)
    missing = [query for query in query_ids if query not in run.scores]
    if len(missing) == len(query_ids):
        raise JobonnxError("no query of the run has a relevant document in the qrels; check that the two belong together.")
    blocks = []
    for start in range(0, len(query_ids), _QUERY_BLOCK):
        block = query_ids[start : start + _QUERY_BLOCK]
        rankings = [_best_first(run.scores.get(query, {})) for query in block]
        hits = np.zeros((len(block), max(1, *map(len, rankings))), bool)
        for row, (query, ranking) in enumerate(zip(block, rankings, strict=True)):
            hits[row, : len(ranking)] = [document in relevant[query] for document in ranking]
        sizes = np.array([len(relevant[query]) for query in block])
        blocks.append(ranking_metrics(hits, sizes) | trec_metrics(hits, sizes))
    counts = run.counts + qrels.counts
    counts = replace(
        counts,
        queries_without_relevant=len(qrels.relevance) - len(relevant),
        unjudged_run_queries=sum(query not in relevant for query in run.scores),
        queries_missing_from_run=len(missing),
    )
    return Evaluation(name, query_ids, _concatenated(blocks), counts)


def ranking_metrics(
    hits: NDArray[np.bool_],
    relevant: NDArray[np.int_],
    cutoffs: Sequence[int] = CUTOFFS,
    map_cutoffs: Sequence[int] = MAP_CUTOFFS,
) -> dict[str, _Floats]:
    """The model card's metrics for each query; definitions at the top of this module.

    Args:
        hits: Bool [queries, depth]: whether the document at each rank is relevant. Ranks past `depth` count as not
            relevant.
        relevant: Int [queries]: relevant documents of each query, ranked or not; at least 1.
        cutoffs: Cutoffs of all metrics but MAP.
        map_cutoffs: Cutoffs of MAP.

    Returns:
        `accuracy@k`, `precision@k`, `recall@k`, `ndcg@k`, `mrr@k` and `map@k`, each float64 [queries].
    """
    depth = max(1, hits.shape[1])
    hits = np.pad(hits, ((0, 0), (0, depth - hits.shape[1])))
    ranks = np.arange(1, depth + 1)
    found = hits.cumsum(axis=1)
    gain = (hits / np.log2(ranks + 1)).cumsum(axis=1)
    precision_sum = np.where(hits, found / ranks, 0.0).cumsum(axis=1)
    reciprocal = _reciprocal_rank(hits)
    ideal = (1 / np.log2(np.arange(2, max(cutoffs) + 2))).cumsum()

    def at(cumulated: NDArray[np.generic], k: int) -> _Floats:
        return cumulated[:, min(k, depth) - 1].astype(np.float64)

    metrics = {f"accuracy@{k}": (at(found, k) > 0).astype(np.float64) for k in cutoffs}
    metrics |= {f"precision@{k}": at(found, k) / k for k in cutoffs}
    metrics |= {f"recall@{k}": at(found, k) / relevant for k in cutoffs}
    metrics |= {f"ndcg@{k}": at(gain, k) / ideal[np.minimum(k, relevant) - 1] for k in cutoffs}
    metrics |= {f"mrr@{k}": np.where(at(found, k) > 0, reciprocal, 0.0) for k in cutoffs}
    metrics |= {f"map@{k}": at(precision_sum, k) / np.minimum(k, relevant) for k in map_cutoffs}
    return metrics


def trec_metrics(hits: NDArray[np.bool_], relevant: NDArray[np.int_]) -> dict[str, _Floats]:
    """trec_eval's `map` and `recip_rank` for each query, float64 [queries]; arguments as for `ranking_metrics`."""
    precision = np.where(hits, hits.cumsum(axis=1) / np.arange(1, hits.shape[1] + 1), 0.0)
    return {"map": precision.sum(axis=1) / relevant, "recip_rank": _reciprocal_rank(hits)}


def bootstrap_difference(
    candidate: _Floats, reference: _Floats, *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[_Floats, _Floats, _Floats]:
    """Mean difference over queries with its paired bootstrap interval.

    The interval is 95 % by the percentile method (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13).
    A resample draws queries with replacement and keeps both methods' values of a query together; the draws are the same
    for all columns. Queries are thus the only source of chance: the interval says how far the difference would move
    with other queries like these.

    Args:
        candidate: Float64 [queries] or [queries, metrics].
        reference: The same shape, the same queries in the same order.
        resamples: Number of resamples.
        seed: Seed of numpy's default generator; the same seed gives the same interval.

    Returns:
        Mean, low end and high end, each float64 [] or [metrics].

    Raises:
        ValueError: The shapes differ or there is no query.
    """
    if candidate.shape != reference.shape or not len(candidate):
        shapes = f"{candidate.shape} and {reference.shape}"
        raise ValueError(f"paired values need one shape with at least one query, not {shapes}")
    differences = candidate - reference
    queries = len(differences)
    generator = np.random.default_rng(seed)
    shares = np.full(queries, 1 / queries)
    # How often each query is drawn says all about a resample, and makes a block of resamples one matrix product, which
    # only floats take to the BLAS.
    block = max(1, 4_000_000 // queries)
    means = np.concatenate(
        [
            generator.multinomial(queries, shares, size=min(block, resamples - start)).astype(np.float64) @ differences / queries
            for start in range(0, resamples, block)
        ]
    )
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, (tail, 1 - tail), axis=0)
    return differences.mean(axis=0), low, high


def compare(candidate: Evaluation, reference: Evaluation) -> dict[str, Difference]:
    """Metric name -> difference of two evaluations of one set, with paired bootstrap intervals.

    Raises:
        ValueError: The two did not score the same queries under the same metrics.
    """
    if candidate.query_ids != reference.query_ids or candidate.per_query.keys() != reference.per_query.keys():
        raise ValueError(f"{candidate.name} and {reference.name} were not scored on the same queries and metrics")
    ours, theirs = (np.stack(list(evaluation.per_query.values()), axis=1) for evaluation in (candidate, reference))
    rows = zip(*(values.tolist() for values in bootstrap_difference(ours, theirs)), strict=True)
    return {metric: Difference(*row) for metric, row in zip(candidate.per_query, rows, strict=True)}


def _ranked_blocks(
    encoder: TitleEncoder, queries: Mapping[str, str], corpus: Mapping[str, str], documents: list[str], depth: int
) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.int64]]]:
    """First row, scores [block, k] and indices into `documents` [block, k] of each block of queries.

    `top_k` breaks ties by lower index, so the order of `documents`, ids descending, is what makes the tie rule.
    """
    corpus_vectors = _encoded(encoder, [corpus[document] for document in documents])
    query_vectors = _encoded(encoder, list(queries.values()))
    for start in range(0, len(query_vectors), _QUERY_BLOCK):
        scores, indices = top_k(query_vectors[start : start + _QUERY_BLOCK], corpus_vectors, min(depth, len(documents)))
        yield start, scores, indices


def _encoded(encoder: TitleEncoder, texts: list[str]) -> NDArray[np.float32]:
    """Vectors of unit length: the cosine is their inner product, whatever length the model gives them."""
    vectors = encoder.encode(texts)
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    broken = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if len(broken):
        text = texts[broken[0]]
        raise JobonnxError(f"the vector of {text!r} is zero or not finite; this variant cannot be scored, choose another.")
    if np.abs(lengths - 1).max() > _UNIT_TOLERANCE:
        vectors = (vectors / lengths[:, None]).astype(np.float32, copy=False)
    return vectors


def _best_first(scores: Mapping[str, float]) -> list[str]:
    return sorted(scores, key=lambda document: (scores[document], document), reverse=True)


def _reciprocal_rank(hits: NDArray[np.bool_]) -> _Floats:
    return np.where(hits.any(axis=1), 1 / (hits.argmax(axis=1) + 1.0), 0.0)


def _concatenated(blocks: list[dict[str, _Floats]]) -> dict[str, _Floats]:
    return {metric: np.concatenate([block[metric] for block in blocks]) for metric in blocks[0]}
