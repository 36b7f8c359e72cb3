"""Few shapes for devices where every new shape costs a plan, an engine or a recording: pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jobonnx.arrays import Ints
from jobonnx.text.batching import longest_first

# Below this many tokens a GPU is limited by kernel launches, not arithmetic: an H100 takes 4 to 7 ms for any batch of up to 2,000
# tokens, and 12 ms for 4,000 (benchmarks/results/2026-11-27-gpu-h100.md).
LAUNCH_TOKENS = 2048
_ALIGNED = 8  # tokens


def bucket(rows: int, length: int) -> tuple[int, int]:
    """Return the shape that a batch is padded to: [rows, length].

    Rows become the next power of two. Lengths become the next even number up to 16, and after that one of four per octave (20, 24,
    28, 32, 40, ...). This gives 28 lengths up to 512 and at most 25% padding. On real titles it pads 8%; rounding to multiples of 4
    would pad 25%.
    """
    step = max(2, 1 << max(0, (length - 1).bit_length() - 3))
    return 1 << max(0, rows - 1).bit_length(), max(1, -(-length // step)) * step


def aligned_bucket(rows: int, length: int) -> tuple[int, int]:
    """Return the `bucket`, one or two rows padded to a multiple of 8 tokens in all: CUTLASS's attention takes nothing else."""
    rows, length = bucket(rows, length)
    step = max(1, _ALIGNED // rows)
    return rows, -(-length // step) * step


def batch_by_bucket(lengths: Sequence[int], token_budget: int, max_rows: int | None = None) -> list[Ints]:
    """As `batch_by_length`, for batches that are padded to their `bucket`, which is within the token budget too.

    A batch also ends before a much shorter row, once it has enough tokens to keep the GPU busy while the next batch is launched.

    Args:
        lengths: tokens of each row.
        token_budget: rows x length of a batch's bucket is at most this, except for a single row that is longer by itself.
        max_rows: rows of a batch, before padding, are at most this.

    Returns:
        Row numbers of each batch, int64; every row is in exactly one batch.
    """
    order = longest_first(lengths, token_budget, max_rows)
    in_order = np.asarray(lengths, dtype=np.int64)[order]
    kinds, which = np.unique(in_order, return_inverse=True)  # few: Python computes a bucket for each, not for each row
    buckets = np.array([bucket(1, int(length))[1] for length in kinds], dtype=np.int64)[which]
    falling = -buckets
    batches = []
    start = 0
    while start < len(order):
        longest = int(buckets[start])
        fit = max(1, token_budget // longest)
        stop = start + min(1 << (fit.bit_length() - 1), max_rows or fit)  # a power of two that fits, so its rows need no padding
        enough = start + max(1, LAUNCH_TOKENS // longest)
        shorter = int(np.searchsorted(falling, -(3 * longest // 4)))  # the first row with 4 x its bucket <= 3 x the longest
        stop = min(stop, max(enough, shorter))
        batches.append(order[start:stop])
        start = stop
    return batches


def pad_to_shape(ids: Ints, mask: Ints, rows: int, length: int, pad_id: int) -> tuple[Ints, Ints]:
    """Pad a padded batch further, to int64 [rows, length]. An added row has one token, so that its attention is finite."""
    more = ((0, rows - ids.shape[0]), (0, length - ids.shape[1]))
    ids, mask = np.pad(ids, more, constant_values=pad_id), np.pad(mask, more)
    mask[mask.shape[0] - more[0][1] :, 0] = 1
    return ids, mask
