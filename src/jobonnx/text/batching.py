"""Rows of token ids to batches and back: pure functions that know no model and no text."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import chain
from typing import TypeVar

import numpy as np

from jobonnx.arrays import Ints

Item = TypeVar("Item", bound=Hashable)


def deduplicate(items: Sequence[Item]) -> tuple[list[Item], Ints]:
    """Drop repeats, keeping the order of first appearance.

    Returns:
        The unique items, and `inverse`, int64 [len(items)]: items[i] == unique[inverse[i]], as numpy.unique says it.
    """
    seen: dict[Item, int] = {}
    inverse = np.fromiter((seen.setdefault(item, len(seen)) for item in items), dtype=np.int64, count=len(items))
    return list(seen), inverse


def batch_by_length(lengths: Sequence[int], token_budget: int, max_rows: int | None = None) -> list[Ints]:
    """Group rows of similar length, longest first, each batch within the token budget once padded.

    Longest first: memory peaks at once and never later, and the last batches are the cheap ones.

    Args:
        lengths: tokens of each row.
        token_budget: rows x longest row of a batch is at most this, except for a single row that is longer by itself.
        max_rows: rows of a batch are at most this.

    Returns:
        Row numbers of each batch, int64; every row is in exactly one batch.
    """
    order = longest_first(lengths, token_budget, max_rows)
    batches = []
    start = 0
    while start < len(order):
        rows = max(1, token_budget // max(1, lengths[order[start]]))
        rows = rows if max_rows is None else min(rows, max_rows)
        batches.append(order[start : start + rows])
        start += rows
    return batches


def longest_first(lengths: Sequence[int], token_budget: int, max_rows: int | None) -> Ints:
    """Row numbers by falling length, int64, equal lengths in the order given; ValueError for a limit below 1."""
    if token_budget < 1 or (max_rows is not None and max_rows < 1):
        raise ValueError(f"token_budget={token_budget} and max_rows={max_rows} have to be at least 1")
    return np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")


def pad(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Ints, Ints]:
    """Pad rows of token ids on the right.

    Returns:
        `input_ids` and `attention_mask` (1 for real tokens), both int64 [rows, longest].
    """
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    mask = np.arange(lengths.max(initial=0)) < lengths[:, None]
    ids = np.full(mask.shape, pad_id, dtype=np.int64)
    ids[mask] = np.fromiter(chain.from_iterable(rows), dtype=np.int64, count=int(lengths.sum()))
    return ids, mask.astype(np.int64)
