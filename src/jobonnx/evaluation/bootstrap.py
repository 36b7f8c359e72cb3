"""The paired bootstrap: how far a mean difference would move with other queries like these."""

from __future__ import annotations

import numpy as np

from jobonnx.arrays import Doubles

RESAMPLES = 10_000
CONFIDENCE = 0.95


def bootstrap_difference(
    candidate: Doubles, reference: Doubles, *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[Doubles, Doubles, Doubles]:
    """Compute a mean difference over queries with its paired bootstrap interval.

    The interval is 95 % by the percentile method (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13). A resample
    draws queries with replacement and keeps both methods' values of a query together. The draws are the same for all columns.
    Queries are thus the only source of chance.

    Args:
        candidate: float64 [queries] or [queries, metrics].
        reference: the same shape, the same queries in the same order.
        resamples: number of resamples.
        seed: seed of numpy's default generator; the same seed gives the same interval.

    Returns:
        Mean, low end and high end, each float64 [] or [metrics].

    Raises:
        ValueError: the shapes differ or there is no query.
    """
    if candidate.shape != reference.shape or not len(candidate):
        shapes = f"{candidate.shape} and {reference.shape}"
        raise ValueError(f"paired values need one shape with at least one query, not {shapes}")
    differences = candidate - reference
    queries = len(differences)
    generator = np.random.default_rng(seed)
    shares = np.full(queries, 1 / queries)
    # How often each query is drawn says all about a resample, and makes a block of resamples one matrix product, which
    # only floats take to the BLAS.
    block = max(1, 4_000_000 // queries)
    means = np.concatenate(
        [
            generator.multinomial(queries, shares, size=min(block, resamples - start)).astype(np.float64) @ differences / queries
            for start in range(0, resamples, block)
        ]
    )
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, (tail, 1 - tail), axis=0)
    return differences.mean(axis=0), low, high
