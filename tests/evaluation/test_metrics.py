"""Measures against hand computation."""

from __future__ import annotations

import numpy as np
import pytest

from jobonnx.evaluation.metrics import all_metrics, ranking_metrics, uncut_metrics


def test_metrics_by_hand() -> None:
    # Ranked: relevant, not, relevant. A fourth document is relevant and was not ranked.
    metrics = ranking_metrics(np.array([[True, False, True]]), np.array([3]), cutoffs=(1, 2, 3, 10), map_cutoffs=(1, 2, 10))
    ideal = 1 + 1 / np.log2(3) + 1 / 2
    assert {name: values[0] for name, values in metrics.items()} == pytest.approx(
        {
            "accuracy@1": 1,
            "accuracy@2": 1,
            "accuracy@3": 1,
            "accuracy@10": 1,
            "precision@1": 1,
            "precision@2": 1 / 2,
            "precision@3": 2 / 3,
            "precision@10": 2 / 10,
            "recall@1": 1 / 3,
            "recall@2": 1 / 3,
            "recall@3": 2 / 3,
            "recall@10": 2 / 3,
            "ndcg@1": 1,
            "ndcg@2": 1 / (1 + 1 / np.log2(3)),
            "ndcg@3": 1.5 / ideal,
            "ndcg@10": 1.5 / ideal,
            "mrr@1": 1,
            "mrr@2": 1,
            "mrr@3": 1,
            "mrr@10": 1,
            "map@1": 1,
            "map@2": 1 / 2,
            "map@10": (1 + 2 / 3) / 3,
        }
    )


def test_reciprocal_rank_stops_at_the_cutoff() -> None:
    metrics = ranking_metrics(np.array([[False, True], [False, False]]), np.array([1, 1]), cutoffs=(1, 2), map_cutoffs=(1,))
    assert metrics["mrr@1"].tolist() == [0, 0]
    assert metrics["mrr@2"].tolist() == [0.5, 0]


def test_uncut_metrics_by_hand() -> None:
    # All four relevant documents in the denominator of `map`: (1/2 + 2/3) / 4.
    metrics = uncut_metrics(np.array([[0, 1, 1, 0], [0] * 4]), np.array([4, 1]))
    assert metrics["map"].tolist() == pytest.approx([(1 / 2 + 2 / 3) / 4, 0])
    assert metrics["recip_rank"].tolist() == [0.5, 0]
    ideal = sum(1 / np.log2(rank + 1) for rank in range(1, 5))
    assert metrics["ndcg"].tolist() == pytest.approx([(1 / np.log2(3) + 1 / 2) / ideal, 0])


def test_grades_weigh_in_ndcg_alone() -> None:
    # Grades 1, 3 ranked; 2 was not. The ideal ranking is 3, 2, 1. Gains are the grades themselves, as in trec_eval.
    grades, relevant, ideal = np.array([[1, 3, 0]]), np.array([3]), np.array([[3, 2, 1]])
    graded = all_metrics(grades, relevant, ideal, (1, 2, 3))
    binary = all_metrics(np.minimum(grades, 1), relevant, None, (1, 2, 3))
    assert graded["ndcg@1"][0] == pytest.approx(1 / 3)
    assert graded["ndcg@2"][0] == pytest.approx((1 + 3 / np.log2(3)) / (3 + 2 / np.log2(3)))
    assert graded["ndcg@3"][0] == graded["ndcg"][0] == pytest.approx((1 + 3 / np.log2(3)) / (3 + 2 / np.log2(3) + 1 / 2))
    assert {name: value for name, value in graded.items() if "ndcg" not in name} == {
        name: value for name, value in binary.items() if "ndcg" not in name
    }


def test_ranking_without_a_document_scores_zero() -> None:
    metrics = all_metrics(np.zeros((2, 0), np.int64), np.array([1, 2]), None, (1, 5))
    assert all(values.tolist() == [0, 0] for name, values in metrics.items())
