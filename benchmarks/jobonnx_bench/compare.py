"""Two reports held against each other: what changed, and which changes are more than noise (the rule is in metric.py)."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from jobonnx_bench.environment import Environment
from jobonnx_bench.gemm import ENGINE
from jobonnx_bench.metric import METRICS, Metric
from jobonnx_bench.result import Cell, Report

_RATE = 0.1  # a quiet machine repeats its best rate of matrix products within this share


@dataclass(frozen=True)
class Change:
    """One figure of one cell, before and after."""

    cell: str
    metric: str
    unit: str
    before: float  # median over rounds
    after: float
    change: float  # (after - before) / before
    noise: float  # the larger spread of the two, as a share
    verdict: str  # "better", "worse", or "within noise"


@dataclass(frozen=True)
class Difference:
    """All changes, what makes the two reports hard to compare, and the cells that only one of them has."""

    changes: tuple[Change, ...]
    warnings: tuple[str, ...]
    cells: tuple[str, ...]  # a sentence for each cell that was measured in one report only


def difference(before: Report, after: Report) -> Difference:
    """Compare two reports cell by cell and figure by figure."""
    old, new = ({cell.name: cell for cell in report.cells} for report in (before, after))
    changes: list[Change] = []
    sentences: list[str] = []
    for name in dict.fromkeys([*old, *new]):
        a, b = old.get(name), new.get(name)
        if a and b and a.rounds and b.rounds:
            found = (_change(metric, a, b, before, after) for metric in METRICS)
            changes.extend(change for change in found if change)
        if (a and _standing(a)) != (b and _standing(b)):
            sentences.append(f"{name}: {_standing(a) if a else 'not in A'} before, {_standing(b) if b else 'not in B'} after")
    return Difference(tuple(changes), tuple(_warnings(before, after)), tuple(sentences))


def _change(metric: Metric, a: Cell, b: Cell, before: Report, after: Report) -> Change | None:
    old, new = metric.values(a, before.workload), metric.values(b, after.workload)
    if not old or not new or statistics.median(old) == 0:
        return None
    x, y = statistics.median(old), statistics.median(new)
    change = (y - x) / abs(x)
    noise = max(metric.noise(a, before.workload), metric.noise(b, after.workload))
    verdict = "within noise" if abs(change) <= noise else "better" if (change > 0) == metric.more_is_better else "worse"
    return Change(a.name, metric.name, metric.unit, x, y, change, noise, verdict)


def _standing(cell: Cell) -> str:
    return cell.status if not cell.reason else f"{cell.status} ({cell.reason})"


def _warnings(before: Report, after: Report) -> list[str]:
    """What differs besides the code; each makes a change mean less."""
    found = []
    a, b = before.environment, after.environment
    for what, x, y in _machine(a, b):
        if x != y:
            found.append(f"the machines differ in {what}: {x} before, {y} after")
    for dtype in ("fp32", "int8"):
        rates = [_own_rate(report, dtype) for report in (before, after)]
        if rates[0] and rates[1] and abs(rates[1] / rates[0] - 1) > _RATE:
            found.append(
                f"the machine itself went at {rates[1] / rates[0]:.0%} of its {dtype} matrix-product rate before: "
                "it was busy or throttled in one of the runs"
            )
    for package in sorted({*a.versions, *b.versions} - {"jobonnx"}):
        x, y = a.versions.get(package, "none"), b.versions.get(package, "none")
        if x != y:
            found.append(f"{package} differs: {x} before, {y} after")
    if before.workload.get("sha256") != after.workload.get("sha256"):
        found.append("the workloads differ: other titles, or another number of them")
    if before.shape != after.shape:
        found.append("the models differ in size")
    if before.bundle and after.bundle:
        old, new = before.bundle.fingerprints, after.bundle.fingerprints
        changed = [variant for variant in old if variant in new and old[variant] != new[variant]]
        if changed:
            found.append(f"the vectors differ: another fingerprint of {', '.join(changed)}")
    return found


def _own_rate(report: Report, dtype: str) -> float | None:
    """Of ONNX Runtime's CPU provider, which every report has: another engine in one of them is no change of the machine."""
    by_rows = (report.limits or {}).get("gemm", {}).get(dtype, {})
    return max((best["rates"][ENGINE] for best in by_rows.values() if ENGINE in best["rates"]), default=None)


def _machine(a: Environment, b: Environment) -> list[tuple[str, object, object]]:
    def features(e: Environment) -> str:
        return ", ".join(name for name, there in e.features.items() if there) or "none"

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
