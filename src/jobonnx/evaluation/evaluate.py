"""Evaluation: the numbers of a sentence-transformers model card, for any encoder and any TREC run.

The measures are defined in `jobonnx.evaluation.metrics`, and the order of documents that tie in `jobonnx.evaluation.ties`. A query
without a relevant document is left out of every average. A judged query that is missing from a run scores 0, as by `trec_eval -c`.

Every document is ranked. Scores of an encoder are cosines, summed in float64 and rounded to float32: they depend on the two vectors
alone, so that equal titles tie, as they do in `jobonnx.search.topk`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jobonnx.arrays import Doubles, Floats, Ints
from jobonnx.errors import JobonnxError
from jobonnx.evaluation import ties as tied
from jobonnx.evaluation.bootstrap import bootstrap_difference
from jobonnx.evaluation.formats import Dataset, relevant_documents
from jobonnx.evaluation.lines import Counts
from jobonnx.evaluation.metrics import CUTOFFS, MAP_CUTOFFS, all_metrics
from jobonnx.evaluation.ranking import CELLS, TitleEncoder, cosines, encoded, unit_length
from jobonnx.evaluation.ties import Ties
from jobonnx.evaluation.trec import Qrels, Run


@dataclass(frozen=True)
class Evaluation:
    """One ranking method on one set.

    Attributes:
        name: the set's name.
        query_ids: the queries that were scored: those with a relevant document.
        per_query: metric name -> float64 [queries], in the order of `query_ids`.
        counts: what the rules for imperfect input changed.
        bounds: metric name -> its lowest and its highest mean, had the documents that tie been ordered otherwise.
        ties: cutoff -> queries in which it falls between two documents of one score.
    """

    name: str
    query_ids: tuple[str, ...]
    per_query: dict[str, Doubles]
    counts: Counts
    bounds: dict[str, tuple[float, float]] = field(default_factory=dict)
    ties: dict[int, int] = field(default_factory=dict)

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


def evaluate(
    encoder: TitleEncoder,
    dataset: Dataset,
    *,
    documents: TitleEncoder | None = None,
    ties: Ties = "trec",
    cutoffs: Sequence[int] | None = None,
) -> Evaluation:
    """Score an encoder on a set by cosine similarity, under the model card's names (`cosine_ndcg@20`, ...).

    Args:
        encoder: encodes the queries.
        dataset: the set.
        documents: encodes the corpus; `encoder` if left out.
        ties: the order of documents that tie. `ranx` is what ranx makes of the run that `rank` writes.
        cutoffs: cutoffs of all metrics, ascending; None for the model card's.

    Raises:
        JobonnxError: no query of the set has a relevant document, the encoder returned a vector that is zero or not finite, or
            PyTorch is needed and not there.
    """
    judged = _judged(dataset.qrels, ties)
    judged = {query: judged[query] for query in dataset.queries if query in judged}
    if not judged:
        raise JobonnxError(f"no query of {dataset.name} has a relevant document; check its qrels")
    queries = encoded(encoder, [dataset.queries[query] for query in judged])
    corpus = encoded(documents or encoder, list(dataset.corpus.values()))
    retrieved: list[list[str]] = []
    if ties == "sentence-transformers":
        retrieved = tied.heap_order(tied.cosines_of_torch(queries, corpus), list(dataset.corpus), max(cutoffs or MAP_CUTOFFS))
    # Ids descending: a stable sort by score then breaks ties as trec_eval does.
    ids = sorted(dataset.corpus, reverse=True)
    place = {document: index for index, document in enumerate(ids)}
    vectors = np.empty_like(corpus)
    vectors[[place[document] for document in dataset.corpus]] = corpus
    rows = (row for block in cosines(unit_length(queries), unit_length(vectors)) for row in block)
    scored = _Queries(cutoffs)
    for number, (scores, relevant) in enumerate(zip(rows, judged.values(), strict=True)):
        grades = np.zeros(len(ids), np.int64)
        for document, grade in relevant.items():
            if document in place:
                grades[place[document]] = grade
        order = by_score = tied.descending(scores)
        if ties == "ranx":
            order = by_score[tied.ranx_order(scores[by_score])]
        elif ties == "sentence-transformers":
            order = tied.moved_first([place[document] for document in retrieved[number]], by_score)
        scored.add(relevant, scores[by_score], grades[by_score], grades[order])
    return scored.evaluation(dataset.name, tuple(judged), dataset.counts, prefix="cosine_")


def evaluate_run(
    run: Run, qrels: Qrels, name: str = "run", *, ties: Ties = "trec", cutoffs: Sequence[int] | None = None
) -> Evaluation:
    """Score a run: the model card's metrics without `cosine_`, then those of the complete ranking.

    Judged queries missing from the run score 0 and queries without a relevant document are left out; both are counted.

    Args:
        run: the rankings, documents in the order of the file's lines.
        qrels: the judgements.
        name: the label of the set.
        ties: the order of documents that tie. `ranx` gives the figures of ranx, and so of TalentCLEF's scripts, where every query
            of the qrels has a relevant document.
        cutoffs: cutoffs of all metrics, ascending; None for the model card's.

    Raises:
        JobonnxError: the qrels have no relevant document, none of their queries is in the run, or PyTorch is needed and not there.
    """
    judged = _judged(qrels.relevance, ties)
    query_ids = tuple(judged)
    missing = [query for query in query_ids if query not in run.scores]
    if len(missing) == len(query_ids):
        raise JobonnxError("no query of the run has a relevant document in the qrels; check that the two belong together")
    scored = _Queries(cutoffs)
    for query, relevant in judged.items():
        found = run.scores.get(query, {})
        grades = np.array([relevant.get(document, 0) for document in found], np.int64)
        scores = np.array(list(found.values()), np.float64)
        if ties == "trec":
            with np.errstate(over="ignore"):  # trec_eval's scores are float32; 1e300 is infinity there
                scores = scores.astype(np.float32).astype(np.float64)
        by_score = tied.descending(scores)
        order = _order(scores, list(found), ties, max(cutoffs or MAP_CUTOFFS))
        scored.add(relevant, scores[by_score], grades[by_score], grades[order])
    counts = run.counts + qrels.counts
    counts["queries_without_relevant"] = len(qrels.relevance) - len(judged)
    counts["unjudged_run_queries"] = sum(query not in judged for query in run.scores)
    counts["queries_missing_from_run"] = len(missing)
    return scored.evaluation(name, query_ids, +counts)


def compare(candidate: Evaluation, reference: Evaluation) -> dict[str, Difference]:
    """Compute metric name -> difference of two evaluations of one set, with paired bootstrap intervals.

    Raises:
        ValueError: the two did not score the same queries under the same metrics.
    """
    if candidate.query_ids != reference.query_ids or candidate.per_query.keys() != reference.per_query.keys():
        raise ValueError(f"{candidate.name} and {reference.name} were not scored on the same queries and metrics")
    ours, theirs = (np.stack(list(evaluation.per_query.values()), axis=1) for evaluation in (candidate, reference))
    rows = zip(*(values.tolist() for values in bootstrap_difference(ours, theirs)), strict=True)
    return {metric: Difference(*row) for metric, row in zip(candidate.per_query, rows, strict=True)}


class _Queries:
    """The metrics of one query after the other, in the order asked for and in the two orders of ties that bound them."""

    def __init__(self, cutoffs: Sequence[int] | None) -> None:
        self._cutoffs = cutoffs
        self._columns = tuple(cutoffs or CUTOFFS)
        self._waiting: list[tuple[Mapping[str, int], Doubles | Floats, Ints, Ints]] = []
        self._cells = 0
        self._parts: list[list[dict[str, Doubles]]] = []
        self._tied = np.zeros(len(self._columns), np.int64)

    def add(self, relevant: Mapping[str, int], scores: Doubles | Floats, grades: Ints, ordered: Ints) -> None:
        """Add a query.

        Args:
            relevant: the grade of each relevant document, ranked or not.
            scores: [depth]: of the documents ranked, not increasing.
            grades: [depth]: of the same documents, in any order of ties.
            ordered: [depth]: of the same documents, in the order asked for.
        """
        self._waiting.append((relevant, scores, grades, ordered))
        self._cells += len(scores)
        if self._cells >= CELLS:
            self._compute()

    def _compute(self) -> None:
        """Compute the metrics of the queries that wait, as matrices."""
        if not self._waiting:
            return
        judged, scores, grades, ordered = zip(*self._waiting, strict=True)
        self._waiting, self._cells = [], 0
        relevant = np.array([len(documents) for documents in judged], np.int64)
        ideal = None
        if max(max(documents.values()) for documents in judged) > 1:
            ideal = _padded([sorted(documents.values(), reverse=True) for documents in judged], np.int64)
        lengths = np.array([len(row) for row in scores], np.int64)
        by_score = _padded(scores, scores[0].dtype)
        best, worst = tied.best_and_worst(_padded(grades, np.int64), by_score, lengths)
        orders = (_padded(ordered, np.int64), worst, best)
        self._parts.append([all_metrics(order, relevant, ideal, self._cutoffs) for order in orders])
        self._tied += tied.count_at(tied.tied_with_next(by_score, lengths), self._columns)

    def evaluation(self, name: str, query_ids: tuple[str, ...], counts: Counts, prefix: str = "") -> Evaluation:
        """Put the queries together; `prefix` goes before the metrics' names."""
        self._compute()
        per_query, worst, best = (
            {f"{prefix}{metric}": np.concatenate([part[metric] for part in parts]) for metric in parts[0]}
            for parts in zip(*self._parts, strict=True)
        )
        bounds = {metric: (float(worst[metric].mean()), float(best[metric].mean())) for metric in per_query}
        return Evaluation(name, query_ids, per_query, counts, bounds, dict(zip(self._columns, self._tied.tolist(), strict=True)))


def _judged(qrels: Mapping[str, Mapping[str, int]], ties: Ties) -> dict[str, dict[str, int]]:
    """Query id -> grade of each relevant document; 1 for sentence-transformers, which knows no grades."""
    return {
        query: {document: 1 if ties == "sentence-transformers" else qrels[query][document] for document in documents}
        for query, documents in relevant_documents(qrels).items()
    }


def _order(scores: Doubles, ids: list[str], ties: Ties, k: int) -> Ints:
    """Order one query's documents of a run, whose lines stand in the order of `ids`: int64 [documents]."""
    if ties == "trec" or not ids:
        by_id = np.array(sorted(range(len(ids)), key=ids.__getitem__, reverse=True), np.int64)
        return by_id[tied.descending(scores[by_id])]
    if ties == "ranx":
        return tied.ranx_order(scores)
    place = {document: index for index, document in enumerate(ids)}
    (first,) = tied.heap_order([tied.tensor(scores)], ids, k)
    return tied.moved_first([place[document] for document in first], tied.descending(scores))


def _padded(rows: Sequence[Sequence[int] | np.ndarray[Any, Any]], dtype: Any) -> np.ndarray[Any, Any]:
    """Put rows of several lengths into a matrix, zeros behind the shorter ones."""
    matrix = np.zeros((len(rows), max(map(len, rows))), dtype)
    for row, values in zip(matrix, rows, strict=True):
        row[: len(values)] = values
    return matrix
