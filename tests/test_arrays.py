"""Rows of vectors back to the items that asked for them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jobonnx.arrays import repeated
from jobonnx.text.batching import deduplicate


@given(st.lists(st.integers(0, 20), max_size=40))
def test_every_item_gets_its_row(items: list[int]) -> None:
    unique, inverse = deduplicate(items)
    vectors = np.array(unique, np.float32).reshape(-1, 1) * np.ones((1, 3), np.float32)
    found = repeated(vectors, inverse)
    np.testing.assert_array_equal(found, np.array(items, np.float32).reshape(-1, 1) * np.ones((1, 3)))
    assert found.flags.c_contiguous


def test_distinct_items_are_not_copied_and_a_part_of_the_columns_is() -> None:
    vectors = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert repeated(vectors, np.arange(3)) is vectors
    part = repeated(vectors[:, :2], np.arange(3))
    assert part.flags.c_contiguous
    assert not np.shares_memory(part, vectors)  # a view would keep what was cut off in memory
