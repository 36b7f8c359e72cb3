"""The figures of a report: summaries, ratios between systems, and what two reports are compared by.

The rule of noise: a figure's spread is its largest less its smallest value over the rounds, divided by their median, and no less
than the figure's floor. A difference counts if it is larger than the spread on either side. A figure that a process has only once
(loading, memory, parity) has no rounds, so the floor alone decides: 30% for times of loading, 5% for memory, 0.1% for parity.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from jobonnx.bundle.manifest import Parity
from jobonnx_bench.report import Details, Limits, Round, Shape, Summary, SystemResult, Timing
from jobonnx_bench.workload import WorkloadSummary

Values = Callable[[SystemResult, WorkloadSummary], Sequence[float]]


def summarise(result: SystemResult, shape: Shape, workload: WorkloadSummary) -> Summary | None:
    """Compute a system's figures; None if it finished no round."""
    rounds = result.rounds
    if not rounds:
        return None
    bulk = statistics.median(r.bulk for r in rounds)
    computed = rounds[0].bulk_computed_tokens
    last_rows = workload.titles if result.details.last_layer_rows == "titles" else None
    tokenize = [r.tokenize for r in rounds if r.tokenize is not None]
    return Summary(
        titles_per_second=workload.titles / bulk,
        tokens_per_second=workload.tokens / bulk,
        repeated_titles_per_second=workload.repeated_titles / statistics.median(r.repeated for r in rounds),
        one=timing([r.one for r in rounds]),
        eight=timing([r.eight for r in rounds]),
        thirty_two=timing([r.thirty_two for r in rounds]),
        thirty_two_equal=timing([r.thirty_two_equal for r in rounds]),
        mixed_over_equal=statistics.median(_mixed_over_equal(r) for r in rounds),
        load=statistics.median(result.loads),
        first_call=statistics.median(result.first_calls),
        cpu_per_1000_titles=1000 * statistics.median(r.bulk_cpu for r in rounds) / workload.titles,
        tokenize_share=statistics.median(tokenize) / bulk if tokenize else None,
        operations_per_second=shape.operations(workload.tokens) / bulk,
        executed_per_second=shape.operations(workload.tokens if computed is None else computed, last_rows) / bulk,
    )


def timing(rounds: Sequence[Sequence[float]]) -> Timing:
    """Compute latency from the seconds of calls, by round. Percentiles are linear between the two nearest calls."""
    calls = [seconds for r in rounds for seconds in r]
    p95, p99 = np.percentile(calls, [95, 99])
    return Timing(statistics.median(statistics.median(r) for r in rounds), float(p95), float(p99), len(calls))


def bulk_ratio(result: SystemResult, other: SystemResult) -> float | None:
    """How many times as fast `result` is in bulk as `other`: the median of the ratios round by round; None if one has no rounds."""
    return _ratio_of_rounds(other.rounds, result.rounds, lambda r: r.bulk)


def one_ratio(result: SystemResult, other: SystemResult) -> float | None:
    """Time of one title in `result` over that in `other`: the median over rounds of the ratio of medians; None as above."""
    return _ratio_of_rounds(result.rounds, other.rounds, lambda r: statistics.median(r.one))


def gemm_rate(limits: Limits | None, details: Details) -> float | None:
    """Find the best rate of matrix products in a system's type on its device, in operations/s, of all engines and numbers of rows.

    Returns:
        The rate; None if it was not measured.
    """
    rates = limits.rates if limits else ()
    found = (r.operations_per_second for r in rates if (r.device, r.dtype) == (details.device, details.dtype))
    return max(found, default=None)


@dataclass(frozen=True)
class Metric:
    """A figure that two reports are compared by."""

    name: str
    unit: str
    more_is_better: bool
    floor: float  # the least noise, as a share
    values: Values  # of one system, round by round; empty if it was not measured

    def noise(self, result: SystemResult, workload: WorkloadSummary) -> float:
        """Compute the spread over rounds as a share of the median, and at least the floor."""
        values = self.values(result, workload)
        middle = abs(statistics.median(values)) if values else 0.0
        return max(self.floor, (max(values) - min(values)) / middle) if middle else self.floor


def _rounds(value: Callable[[Round, WorkloadSummary], float]) -> Values:
    return lambda result, workload: [value(r, workload) for r in result.rounds]


def _parity(value: Callable[[Parity], float | None]) -> Values:
    def values(result: SystemResult, _: WorkloadSummary) -> Sequence[float]:
        found = value(result.parity) if result.parity else None
        return () if found is None else (found,)

    return values


def _milliseconds(calls: Callable[[Round], Sequence[float]], percentile: float) -> Values:
    return lambda result, _: [1000 * float(np.percentile(calls(r), percentile)) for r in result.rounds]


BULK = Metric("bulk", "titles/s", True, 0.02, _rounds(lambda r, w: w.titles / r.bulk))
ONE = Metric("one title, p50", "ms", False, 0.02, _milliseconds(lambda r: r.one, 50))
MEMORY = Metric("peak memory", "MB", False, 0.05, lambda result, _: (result.peak_bytes / 1e6,) if result.peak_bytes else ())
METRICS = (
    BULK,
    ONE,
    Metric("one title, p95", "ms", False, 0.02, _milliseconds(lambda r: r.one, 95)),
    Metric("8 titles, p50", "ms", False, 0.02, _milliseconds(lambda r: r.eight, 50)),
    Metric("32 titles, p50", "ms", False, 0.02, _milliseconds(lambda r: r.thirty_two, 50)),
    Metric("CPU per 1,000 titles", "s", False, 0.02, _rounds(lambda r, w: 1000 * r.bulk_cpu / w.titles)),
    Metric("load", "s", False, 0.3, lambda result, _: result.loads),
    Metric("first call", "ms", False, 0.3, lambda result, _: [1000 * seconds for seconds in result.first_calls]),
    MEMORY,
    Metric("peak GPU memory", "MB", False, 0.05, lambda result, _: (result.gpu_peak_bytes / 1e6,) if result.gpu_peak_bytes else ()),
    Metric("mean centred cosine", "", True, 0.001, _parity(lambda p: p.mean_centred)),
    Metric("top-10 overlap", "", True, 0.001, _parity(lambda p: p.top10_overlap)),
)


def _mixed_over_equal(r: Round) -> float:
    return statistics.median(mixed / equal for mixed, equal in zip(r.thirty_two, r.thirty_two_equal, strict=True))


def _ratio_of_rounds(a: Iterable[Round], b: Iterable[Round], value: Callable[[Round], float]) -> float | None:
    # A system that failed has fewer rounds; those that both have are compared.
    ratios = [value(x) / value(y) for x, y in zip(a, b, strict=False)]
    return statistics.median(ratios) if ratios else None
