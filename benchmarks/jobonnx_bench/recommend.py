"""Which variant on which provider, from a report alone."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from jobonnx.bundle.manifest import Parity
from jobonnx.parity import measure
from jobonnx_bench.figures import BULK, MEMORY, ONE, Metric
from jobonnx_bench.report import Recommendation, Report, SystemResult
from jobonnx_bench.workload import WorkloadSummary

_USES = (("single requests", ONE, "the time"), ("bulk", BULK, "the rate"), ("least memory", MEMORY, "the memory"))
_UNKNOWN = Parity(0, *[None] * 8)
_MOST_NOISE = 0.1  # a figure further from the best is no tie, however noisy the machine was


def recommend(report: Report) -> tuple[Recommendation, ...]:
    """Find the best system for each use.

    Only systems count that were measured to the end and are within their variant's tolerances against PyTorch fp32 (see
    jobonnx.parity.measure). Among those whose figure is within the noise of the best one (see figures.py), but never more than 10%
    from it, the most exact is taken, by mean centred cosine.

    Returns:
        One recommendation per use; empty if no system can be recommended.
    """
    candidates = [result for result in report.systems if can_be_recommended(result)]
    found = (_best(use, metric, noun, candidates, report.workload) for use, metric, noun in _USES)
    return tuple(recommendation for recommendation in found if recommendation)


def can_be_recommended(result: SystemResult) -> bool:
    """Tell whether a system is ours, was measured to the end, and is as exact as its variant has to be."""
    return result.family == "jobonnx" and result.status == "measured" and not tolerance_violations(result)


def tolerance_violations(result: SystemResult) -> list[str]:
    """List what a system misses of its variant's tolerances, one phrase each; a variant without tolerances misses them all."""
    if result.parity is None and result.variant in measure.TOLERANCES:
        return ["its distance from PyTorch was not measured"]
    return measure.tolerance_violations(result.variant, result.parity or _UNKNOWN)


def _best(
    use: str, metric: Metric, noun: str, candidates: Sequence[SystemResult], workload: WorkloadSummary
) -> Recommendation | None:
    figures = {r.name: statistics.median(values) for r in candidates if (values := metric.values(r, workload))}
    ranked = sorted((r for r in candidates if r.name in figures), key=lambda r: figures[r.name], reverse=metric.more_is_better)
    if not ranked:
        return None
    best = ranked[0]
    close = [r for r in ranked if abs(figures[r.name] / figures[best.name] - 1) <= _noise(metric, best, r, workload)]
    chosen = max(close, key=_exactness)  # the first among equals, which has the better figure
    others = [r for r in ranked if r is not chosen]
    value = figures[chosen.name]
    if not others:
        why = "the only one that was measured and is within its tolerances"
    elif chosen is not best:
        why = f"as good as {_name(best)} ({_number(figures[best.name])} {metric.unit}) within the noise, and more exact"
    else:
        second = figures[others[0].name]
        comparison = f"{value / second:.3g} times" if metric.more_is_better else f"{value / second:.0%} of"
        why = f"{comparison} {noun} of {_name(others[0])}, the next best ({_number(second)} {metric.unit})"
    return Recommendation(
        use=use,
        variant=chosen.variant,
        provider=chosen.provider,
        figure=f"{_number(value)} {metric.unit}",
        why=f"{why}; {_parity(chosen)}.",
    )


def _noise(metric: Metric, a: SystemResult, b: SystemResult, workload: WorkloadSummary) -> float:
    return min(_MOST_NOISE, max(metric.noise(result, workload) for result in (a, b)))


def _exactness(result: SystemResult) -> float:
    return (result.parity and result.parity.mean_centred) or 0.0


def _name(result: SystemResult) -> str:
    return f"{result.variant} on {result.provider}"


def _parity(result: SystemResult) -> str:
    p = result.parity or _UNKNOWN
    cosine = "unknown" if p.mean_centred is None else f"{p.mean_centred:.4f}"
    kept = "an unknown share" if p.top10_overlap is None else f"{p.top10_overlap:.0%}"
    return f"mean centred cosine {cosine} to PyTorch fp32, {kept} of the ten nearest kept"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
