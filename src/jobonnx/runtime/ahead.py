"""Blocks side by side, so that a device computes one while the host prepares the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from jobonnx.arrays import Floats

Item = TypeVar("Item")
Rows = Callable[[Any], Any]  # a block of items to rows of token ids
# One block is tokenised while the other two take turns at the device: one computes, the other is padded or copied.
_SIDE_BY_SIDE = 3


def encode_in_blocks(encode: Callable[[Sequence[Item]], Floats], items: Sequence[Item], block: int) -> Floats:
    """Encode items block by block, three blocks at a time.

    Args:
        encode: items to vectors, float32 [items, dimension], in order; called from several threads at once.
        items: texts, or rows of token ids.
        block: items of a block; 0 for all of them in one, in the caller's thread, as few as fit into one block are too.

    Returns:
        float32 [items, dimension], in order. An error in any block is raised when the blocks before it are done; blocks that have
        not begun by then never do.
    """
    if not 0 < block < len(items):
        return encode(items)
    starts = range(0, len(items), block)
    with ThreadPoolExecutor(_SIDE_BY_SIDE, "jobonnx-block") as pool:
        found = pool.map(encode, (items[start : start + block] for start in starts))
        first = next(found)
        vectors = np.empty((len(items), first.shape[1]), dtype=np.float32)
        vectors[:block] = first
        for start, part in zip(starts[1:], found, strict=True):
            vectors[start : start + block] = part
    return vectors
