"""The figures of a cell that two reports can be held against each other by, each with its values round by round.

The rule of noise: a figure's spread is its largest less its smallest value over the rounds, over their median, and no less than the
figure's floor. A difference counts if it is larger than the spread on either side. A figure that a process has only once (loading,
memory, parity) has no rounds, and the floor alone decides: 30% for times of loading, 5% for memory, a thousandth for parity.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jobonnx_bench.result import Cell, Round


@dataclass(frozen=True)
class Metric:
    """A figure: its name and unit, which way is better, its least noise (a share), its values in a cell (or none)."""

    name: str
    unit: str
    more_is_better: bool
    floor: float
    values: Callable[[Cell, dict[str, Any]], Sequence[float]]

    def noise(self, cell: Cell, workload: dict[str, Any]) -> float:
        """The spread over rounds as a share of the median, and at least the floor."""
        values = self.values(cell, workload)
        return max(self.floor, (max(values) - min(values)) / abs(statistics.median(values)) if values else 0.0)


def _rounds(value: Callable[[Round, dict[str, Any]], float]) -> Callable[[Cell, dict[str, Any]], Sequence[float]]:
    return lambda cell, workload: [value(r, workload) for r in cell.rounds]


def _milliseconds(calls: str, percentile: float) -> Callable[[Cell, dict[str, Any]], Sequence[float]]:
    return lambda cell, _: [1000 * float(np.percentile(getattr(r, calls), percentile)) for r in cell.rounds]


def _parity(field: str) -> Callable[[Cell, dict[str, Any]], Sequence[float]]:
    def values(cell: Cell, _: dict[str, Any]) -> Sequence[float]:
        value = (cell.parity or {}).get(field)
        return () if value is None else (value,)

    return values


BULK = Metric("bulk", "titles/s", True, 0.02, _rounds(lambda r, w: w["titles"] / r.bulk))
ONE = Metric("one title, p50", "ms", False, 0.02, _milliseconds("one", 50))
MEMORY = Metric("peak memory", "MB", False, 0.05, lambda cell, _: (cell.peak_bytes / 1e6,) if cell.peak_bytes else ())
METRICS = (
    BULK,
    ONE,
    Metric("one title, p95", "ms", False, 0.02, _milliseconds("one", 95)),
    Metric("8 titles, p50", "ms", False, 0.02, _milliseconds("eight", 50)),
    Metric("32 titles, p50", "ms", False, 0.02, _milliseconds("thirty_two", 50)),
    Metric("CPU per 1,000 titles", "s", False, 0.02, _rounds(lambda r, w: 1000 * r.bulk_cpu / w["titles"])),
    Metric("load", "s", False, 0.3, lambda cell, _: cell.loads),
    Metric("first call", "ms", False, 0.3, lambda cell, _: [1000 * seconds for seconds in cell.first_calls]),
    MEMORY,
    Metric("peak GPU memory", "MB", False, 0.05, lambda cell, _: (cell.gpu_peak_bytes / 1e6,) if cell.gpu_peak_bytes else ()),
    Metric("mean centred cosine", "", True, 0.001, _parity("mean_centred")),
    Metric("top-10 overlap", "", True, 0.001, _parity("top10_overlap")),
)
