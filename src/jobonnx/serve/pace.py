"""How fast an engine is: measured while it warms up, before the service says that it is ready."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from jobonnx.serve.scheduler import Computes, Pace

_ROUNDS = 3
_SLICE_RATIO = 1.25  # a slice takes at most so much longer than one title
_LONGEST_SECONDS = 0.25  # of a batch that is tried; no larger one will be run at once


def warm_up(encoder: Computes, titles: Sequence[str], token_budget: int) -> Pace:
    """Run batches of 1, 2, 4, ... titles until one fills the token budget or takes a quarter of a second.

    Args:
        encoder: what is warmed up.
        titles: of the usual mix of lengths.
        token_budget: of the largest batch.

    Returns:
        What was measured: medians of three runs per size.
    """
    rows = encoder.tokenize(list(titles))
    rows.insert(0, sorted(rows, key=len)[len(rows) // 2])  # the first one is tried alone
    alone, slice_tokens, rate = 0.0, len(rows[0]), 0.0
    count = 1
    while count <= len(rows):
        batch = rows[:count]
        if len(batch) * max(map(len, batch)) > token_budget and count > 1:
            break
        seconds = _median(encoder, batch)
        tokens = sum(map(len, batch))
        alone = alone or seconds
        if seconds <= _SLICE_RATIO * alone:
            slice_tokens = max(slice_tokens, tokens)
        rate = max(rate, tokens / max(seconds, 1e-6))
        if seconds > _LONGEST_SECONDS:
            break
        count *= 2
    return Pace(slice_tokens, rate)


def _median(encoder: Computes, batch: Sequence[Sequence[int]]) -> float:
    seconds = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        encoder.encode_batch(batch)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
