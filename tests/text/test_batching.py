"""The planner's promises, for any lengths."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobonnx.text.batching import LAUNCH_TOKENS, bucket, fill, pad, plan, plan_buckets, unique

LENGTHS = st.lists(st.integers(0, 600), max_size=200)
BUDGET = st.integers(1, 3000)
MAX_ROWS = st.none() | st.integers(1, 50)
ROWS = st.lists(st.lists(st.integers(2, 250_001), max_size=30), max_size=20)


@given(LENGTHS, BUDGET, MAX_ROWS)
def test_every_row_is_in_exactly_one_batch(lengths: list[int], budget: int, max_rows: int | None) -> None:
    batches = plan(lengths, budget, max_rows)
    assert sorted(int(i) for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(len(batch) for batch in batches)


@given(LENGTHS, BUDGET, MAX_ROWS)
def test_padded_batches_keep_to_the_budget(lengths: list[int], budget: int, max_rows: int | None) -> None:
    for batch in plan(lengths, budget, max_rows):
        assert len(batch) * max(lengths[i] for i in batch) <= budget or len(batch) == 1
        assert max_rows is None or len(batch) <= max_rows


@given(LENGTHS, BUDGET, MAX_ROWS)
def test_longest_first_and_equals_in_the_order_given(lengths: list[int], budget: int, max_rows: int | None) -> None:
    order = [int(i) for batch in plan(lengths, budget, max_rows) for i in batch]
    assert order == sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))


@given(LENGTHS, BUDGET, MAX_ROWS)
def test_no_batch_could_take_the_next_row_too(lengths: list[int], budget: int, max_rows: int | None) -> None:
    batches = plan(lengths, budget, max_rows)
    for batch in batches[:-1]:
        assert (len(batch) + 1) * max(1, lengths[batch[0]]) > budget or len(batch) == max_rows


def test_a_row_over_the_budget_is_a_batch_of_its_own() -> None:
    assert [batch.tolist() for batch in plan([3, 100, 3, 101], 10)] == [[3], [1], [0, 2]]


def test_nothing_to_do_is_no_batch() -> None:
    assert plan([], 10) == []


@pytest.mark.parametrize("cut", [plan, plan_buckets])
@pytest.mark.parametrize(("budget", "max_rows"), [(0, None), (-1, None), (10, 0)])
def test_impossible_limits_are_refused(cut: Callable[..., Any], budget: int, max_rows: int | None) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        cut([1], budget, max_rows)


# Buckets


@given(st.integers(1, 5000), st.integers(1, 9000))
def test_a_bucket_holds_its_batch_is_its_own_bucket_and_wastes_little(rows: int, length: int) -> None:
    more_rows, more_length = bucket(rows, length)
    assert rows <= more_rows < 2 * rows
    assert length <= more_length <= max(length + 1, 1.25 * length)
    assert bucket(more_rows, more_length) == (more_rows, more_length)
    assert bucket(rows, length + 1)[1] >= more_length
    assert bucket(rows + 1, length)[0] >= more_rows


def test_there_are_few_buckets() -> None:
    assert sorted({bucket(1, n)[1] for n in range(1, 65)}) == [*range(2, 17, 2), 20, 24, 28, 32, 40, 48, 56, 64]
    assert len({bucket(1, n)[1] for n in range(1, 513)}) == 28
    assert len({bucket(n, 1)[0] for n in range(1, 4097)}) == 13


@given(st.lists(st.integers(1, 600), max_size=400), st.integers(1, 20_000), MAX_ROWS)
def test_bucketed_batches_hold_every_row_once_within_the_budget(lengths: list[int], budget: int, max_rows: int | None) -> None:
    batches = plan_buckets(lengths, budget, max_rows)
    order = [int(i) for batch in batches for i in batch]
    assert order == sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    for batch in batches:
        rows, length = bucket(len(batch), lengths[batch[0]])
        assert rows * length <= budget or len(batch) == 1
        assert max_rows is None or len(batch) <= max_rows


@given(st.lists(st.integers(1, 600), max_size=400), st.integers(1, 20_000))
def test_a_bucketed_batch_ends_where_it_is_full_or_the_rest_is_much_shorter(lengths: list[int], budget: int) -> None:
    batches = plan_buckets(lengths, budget)
    for batch, following in pairwise(batches):
        rows, length = bucket(len(batch), lengths[batch[0]])
        full = 2 * rows * length > budget and rows == len(batch)
        shorter = bucket(1, lengths[following[0]])[1] <= 0.75 * length and 2 * len(batch) * length >= LAUNCH_TOKENS
        assert full or shorter


@given(ROWS.filter(lambda rows: any(rows)), st.integers(0, 9), st.integers(0, 9))
def test_filling_adds_padding_and_rows_of_one_token(rows: list[list[int]], more_rows: int, more_length: int) -> None:
    ids, mask = pad(rows, 1)
    count, length = ids.shape
    wide_ids, wide_mask = fill(ids, mask, count + more_rows, length + more_length, 1)
    assert wide_ids.shape == wide_mask.shape == (count + more_rows, length + more_length)
    assert wide_ids.dtype == wide_mask.dtype == np.int64
    np.testing.assert_array_equal(wide_ids[:count, :length], ids)
    np.testing.assert_array_equal(wide_mask[:count, :length], mask)
    assert wide_mask[:count, length:].sum() == 0
    assert (wide_mask[count:].sum(axis=1) == 1).all()
    assert wide_mask[count:, 0].all()
    assert (wide_ids[count:] == 1).all()
    assert (wide_ids[:, length:] == 1).all()


@given(st.lists(st.text(max_size=3)))
def test_unique_is_undone_by_its_places(items: list[str]) -> None:
    distinct, places = unique(items)
    assert [distinct[i] for i in places] == items
    assert distinct == list(dict.fromkeys(items))
    assert places.dtype == np.int64


@given(ROWS, st.integers(0, 1))
def test_pad_is_undone_by_its_mask(rows: list[list[int]], pad_id: int) -> None:
    ids, mask = pad(rows, pad_id)
    longest = max(map(len, rows), default=0)
    assert ids.shape == mask.shape == (len(rows), longest)
    assert ids.dtype == mask.dtype == np.int64
    assert [i[m == 1].tolist() for i, m in zip(ids, mask, strict=True)] == rows
    assert (ids[mask == 0] == pad_id).all()
    assert [m.tolist() for m in mask] == [[1] * len(row) + [0] * (longest - len(row)) for row in rows]  # on the right
