"""Few shapes: the promises of buckets, for any lengths."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jobonnx.runtime.providers.shape_buckets import LAUNCH_TOKENS, aligned_bucket, batch_by_bucket, bucket, pad_to_shape
from jobonnx.text.batching import pad

MAX_ROWS = st.none() | st.integers(1, 50)
ROWS = st.lists(st.lists(st.integers(2, 250_001), max_size=30), max_size=20)


@given(st.integers(1, 5000), st.integers(1, 9000))
def test_a_bucket_holds_its_batch_is_its_own_bucket_and_wastes_little(rows: int, length: int) -> None:
    more_rows, more_length = bucket(rows, length)
    assert rows <= more_rows < 2 * rows
    assert length <= more_length <= max(length + 1, 1.25 * length)
    assert bucket(more_rows, more_length) == (more_rows, more_length)
    assert bucket(rows, length + 1)[1] >= more_length
    assert bucket(rows + 1, length)[0] >= more_rows


@given(st.integers(1, 4096), st.integers(1, 600))
def test_an_aligned_bucket_holds_a_multiple_of_8_tokens_and_differs_for_one_or_two_rows_only(rows: int, length: int) -> None:
    more_rows, more_length = aligned_bucket(rows, length)
    assert more_rows * more_length % 8 == 0
    assert (more_rows, more_length) == aligned_bucket(more_rows, more_length)
    rows, length = bucket(rows, length)
    assert more_rows == rows
    assert length <= more_length < length + 8
    assert rows <= 2 or more_length == length


def test_there_are_few_buckets() -> None:
    assert sorted({bucket(1, n)[1] for n in range(1, 65)}) == [*range(2, 17, 2), 20, 24, 28, 32, 40, 48, 56, 64]
    assert len({bucket(1, n)[1] for n in range(1, 513)}) == 28
    assert len({bucket(n, 1)[0] for n in range(1, 4097)}) == 13


@given(st.lists(st.integers(1, 600), max_size=400), st.integers(1, 20_000), MAX_ROWS)
def test_bucketed_batches_hold_every_row_once_within_the_budget(lengths: list[int], budget: int, max_rows: int | None) -> None:
    batches = batch_by_bucket(lengths, budget, max_rows)
    order = [int(i) for batch in batches for i in batch]
    assert order == sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    for batch in batches:
        rows, length = bucket(len(batch), lengths[batch[0]])
        assert rows * length <= budget or len(batch) == 1
        assert max_rows is None or len(batch) <= max_rows


@given(st.lists(st.integers(1, 600), max_size=400), st.integers(1, 20_000))
def test_a_bucketed_batch_ends_where_it_is_full_or_the_rest_is_much_shorter(lengths: list[int], budget: int) -> None:
    batches = batch_by_bucket(lengths, budget)
    for batch, following in pairwise(batches):
        rows, length = bucket(len(batch), lengths[batch[0]])
        full = 2 * rows * length > budget and rows == len(batch)
        shorter = bucket(1, lengths[following[0]])[1] <= 0.75 * length and 2 * len(batch) * length >= LAUNCH_TOKENS
        assert full or shorter


@given(ROWS.filter(lambda rows: any(rows)), st.integers(0, 9), st.integers(0, 9))
def test_filling_adds_padding_and_rows_of_one_token(rows: list[list[int]], more_rows: int, more_length: int) -> None:
    ids, mask = pad(rows, 1)
    count, length = ids.shape
    wide_ids, wide_mask = pad_to_shape(ids, mask, count + more_rows, length + more_length, 1)
    assert wide_ids.shape == wide_mask.shape == (count + more_rows, length + more_length)
    assert wide_ids.dtype == wide_mask.dtype == np.int64
    np.testing.assert_array_equal(wide_ids[:count, :length], ids)
    np.testing.assert_array_equal(wide_mask[:count, :length], mask)
    assert wide_mask[:count, length:].sum() == 0
    assert (wide_mask[count:].sum(axis=1) == 1).all()
    assert wide_mask[count:, 0].all()
    assert (wide_ids[count:] == 1).all()
    assert (wide_ids[:, length:] == 1).all()
