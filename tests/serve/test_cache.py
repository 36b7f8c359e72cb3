from __future__ import annotations

import gc
import tracemalloc

import numpy as np
import pytest

from jobonnx.arrays import Floats
from jobonnx.serve.cache import Cache


def vector(value: float, dimension: int = 256) -> Floats:
    return np.full(dimension, value, np.float32)


def test_a_vector_comes_back_with_its_tokens() -> None:
    cache = Cache("f", 1 << 20)
    cache.put("nurse", vector(1), 3)
    found = cache.get("nurse")
    assert found is not None
    assert found.tokens == 3
    assert (found.vector == 1).all()
    assert cache.get("Nurse") is None


def test_the_one_used_longest_ago_goes_first() -> None:
    cache = Cache("f", 4 * 1500)
    for name in "abcd":
        cache.put(name, vector(1), 3)
    assert len(cache) == 4
    cache.get("a")
    cache.put("e", vector(2), 3)
    assert cache.get("b") is None
    assert cache.get("a") is not None


def test_it_keeps_a_copy_of_a_row_not_the_batch() -> None:
    cache = Cache("f", 1 << 20)
    batch = np.zeros((64, 256), np.float32)
    cache.put("a", batch[3], 3)
    found = cache.get("a")
    assert found is not None
    assert found.vector.base is None


def test_nothing_is_kept_without_room() -> None:
    cache = Cache("f", 0)
    cache.put("a", vector(1), 3)
    assert len(cache) == cache.bytes == 0


def test_a_text_longer_than_the_cache_is_not_kept_and_drops_nothing() -> None:
    cache = Cache("f", 10_000)
    cache.put("a", vector(1), 3)
    cache.put("x" * 20_000, vector(1), 3)
    assert len(cache) == 1


def test_token_ids_are_another_key_than_a_text() -> None:
    cache = Cache("f", 10_000)
    cache.put((0, 5, 2), vector(1), 3)
    assert cache.get("(0, 5, 2)") is None
    assert cache.get((0, 5, 2)) is not None


@pytest.mark.medium
@pytest.mark.parametrize("dimension", [256, 1024])
def test_the_bound_is_what_python_allocates(dimension: int) -> None:
    """After many times its size went through, memory is what the cache says, within 15%."""
    cache = Cache("f", 4 << 20)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(20_000):
        cache.put(f"title number {number} of a company", vector(number, dimension), 9)
    gc.collect()
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert 0.9 * (4 << 20) < cache.bytes <= 4 << 20
    assert used < 1.15 * cache.bytes
