"""Micro-benchmarks for developers: each layer of the runtime alone, and all of them together.

    pytest benchmarks/test_speed.py --benchmark-enable

They run the small model that comes with the package on its own titles; compare commits with --benchmark-autosave and
--benchmark-compare. Comparisons with other systems are in compare.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from jobonnx import Encoder
from jobonnx.data.titles import read_titles
from jobonnx.text.batching import batch_by_length, deduplicate, pad

BATCH = 64


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(provider="cpu")


@pytest.fixture(scope="module")
def titles() -> list[str]:
    return read_titles()


@pytest.fixture(scope="module")
def rows(encoder: Encoder, titles: list[str]) -> list[list[int]]:
    return encoder.tokenize(titles)


def test_tokenize(benchmark: Any, encoder: Encoder, titles: list[str]) -> None:
    assert len(benchmark(encoder.tokenize, titles)) == len(titles)


def test_deduplicate(benchmark: Any, titles: list[str]) -> None:
    unique, _ = benchmark(deduplicate, titles * 2)
    assert len(unique) == len(titles)


def test_batch_by_length(benchmark: Any, rows: list[list[int]]) -> None:
    lengths = [len(row) for row in rows]
    batches = benchmark(batch_by_length, lengths, 2048)
    assert sum(map(len, batches)) == len(rows)


def test_pad(benchmark: Any, rows: list[list[int]]) -> None:
    ids, mask = benchmark(pad, rows[:BATCH], 1)
    assert ids.shape == mask.shape


def test_session_one_batch(benchmark: Any, encoder: Encoder, rows: list[list[int]]) -> None:
    ids, mask = pad(rows[:BATCH], 1)
    assert len(benchmark(encoder.engine.session.run, ids, mask)) == BATCH


def test_one_title(benchmark: Any, encoder: Encoder, titles: list[str]) -> None:
    assert benchmark(encoder.encode, titles[0]).shape == (encoder.dimension,)


def test_a_batch_of_titles(benchmark: Any, encoder: Encoder, titles: list[str]) -> None:
    assert len(benchmark(encoder.encode, titles[:BATCH])) == BATCH
