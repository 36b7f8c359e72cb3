"""Compare two reports: what changed, and which changes are more than noise (the rule stands in figures.py)."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from jobonnx_bench.environment import Environment
from jobonnx_bench.figures import METRICS, Metric
from jobonnx_bench.gemm import ENGINE
from jobonnx_bench.report import Report, SystemResult

_RATE_NOISE = 0.1  # a quiet machine repeats its best rate of matrix products within this share


@dataclass(frozen=True)
class Change:
    """One figure of one system, before and after."""

    system: str
    metric: str
    unit: str
    before: float  # median over rounds
    after: float
    change: float  # (after - before) / before
    noise: float  # the larger spread of the two, as a share
    verdict: Literal["better", "worse", "within noise"]


@dataclass(frozen=True)
class Comparison:
    """All changes, what makes the two reports hard to compare, and the systems that were measured in one of them only."""

    changes: tuple[Change, ...]
    warnings: tuple[str, ...]
    systems: tuple[str, ...]  # one sentence per system that fares otherwise than before


def compare(before: Report, after: Report) -> Comparison:
    """Compare two reports system by system and figure by figure."""
    old, new = ({result.name: result for result in report.systems} for report in (before, after))
    changes: list[Change] = []
    sentences: list[str] = []
    for name in dict.fromkeys([*old, *new]):
        a, b = old.get(name), new.get(name)
        if a and b and a.rounds and b.rounds:
            changes += [change for metric in METRICS if (change := _change(metric, a, b, before, after))]
        if _status(a) != _status(b):
            sentences.append(f"{name}: {_status(a) or 'not in A'} before, {_status(b) or 'not in B'} after")
    return Comparison(tuple(changes), tuple(_warnings(before, after)), tuple(sentences))


def _change(metric: Metric, a: SystemResult, b: SystemResult, before: Report, after: Report) -> Change | None:
    old, new = metric.values(a, before.workload), metric.values(b, after.workload)
    if not old or not new or statistics.median(old) == 0:
        return None
    x, y = statistics.median(old), statistics.median(new)
    change = (y - x) / abs(x)
    noise = max(metric.noise(a, before.workload), metric.noise(b, after.workload))
    verdict: Literal["better", "worse", "within noise"] = "better" if (change > 0) == metric.more_is_better else "worse"
    return Change(a.name, metric.name, metric.unit, x, y, change, noise, "within noise" if abs(change) <= noise else verdict)


def _status(result: SystemResult | None) -> str | None:
    if result is None:
        return None
    return f"{result.status} ({result.reason})" if result.reason else result.status


def _warnings(before: Report, after: Report) -> Iterator[str]:
    """Say what differs besides the code; each makes a change mean less."""
    for what, x, y in _machine(before.environment, after.environment):
        if x != y:
            yield f"the machines differ in {what}: {x} before, {y} after"
    for dtype in ("fp32", "int8"):
        old, new = (_engine_rate(report, dtype) for report in (before, after))
        if old and new and abs(new / old - 1) > _RATE_NOISE:
            share = f"{new / old:.0%} of its {dtype} matrix-product rate"
            yield f"the machine itself went at {share} before: it was busy or throttled in one of the runs"
    yield from _other_packages(before.environment, after.environment)
    if before.workload.sha256 != after.workload.sha256:
        yield "the workloads differ: other titles, or another number of them"
    if before.shape != after.shape:
        yield "the models differ in size"
    if before.bundle and after.bundle:
        prints = before.bundle.fingerprints, after.bundle.fingerprints
        changed = [variant for variant in prints[0] if variant in prints[1] and prints[0][variant] != prints[1][variant]]
        if changed:
            yield f"the vectors differ: another fingerprint of {', '.join(changed)}"


def _other_packages(a: Environment, b: Environment) -> Iterator[str]:
    for package in sorted({*a.versions, *b.versions} - {"jobonnx"}):
        x, y = (environment.versions.get(package, "none") for environment in (a, b))
        if x != y:
            yield f"{package} differs: {x} before, {y} after"


def _engine_rate(report: Report, dtype: str) -> float | None:
    """ONNX Runtime's own rate on the CPU, which every report has: another engine in one of them is no change of the machine."""
    rates = report.limits.rates if report.limits else ()
    return max((rate.operations_per_second for rate in rates if (rate.engine, rate.dtype) == (ENGINE, dtype)), default=None)


def _machine(a: Environment, b: Environment) -> list[tuple[str, object, object]]:
    def features(e: Environment) -> str:
        return ", ".join(name for name, present in e.features.items() if present) or "none"

    return [
        ("processor", a.cpu, b.cpu),
        ("processor features", features(a), features(b)),
        ("threads", a.threads, b.threads),
        ("CPU quota", a.cpu_quota, b.cpu_quota),
        ("memory limit", a.memory_limit, b.memory_limit),
        ("memory", _gib(a.memory_bytes), _gib(b.memory_bytes)),
        ("GPU", ", ".join(a.gpus) or "none", ", ".join(b.gpus) or "none"),
        ("system", a.system, b.system),
    ]


def _gib(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 2**30:.0f} GiB"
