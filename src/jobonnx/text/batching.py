"""From lengths to batches and back: pure functions, no model, no text."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import chain
from typing import Any, TypeVar

import numpy as np

Integers = np.ndarray[Any, np.dtype[np.int64]]
Item = TypeVar("Item", bound=Hashable)
# Tokens that a GPU computes in the time their kernels take to launch: 0.6 GFLOP each at 500 TFLOP/s, 400 kernels. Unmeasured.
LAUNCH_TOKENS = 2048


def unique(items: Sequence[Item]) -> tuple[list[Item], Integers]:
    """Drop repeats, keeping the order of first appearance.

    Returns:
        The distinct items, and `places`, int64 [len(items)]: items[i] == distinct[places[i]].
    """
    seen: dict[Item, int] = {}
    places = np.fromiter((seen.setdefault(item, len(seen)) for item in items), dtype=np.int64, count=len(items))
    return list(seen), places


def plan(lengths: Sequence[int], token_budget: int, max_rows: int | None = None) -> list[Integers]:
    """Cut rows into batches of similar length, longest first, each within the token budget once padded.

    Longest first, so that memory peaks at once and never later, and the last batches are the cheap ones.

    Args:
        lengths: tokens of each row.
        token_budget: rows x longest row of a batch is at most this, except for a single row that is longer by itself.
        max_rows: rows of a batch are at most this.

    Returns:
        Row numbers of each batch, int64; every row is in exactly one batch.
    """
    if token_budget < 1 or (max_rows is not None and max_rows < 1):
        raise ValueError(f"token_budget={token_budget} and max_rows={max_rows} have to be at least 1")
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    batches = []
    start = 0
    while start < len(order):
        rows = max(1, token_budget // max(1, lengths[order[start]]))
        rows = rows if max_rows is None else min(rows, max_rows)
        batches.append(order[start : start + rows])
        start += rows
    return batches


def bucket(rows: int, length: int) -> tuple[int, int]:
    """The shape that a batch is padded to where every new shape costs a plan, an engine or a captured graph: [rows, length].

    Rows become the next power of two. Lengths become the next even number up to 16, and after that one of four an octave (20, 24,
    28, 32, 40, ...): 28 lengths up to 512, at most a quarter too long. Titles cost 8% so, where multiples of 4 would cost 25%.
    """
    step = max(2, 1 << max(0, (length - 1).bit_length() - 3))
    return 1 << max(0, rows - 1).bit_length(), max(1, -(-length // step)) * step


def plan_buckets(lengths: Sequence[int], token_budget: int, max_rows: int | None = None) -> list[Integers]:
    """As `plan`, for batches that are padded to their `bucket`, which is within the token budget too.

    A batch may also end early: with enough work in it to hide the launching of the next one, it does not pad much shorter rows.

    Args:
        lengths: tokens of each row.
        token_budget: rows x length of a batch's bucket is at most this, except for a single row that is longer by itself.
        max_rows: rows of a batch, before padding, are at most this.

    Returns:
        Row numbers of each batch, int64; every row is in exactly one batch.
    """
    if token_budget < 1 or (max_rows is not None and max_rows < 1):
        raise ValueError(f"token_budget={token_budget} and max_rows={max_rows} have to be at least 1")
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    buckets = [bucket(1, lengths[i])[1] for i in order]
    batches = []
    start = 0
    while start < len(order):
        longest = buckets[start]
        fit = max(1, token_budget // longest)
        stop = start + min(1 << (fit.bit_length() - 1), max_rows or fit)  # a power of two that fits, so its rows need no padding
        enough = start + max(1, LAUNCH_TOKENS // longest)
        stop = next((i for i in range(enough, min(stop, len(order))) if 4 * buckets[i] <= 3 * longest), stop)
        batches.append(order[start:stop])
        start = stop
    return batches


def fill(ids: Integers, mask: Integers, rows: int, length: int, pad_id: int) -> tuple[Integers, Integers]:
    """Pad a padded batch further, to int64 [rows, length]. An added row has one token, so that its attention is finite."""
    more = ((0, rows - ids.shape[0]), (0, length - ids.shape[1]))
    ids, mask = np.pad(ids, more, constant_values=pad_id), np.pad(mask, more)
    mask[mask.shape[0] - more[0][1] :, 0] = 1
    return ids, mask


def pad(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Integers, Integers]:
    """Pad rows of token ids on the right.

    Returns:
        `input_ids` and `attention_mask` (1 for real tokens), both int64 [rows, longest].
    """
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    mask = np.arange(lengths.max(initial=0)) < lengths[:, None]
    ids = np.full(mask.shape, pad_id, dtype=np.int64)
    ids[mask] = np.fromiter(chain.from_iterable(rows), dtype=np.int64, count=int(lengths.sum()))
    return ids, mask.astype(np.int64)
