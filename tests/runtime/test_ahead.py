"""Blocks side by side: every item once and in order, one error, and no more blocks at a time than were promised."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from helpers import gpu
from jobonnx import Encoder
from jobonnx.arrays import Floats
from jobonnx.data.titles import read_titles
from jobonnx.runtime.ahead import encode_in_blocks
from jobonnx.runtime.providers import PROVIDERS
from jobonnx.text.tokenizer import TooLongError


def numbers(items: Sequence[int]) -> Floats:
    time.sleep(0.001 * (items[0] % 3))  # blocks end in another order than they began
    return np.array(items, dtype=np.float32)[:, None] * np.array([1, -1], np.float32)


@pytest.mark.parametrize("count", [1, 6, 7, 8, 13, 14, 15, 100])
@pytest.mark.parametrize("block", [0, 1, 7])
def test_rows_come_back_in_order(count: int, block: int) -> None:
    found = encode_in_blocks(numbers, list(range(count)), block)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.arange(count)[:, None] * [1, -1])


def test_nothing_is_one_call_in_the_callers_thread() -> None:
    seen: list[Any] = []

    def empty(items: Sequence[int]) -> Floats:
        seen.append(threading.current_thread())
        return np.empty((len(items), 3), np.float32)

    assert encode_in_blocks(empty, [], 4).shape == (0, 3)
    assert encode_in_blocks(empty, [1, 2, 3, 4], 4).shape == (4, 3)
    assert seen == [threading.current_thread()] * 2


def test_three_blocks_run_at_a_time_and_no_more() -> None:
    running, most, lock = 0, 0, threading.Lock()
    together = threading.Barrier(3, timeout=10)

    def encode(items: Sequence[int]) -> Floats:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait()  # passes only where three are here
        with lock:
            running -= 1
        return np.zeros((len(items), 1), np.float32)

    encode_in_blocks(encode, list(range(24)), 2)
    assert most == 3


def test_the_first_error_is_raised_and_later_blocks_do_not_begin() -> None:
    begun: list[int] = []

    def encode(items: Sequence[int]) -> Floats:
        begun.append(items[0])
        if items[0] == 1:
            raise ValueError("row 1 is broken")
        time.sleep(0.02)
        return np.zeros((len(items), 1), np.float32)

    with pytest.raises(ValueError, match="row 1 is broken"):
        encode_in_blocks(encode, list(range(1000)), 1)
    assert len(begun) < 20
    alive = [thread.name for thread in threading.enumerate() if thread.name.startswith("jobonnx-block")]
    assert alive == []


def test_the_whole_way_in_blocks_gives_the_same_vectors(bundle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeats, an empty text and a long one, in blocks of 7, against all at once."""
    gpu.pretend(monkeypatch)
    titles = [*read_titles()[:200:5], "", "a" * 2000, "KOCH", "Koch", *read_titles()[:50:5]]
    at_once = Encoder(bundle, variant="fp16", provider="cuda").encode(titles)
    monkeypatch.setattr(PROVIDERS["cuda"], "block", 7)
    with Encoder(bundle, variant="fp16", provider="cuda") as encoder:
        assert encoder.engine.session.block == 7
        np.testing.assert_allclose(encoder.encode(titles), at_once, atol=2e-3)
        rows = encoder.tokenize(titles)
        np.testing.assert_allclose(encoder.encode_tokens(rows), at_once, atol=2e-3)


def test_an_error_names_a_text_by_its_place_among_all(bundle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu.pretend(monkeypatch)
    monkeypatch.setattr(PROVIDERS["cuda"], "block", 7)
    texts = [*(f"Koch {i}" for i in range(30)), "a " * 2000]
    with (
        Encoder(bundle, variant="fp16", provider="cuda", truncation="error") as encoder,
        pytest.raises(TooLongError, match="text 30 has"),
    ):
        encoder.encode(texts)


def test_the_cpu_computes_all_at_once(bundle: Any) -> None:
    with Encoder(bundle, variant="fp32", provider="cpu") as encoder:
        assert encoder.engine.session.block == 0
