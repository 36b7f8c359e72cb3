"""The TF-IDF baseline."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.retrieval import dataset
from jobonnx.evaluation.evaluate import evaluate
from jobonnx.evaluation.tfidf import Tfidf


def test_vectors_have_unit_length_also_without_a_known_n_gram() -> None:
    baseline = Tfidf(["nurse", "staff nurse", "cook"])
    vectors = baseline.encode(["nurse", "職", ""])
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1)
    assert (vectors[1] == vectors[2]).all()


def test_it_ranks_by_shared_characters() -> None:
    corpus = {"a": "staff nurse", "b": "cook"}
    data = dataset({"q": "nurses"}, corpus, {"q": {"a": 1}})
    assert evaluate(Tfidf(corpus.values()), data).means["cosine_mrr@20"] == 1
