"""Exact top-k: against NumPy, with ties, at any block size, in bounded memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobonnx.arrays import Floats, Ints
from jobonnx.search import topk as matching
from jobonnx.search.topk import Rows, rank, search, top_k


def unit(count: int, dimension: int, seed: int = 0) -> Floats:
    vectors: Floats = np.random.default_rng(seed).standard_normal((count, dimension), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def naive(queries: Floats, corpus: Floats, k: int) -> tuple[Floats, Ints]:
    """The definition, written out: every score, sorted by score and then by index."""
    scores = np.stack([(corpus.astype(np.float64) * query).sum(axis=1) for query in queries]).astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), order


def assert_same(found: tuple[Floats, Ints], expected: tuple[Floats, Ints]) -> None:
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_array_equal(found[0], expected[0])
    assert found[0].dtype == np.float32
    assert found[1].dtype == np.int64


@pytest.mark.medium
@settings(deadline=None, max_examples=150)
@given(st.data())
def test_equals_the_definition_with_ties_at_any_block_size(data: st.DataObject) -> None:
    queries_count, count, distinct = (data.draw(st.integers(1, n), label) for n, label in ((9, "q"), (60, "n"), (20, "u")))
    dimension, k = data.draw(st.integers(1, 70), "d"), data.draw(st.integers(1, 70), "k")
    block = data.draw(st.tuples(st.integers(1, 10), st.integers(1, 70)), "block")
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32), "seed"))
    # Few distinct vectors, repeated: most places are tied, and k cuts through the ties.
    corpus = unit(distinct, dimension, int(rng.integers(2**32)))[rng.integers(0, distinct, count)]
    queries = unit(queries_count, dimension, int(rng.integers(2**32)))
    assert_same(top_k(queries, corpus, k, block=block), naive(queries, corpus, k))


@pytest.mark.medium
@pytest.mark.parametrize("k", [1, 10, 100, 5000])
def test_equals_the_definition_over_many_blocks(k: int) -> None:
    queries, corpus = unit(70, 96, 1), unit(5000, 96, 2)
    expected = naive(queries, corpus, k)
    for block in ((1024, 8192), (16, 256), (70, 777), (1, 64)):
        assert_same(top_k(queries, corpus, k, block=block), expected)


def test_nearly_equal_scores_are_told_apart() -> None:
    # Neighbours closer than the rounding error of a float32 product: a ranking by the product alone fails here.
    rng = np.random.default_rng(3)
    corpus = np.repeat(unit(1, 512, 4), 3000, axis=0) + rng.standard_normal((3000, 512), dtype=np.float32) * 1e-6
    corpus /= np.linalg.norm(corpus, axis=1, keepdims=True)
    queries = unit(3, 512, 5)
    for block in ((1024, 8192), (2, 100), (1, 1000)):
        assert_same(top_k(queries, corpus, 20, block=block), naive(queries, corpus, 20))


@pytest.mark.parametrize("spread", [1.5, 1e-3, 0])
def test_ascending_or_equal_scores_keep_few_candidates(spread: float, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []

    def counted(sieve: matching._Sieve) -> None:
        counts.append(sum(len(products) for _, _, products in sieve._kept))
        shrink(sieve)

    shrink = matching._Sieve._shrink
    monkeypatch.setattr(matching._Sieve, "_shrink", counted)
    # Each title is nearer to the queries than the one before it, by the angle; with none, all are as near.
    angles = np.linspace(spread, 0, 16384)
    corpus = np.zeros((len(angles), 16), np.float32)
    corpus[:, 0], corpus[:, 1] = np.cos(angles), np.sin(angles)
    queries = np.repeat(np.eye(1, 16, dtype=np.float32), 4, axis=0)
    k, width = 10, 4096
    assert_same(top_k(queries, corpus, k, block=(4, width)), naive(queries, corpus, k))
    # Of a shrink 2 k + 1000 are left for each query; k more come before the next, and what one step takes in.
    assert max(counts) <= len(queries) * (3 * k + 1000 + width // 16)


def test_a_corpus_of_one_title_repeated_is_in_order() -> None:
    corpus = np.repeat(unit(1, 64), 20000, axis=0)
    scores, indices = top_k(unit(5, 64, 1), corpus, 7, block=(5, 512))
    np.testing.assert_array_equal(indices, np.tile(np.arange(7), (5, 1)))
    assert (scores == scores[:, :1]).all()


def test_the_score_is_the_exact_sum_rounded() -> None:
    query, title = unit(1, 40, 6), unit(1, 40, 7)
    exact = sum(Fraction(float(a)) * Fraction(float(b)) for a, b in zip(query[0], title[0], strict=True))
    assert top_k(query, title, 1)[0][0, 0] == np.float32(float(exact))


def test_opposite_and_orthogonal_titles_are_found_too() -> None:
    axes = np.eye(3, dtype=np.float32)
    scores, indices = top_k(axes[:1], np.concatenate([-axes, axes]), 6)
    np.testing.assert_array_equal(indices, [[3, 1, 2, 4, 5, 0]])
    np.testing.assert_array_equal(scores, [[1, 0, 0, 0, 0, -1]])


def test_reads_a_memory_mapped_corpus(tmp_path: Path) -> None:
    queries, corpus = unit(4, 32, 1), unit(1000, 32, 2)
    corpus.tofile(tmp_path / "vectors")
    mapped = np.memmap(tmp_path / "vectors", np.float32, "r", shape=corpus.shape)
    assert_same(top_k(queries, mapped, 10, block=(4, 128)), naive(queries, corpus, 10))


@pytest.mark.parametrize("layout", [np.asfortranarray, lambda x: np.repeat(x, 2, axis=0)[::2], lambda x: x[::-1]])
def test_takes_any_memory_layout(layout: Callable[[Floats], Floats]) -> None:
    queries, corpus = unit(4, 33, 1), unit(300, 33, 2)
    expected = naive(layout(queries), layout(corpus), 9)
    assert_same(top_k(layout(queries), layout(corpus), 9), expected)


def test_k_is_clipped_and_nothing_gives_nothing() -> None:
    queries, corpus = unit(3, 8), unit(5, 8)
    assert top_k(queries, corpus, 9)[0].shape == (3, 5)
    for found in (top_k(queries, corpus[:0], 9), top_k(queries[:0], corpus, 9)):
        assert found[0].dtype == np.float32
        assert found[1].dtype == np.int64
    assert top_k(queries, corpus[:0], 9)[1].shape == (3, 0)
    assert top_k(queries[:0], corpus, 9)[1].shape == (0, 5)


def spoiled(value: float) -> Floats:
    vectors = unit(10, 8)
    vectors[7, 3] = value
    return vectors


@pytest.mark.parametrize(
    ("queries", "corpus", "k", "error", "message"),
    [
        (spoiled(np.nan), unit(9, 8), 1, ValueError, r"queries\[7\] holds NaN or infinity"),
        (unit(9, 8), spoiled(np.nan), 1, ValueError, r"corpus\[7\] holds NaN or infinity"),
        (unit(9, 8), spoiled(-np.inf), 1, ValueError, r"corpus\[7\] holds NaN or infinity"),
        (unit(9, 8), spoiled(3), 1, ValueError, r"corpus\[7\] has length 3\."),
        (unit(9, 8), np.zeros((2, 8), np.float32), 1, ValueError, r"corpus\[0\] has length 0;"),
        (unit(9, 8).astype(np.float64), unit(9, 8), 1, TypeError, "queries must be a float32 array, not float64"),
        (unit(9, 8), unit(9, 8).astype(np.float16), 1, TypeError, "corpus must be a float32 array, not float16"),
        (unit(9, 8), unit(9, 8).tolist(), 1, TypeError, "corpus must be a float32 array, not list"),
        (unit(9, 8)[0], unit(9, 8), 1, ValueError, r"queries must have the shape \[count, dimensions\], not \[8\]"),
        (unit(9, 8), unit(9, 7), 1, ValueError, "the queries have 8 dimensions and the corpus 7"),
        (unit(9, 8)[:, :0], unit(9, 8)[:, :0], 1, ValueError, "queries must have the shape"),
        (unit(9, 8), unit(9, 8), 0, ValueError, "k is 0"),
        (unit(9, 8), unit(9, 8), -1, ValueError, "k is -1"),
        (unit(9, 8), unit(9, 8), np.nan, TypeError, "k must be an integer, not nan"),
        (unit(9, 8), unit(9, 8), 1.0, TypeError, r"k must be an integer, not 1\.0"),
        (unit(9, 8), unit(9, 8), True, TypeError, "k must be an integer, not True"),
        (unit(9, 8), unit(9, 8), np.bool_(True), TypeError, "k must be an integer, not .*True"),
        (unit(9, 8), unit(9, 8), None, TypeError, "k must be an integer, not None"),
    ],
)
def test_refuses_in_one_sentence(queries: Floats, corpus: Floats, k: int, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as raised:
        top_k(queries, corpus, k)
    assert "\n" not in str(raised.value)


def test_a_late_bad_vector_is_named_by_its_own_number() -> None:
    corpus = unit(1000, 8)
    corpus[901] = np.nan
    with pytest.raises(ValueError, match=r"corpus\[901\]"):
        top_k(unit(2, 8), corpus, 3, block=(1, 64))


def test_refuses_an_empty_block() -> None:
    with pytest.raises(ValueError, match="block"):
        top_k(unit(2, 8), unit(3, 8), 1, block=(0, 10))
    with pytest.raises(TypeError, match=r"number of titles must be an integer, not 1\.5"):
        top_k(unit(2, 8), unit(3, 8), 1, block=(1, 1.5))  # type: ignore[arg-type]


def test_an_integer_of_numpy_is_an_integer() -> None:
    assert_same(top_k(unit(2, 8), unit(3, 8), np.int32(2)), top_k(unit(2, 8), unit(3, 8), 2))  # type: ignore[arg-type]


@pytest.mark.medium
def test_memory_does_not_grow_with_the_corpus() -> None:
    def peak(count: int) -> int:
        corpus = unit(count, 16)
        tracemalloc.start()
        try:
            top_k(queries, corpus, 10, block=(256, 1024))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    queries = unit(500, 16, 1)
    small, large = peak(4_000), peak(64_000)
    assert large < 1.5 * small
    assert large < 5 * 256 * 1024 + 200 * 500 * 10 + 2**20 < 500 * 64_000 * 4 / 25  # and 1 MiB for the rest


def test_hidden_rows_are_never_found_and_keep_their_numbers() -> None:
    queries, corpus = unit(6, 24, 1), unit(400, 24, 2)
    hidden = np.random.default_rng(0).random(400) < 0.7
    hidden[:100] = True  # a first block with nothing in it
    hidden[150:300] = False  # and some with everything
    rows = Rows(corpus, hidden, checked=True)
    seen = np.flatnonzero(~hidden)
    assert rows.visible == len(seen)
    np.testing.assert_array_equal(rows.visible_rows(), seen)
    for k in (1, 30, 400):
        scores, indices = naive(queries, corpus[seen], k)
        assert_same(search(queries, rows, k, block=(4, 50)), (scores, seen[indices]))


def test_rank_orders_the_candidates_it_is_given() -> None:
    query, corpus = unit(1, 24, 1)[0], np.repeat(unit(50, 24, 2), 2, axis=0)
    chosen = np.random.default_rng(1).permutation(100)[:40]
    scores, indices = rank(query, Rows(corpus, None, checked=True), chosen, 15)
    expected = naive(query[None], corpus[np.sort(chosen)], 15)
    assert_same((scores, indices), (expected[0][0], np.sort(chosen)[expected[1][0]]))
