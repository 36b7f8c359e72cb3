"""The promises of batching, for any lengths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobonnx.runtime.providers.shape_buckets import batch_by_bucket
from jobonnx.text.batching import batch_by_length, deduplicate, pad

LENGTHS = st.lists(st.integers(0, 600), max_size=200)
BUDGET = st.integers(1, 3000)
MAX_ROWS = st.none() | st.integers(1, 50)
ROWS = st.lists(st.lists(st.integers(2, 250_001), max_size=30), max_size=20)


@given(LENGTHS, BUDGET, MAX_ROWS)
def test_every_row_is_in_exactly_one_batch(lengths: list[int], budget: int, max_rows: int | None) -> None:
    batches = batch_by_length(lengths, budget, max_rows)
    assert sorted(int(i) for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(len(batch) for batch in batches)


@given(LENGTHS, BUDGET, MAX_ROWS)
def test_padded_batches_keep_to_the_budget(lengths: list[int], budget: int, max_rows: int | None) -> None:
    for batch in batch_by_length(lengths, budget, max_rows):
        assert len(batch) * max(lengths[i] for i in batch) <= budget or len(batch) == 1
        assert max_rows is None or len(batch) <= max_rows


@given(LENGTHS, BUDGET, MAX_ROWS)
def test_longest_first_and_equals_in_the_order_given(lengths: list[int], budget: int, max_rows: int | None) -> None:
    order = [int(i) for batch in batch_by_length(lengths, budget, max_rows) for i in batch]
    assert order == sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))


@given(LENGTHS, BUDGET, MAX_ROWS)
def test_no_batch_could_take_the_next_row_too(lengths: list[int], budget: int, max_rows: int | None) -> None:
    batches = batch_by_length(lengths, budget, max_rows)
    for batch in batches[:-1]:
        assert (len(batch) + 1) * max(1, lengths[batch[0]]) > budget or len(batch) == max_rows


def test_a_row_over_the_budget_is_a_batch_of_its_own() -> None:
    assert [batch.tolist() for batch in batch_by_length([3, 100, 3, 101], 10)] == [[3], [1], [0, 2]]


def test_nothing_to_do_is_no_batch() -> None:
    assert batch_by_length([], 10) == []


@pytest.mark.parametrize("cut", [batch_by_length, batch_by_bucket])
@pytest.mark.parametrize(("budget", "max_rows"), [(0, None), (-1, None), (10, 0)])
def test_impossible_limits_are_refused(cut: Callable[..., Any], budget: int, max_rows: int | None) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        cut([1], budget, max_rows)


@given(st.lists(st.text(max_size=3)))
def test_deduplication_is_undone_by_its_inverse(items: list[str]) -> None:
    unique, inverse = deduplicate(items)
    assert [unique[i] for i in inverse] == items
    assert unique == list(dict.fromkeys(items))
    assert inverse.dtype == np.int64


@given(ROWS, st.integers(0, 1))
def test_pad_is_undone_by_its_mask(rows: list[list[int]], pad_id: int) -> None:
    ids, mask = pad(rows, pad_id)
    longest = max(map(len, rows), default=0)
    assert ids.shape == mask.shape == (len(rows), longest)
    assert ids.dtype == mask.dtype == np.int64
    assert [i[m == 1].tolist() for i, m in zip(ids, mask, strict=True)] == rows
    assert (ids[mask == 0] == pad_id).all()
    assert [m.tolist() for m in mask] == [[1] * len(row) + [0] * (longest - len(row)) for row in rows]  # on the right
