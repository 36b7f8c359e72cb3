"""Ties: the orders of three tools, and the range of each metric over all orders."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.retrieval import AsTorch, Lookup, dataset, evaluator, flat, with_duplicates
from jobonnx.errors import JobonnxError
from jobonnx.evaluation.evaluate import evaluate, evaluate_run
from jobonnx.evaluation.formats import relevant_documents
from jobonnx.evaluation.lines import Counts
from jobonnx.evaluation.metrics import all_metrics
from jobonnx.evaluation.ranking import rank
from jobonnx.evaluation.ties import TIES, best_and_worst, ranx_order, tied_with_next
from jobonnx.evaluation.trec import Qrels, Run

CUTOFFS = (1, 2, 3, 5)


@pytest.mark.medium
@pytest.mark.parametrize("seed", range(12))
def test_all_37_metrics_are_those_of_the_evaluator_on_sets_with_duplicate_titles(seed: int) -> None:
    queries, corpus, qrels, encoder = with_duplicates(seed)
    judge = evaluator(queries, corpus, relevant_documents(qrels))
    expected = flat(judge.compute_all_metrics(AsTorch(encoder))["cosine"], "cosine_")
    assert len(expected) == 37

    evaluation = evaluate(encoder, dataset(queries, corpus, qrels), ties="sentence-transformers")

    assert {name: evaluation.means[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert sum(evaluation.ties.values()) > 0


def test_the_evaluators_order_is_another_than_trec_evals() -> None:
    differ = 0
    for seed in range(12):
        queries, corpus, qrels, encoder = with_duplicates(seed)
        data = dataset(queries, corpus, qrels)
        means = [evaluate(encoder, data, ties=rule).means for rule in TIES]
        differ += means[0] != means[1] and means[0] != means[2] and means[1] != means[2]
    assert differ >= 6


@pytest.mark.medium
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("rule", TIES)
def test_the_range_holds_what_every_rule_gives(seed: int, rule: str) -> None:
    queries, corpus, qrels, encoder = with_duplicates(seed)
    # Vectors of few bits: PyTorch's float32 product then scores equal titles alike, and every rule sees the same ties.
    exact = Lookup({text: np.eye(24)[hash(text) % 24] + np.eye(24)[hash(text) // 24 % 24] for text in encoder.vectors})
    evaluation = evaluate(exact, dataset(queries, corpus, qrels), ties=rule)  # type: ignore[arg-type]
    for metric, value in evaluation.means.items():
        low, high = evaluation.bounds[metric]
        assert low - 1e-12 <= value <= high + 1e-12, metric


@pytest.mark.medium
@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=6), st.integers(0, 3), st.booleans())
def test_the_range_is_exactly_that_of_all_orders(documents: list[tuple[int, int]], unranked: int, graded: bool) -> None:
    scores = np.sort(np.array([score for score, _ in documents], np.float64))[::-1]
    grades = np.array([[grade if graded else min(grade, 1) for _, grade in documents]], np.int64)
    present = sorted([*grades[grades > 0].tolist(), *[1] * unranked, *([] if grades.any() or unranked else [1])], reverse=True)
    relevant, ideal = np.array([len(present)]), np.array([present], np.int64) if graded else None
    orders = [order for order in itertools.permutations(range(len(documents))) if (np.diff(scores[list(order)]) <= 0).all()]
    every = [all_metrics(grades[:, list(order)], relevant, ideal, CUTOFFS) for order in orders]

    best, worst = best_and_worst(grades, scores[None], np.array([len(documents)]))

    for metric, value in all_metrics(best, relevant, ideal, CUTOFFS).items():
        assert value[0] == pytest.approx(max(metrics[metric][0] for metrics in every), abs=1e-12), metric
    for metric, value in all_metrics(worst, relevant, ideal, CUTOFFS).items():
        assert value[0] == pytest.approx(min(metrics[metric][0] for metrics in every), abs=1e-12), metric


def test_ties_at_the_cutoffs_are_counted_once_per_query() -> None:
    run = Run({"q": {"a": 2.0, "b": 1.0, "c": 1.0, "d": 1.0}, "r": {"a": 1.0, "b": 1.0}, "s": {"a": 1.0}}, Counts())
    qrels = Qrels({query: {"a": 1} for query in "qrs"}, Counts())
    evaluation = evaluate_run(run, qrels, cutoffs=(1, 2, 3, 4, 9))
    assert evaluation.ties == {1: 1, 2: 1, 3: 1, 4: 0, 9: 0}


def test_padding_is_no_tie() -> None:
    # The second query has one document, of the score that stands for nothing in its padding.
    tied = tied_with_next(np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]), np.array([3, 1]))
    assert tied.tolist() == [[True, False, False], [False, False, False]]


def test_infinite_scores_tie_and_bound() -> None:
    run = Run({"q": {"a": float("-inf"), "b": float("inf"), "c": float("-inf"), "d": float("inf")}}, Counts())
    evaluation = evaluate_run(run, Qrels({"q": {"a": 1, "b": 1}}, Counts()), cutoffs=(1, 2, 3))
    assert evaluation.bounds["accuracy@1"] == (0, 1)
    assert evaluation.bounds["precision@2"] == (0.5, 0.5)
    assert evaluation.means["recall@3"] == 0.5  # inf: d, b; -inf: c, a
    assert evaluation.bounds["map"] == pytest.approx(((1 / 2 + 2 / 4) / 2, (1 + 2 / 3) / 2))


def test_scores_beyond_float32_tie_for_trec_eval_alone() -> None:
    run = Run({"q": {"a": 0.5, "b": 0.5 + 1e-12, "c": 1e300, "d": 1e301}}, Counts())
    qrels = Qrels({"q": {"a": 1, "c": 1}}, Counts())
    assert evaluate_run(run, qrels, cutoffs=(1, 3)).bounds["accuracy@1"] == (0, 1)
    assert evaluate_run(run, qrels, cutoffs=(1, 3), ties="ranx").bounds["accuracy@1"] == (0, 0)


@pytest.mark.parametrize("size", [0, 1, 2, 15, 16, 17, 300])
def test_the_quicksort_sorts(size: int) -> None:
    for seed in range(20):
        scores = np.random.default_rng(seed).integers(0, 1 + seed, size).astype(np.float64)
        order = ranx_order(scores)
        assert sorted(order.tolist()) == list(range(size))
        assert (np.diff(scores[order]) <= 0).all()


def test_the_quicksort_is_short_of_stable_as_numbas_is() -> None:
    # Short rankings go through insertion sort, which is stable; in longer ones equal documents change places.
    assert ranx_order(np.zeros(15)).tolist() == list(range(15))
    assert ranx_order(np.zeros(17)).tolist() != list(range(17))


def test_a_model_is_scored_as_ranx_scores_the_run_that_rank_writes() -> None:
    queries, corpus, qrels, encoder = with_duplicates(3)
    rankings = list(rank(encoder, queries, corpus, len(corpus)))
    run = Run({r.query_id: dict(zip(r.document_ids, r.scores.tolist(), strict=True)) for r in rankings}, Counts())
    through_file = evaluate_run(run, Qrels(qrels, Counts()), ties="ranx")
    direct = evaluate(encoder, dataset(queries, corpus, qrels), ties="ranx")
    assert direct.means == {f"cosine_{name}": value for name, value in through_file.means.items()}
    assert direct.bounds == {f"cosine_{name}": value for name, value in through_file.bounds.items()}
    assert direct.ties == through_file.ties


def test_a_run_is_ordered_by_heap_too() -> None:
    # What compute_metrics makes of hits that went through the evaluator's top-k and heap in the order of the lines.
    import heapq

    import torch

    rng = np.random.default_rng(5)
    run = {"q": {f"d{i}": float(score) for i, score in zip(rng.permutation(900), rng.integers(0, 9, 900), strict=True)}}
    relevant = {"q": {f"d{i}" for i in rng.permutation(900)[:300]}}
    values, places = torch.topk(torch.tensor([list(run["q"].values())], dtype=torch.float64), 500, dim=1, sorted=False)
    heap: list[tuple[float, str]] = []
    for value, place in zip(values[0].tolist(), places[0].tolist(), strict=True):
        heapq.heappush(heap, (value, list(run["q"])[place]))
    judge = evaluator({"q": "q"}, {"d0": ""}, relevant)
    expected = flat(judge.compute_metrics([[{"corpus_id": d, "score": s} for s, d in heap]]))
    qrels = Qrels({"q": dict.fromkeys(relevant["q"], 1)}, Counts())
    means = evaluate_run(Run(run, Counts()), qrels, ties="sentence-transformers").means
    assert {name: means[name] for name in expected} == pytest.approx(expected, abs=1e-12)


def test_grades_are_ones_for_sentence_transformers() -> None:
    run = Run({"q": {"a": 2.0, "b": 1.0}}, Counts())
    qrels = Qrels({"q": {"a": 1, "b": 3}}, Counts())
    assert evaluate_run(run, qrels, ties="sentence-transformers").means["ndcg"] == 1
    assert evaluate_run(run, qrels).means["ndcg"] < 1


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)


@pytest.mark.usefixtures("no_torch")
def test_without_torch_one_sentence_says_so() -> None:
    queries, corpus, qrels, encoder = with_duplicates(0)
    data = dataset(queries, corpus, qrels)
    with pytest.raises(JobonnxError, match=r"torch is not installed; pip install torch, or leave --ties out"):
        evaluate(encoder, data, ties="sentence-transformers")
    assert evaluate(encoder, data).bounds
