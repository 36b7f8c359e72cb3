"""Ranking by vectors: the order, the scores, and vectors that have no direction."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.retrieval import Lookup, Trigrams, dataset
from jobonnx.arrays import Floats
from jobonnx.errors import JobonnxError
from jobonnx.evaluation import ranking
from jobonnx.evaluation.evaluate import evaluate
from jobonnx.evaluation.ranking import Prompted, cosines, rank
from jobonnx.search.topk import top_k


def unit_rows(seed: int, rows: int, dimension: int) -> Floats:
    vectors = np.random.default_rng(seed).normal(size=(rows, dimension)).astype(np.float32)
    unit: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def test_ties_are_by_code_point_not_by_number_or_case() -> None:
    corpus = {"9": "same", "10": "same", "B": "same", "a": "same", "É": "same", "職": "same"}
    (ranked,) = rank(Trigrams(), {"q": "same"}, corpus, 10)
    assert ranked.document_ids == ["職", "É", "a", "B", "9", "10"]
    assert len(set(ranked.scores.tolist())) == 1


@pytest.mark.parametrize("vector", [[np.nan, 1.0], [np.inf, 1.0], [0.0, 0.0]])
def test_vector_without_a_direction_is_refused(vector: list[float]) -> None:
    encoder = Lookup({"nurse": [1.0, 0.0], "cook": vector})
    with pytest.raises(JobonnxError, match="the vector of 'cook' is zero or not finite"):
        evaluate(encoder, dataset({"q": "nurse"}, {"d": "nurse", "e": "cook"}, {"q": {"d": 1}}))


def test_vectors_of_any_length_are_compared_by_cosine() -> None:
    encoder = Lookup({"nurse": [3.0, 0.0], "matron": [0.2, 0.1], "cook": [4.0, 9.0]})
    (ranked,) = rank(encoder, {"q": "nurse"}, {"d": "cook", "e": "matron"}, 2)
    assert ranked.document_ids == ["e", "d"]
    assert ranked.scores.tolist() == pytest.approx([2 / 5**0.5, 4 / 97**0.5], abs=1e-6)


def test_depth_limits_a_ranking() -> None:
    rankings = list(rank(Trigrams(), {"q": "nurse", "r": "cook"}, {"d": "nurse", "e": "cook", "f": "baker"}, 2))
    assert [(r.query_id, r.document_ids[0], len(r.document_ids), len(r.scores)) for r in rankings] == [
        ("q", "d", 2, 2),
        ("r", "e", 2, 2),
    ]


@pytest.mark.parametrize("dimension", [1, 3, 64, 385])
def test_scores_are_those_of_the_search_to_the_last_bit(monkeypatch: pytest.MonkeyPatch, dimension: int) -> None:
    # Duplicates, opposite and nearly orthogonal vectors among them, in blocks of odd sizes.
    corpus = unit_rows(1, 700, dimension)
    corpus = np.concatenate([corpus, corpus[::3], -corpus[::5]])
    queries = np.concatenate([unit_rows(2, 20, dimension), corpus[:17]])
    expected, indices = top_k(queries, corpus, len(corpus))
    for cells in (4_000_000, 5 * len(corpus), 1):
        monkeypatch.setattr(ranking, "CELLS", cells)
        scores = np.concatenate(list(cosines(queries, corpus)))
        assert np.array_equal(np.take_along_axis(scores, indices, axis=1), expected)


class Prompts:
    """An encoder whose vectors say which prompt a text came with."""

    def encode(self, texts: list[str], prompt_name: str | None = None, prompt: str | None = None) -> Floats:
        before = {"query": "query: ", None: ""}[prompt_name] if prompt is None else prompt
        return Trigrams().encode([before + text for text in texts])


def test_prompts_go_before_queries_and_documents() -> None:
    queries, corpus = {"q": "nurse"}, {"d": "staff nurse", "e": "line cook"}
    plain = [Trigrams().encode([text])[0] for text in ("query: nurse", "passage: staff nurse", "passage: line cook")]
    asked, titles = Prompted(Prompts(), prompt_name="query"), Prompted(Prompts(), prompt="passage: ")
    (ranked,) = rank(asked, queries, corpus, 2, documents=titles)
    scores = dict(zip(ranked.document_ids, ranked.scores.tolist(), strict=True))
    assert scores == pytest.approx({"d": float(plain[0] @ plain[1]), "e": float(plain[0] @ plain[2])}, abs=1e-6)
    data = dataset(queries, corpus, {"q": {"e": 1}})
    assert evaluate(asked, data, documents=titles).means["cosine_mrr@20"] == 1 / (1 + (scores["d"] >= scores["e"]))
