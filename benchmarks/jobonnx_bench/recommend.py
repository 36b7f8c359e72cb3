"""Which variant on which provider, from a report alone."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from jobonnx.bundle.manifest import Parity
from jobonnx.parity.measure import TOLERANCES, tolerance_violations
from jobonnx_bench.metric import BULK, MEMORY, ONE, Metric
from jobonnx_bench.result import Cell, Report

_USES = (("single requests", ONE, "the time"), ("bulk", BULK, "the rate"), ("least memory", MEMORY, "the memory"))
_CLOSE = 0.1  # a figure further from the best is no tie


@dataclass(frozen=True)
class Recommendation:
    """What to take for one use, and why."""

    use: str  # "single requests", "bulk" or "least memory"
    variant: str
    provider: str
    figure: str  # with its unit
    why: str  # a sentence


def recommend(report: Report) -> tuple[Recommendation, ...]:
    """The best cell for each use; empty if none can be recommended.

    Only cells count that were measured to the end and pass their variant's tolerance (`TOLERANCES`) against PyTorch
    fp32. Among those whose figure is within the noise of the best one (see metric.py), and within a tenth of it however loud the
    machine was, the most exact is taken, by mean centred cosine.
    """
    fit = [cell for cell in report.cells if is_fit(cell)]
    found = (_best(use, metric, noun, fit, report) for use, metric, noun in _USES)
    return tuple(recommendation for recommendation in found if recommendation)


def is_fit(cell: Cell) -> bool:
    """Whether a cell is ours, was measured to the end, and is as exact as its variant has to be."""
    return cell.family == "jobonnx" and cell.status == "measured" and not shortcomings(cell)


def shortcomings(cell: Cell) -> list[str]:
    """What of its variant's tolerance a cell misses, a phrase each; a variant without tolerance, or without parity, misses all."""
    variant = variant_of(cell)
    if variant not in TOLERANCES:
        return [f"no tolerance is known for variant {variant!r}"]
    if cell.parity is None:
        return ["its distance from PyTorch was not measured"]
    return tolerance_violations(variant, Parity(**cell.parity))


def variant_of(cell: Cell) -> str:
    """The variant asked for; the name of a system that is not ours."""
    return cell.asked.get("variant", cell.name)


def provider_of(cell: Cell) -> str:
    """The provider asked for."""
    return cell.asked.get("provider", "")


def _best(use: str, metric: Metric, noun: str, cells: list[Cell], report: Report) -> Recommendation | None:
    w = report.workload
    figures = {cell.name: statistics.median(values) for cell in cells if (values := metric.values(cell, w))}
    ranked = sorted((c for c in cells if c.name in figures), key=lambda c: figures[c.name], reverse=metric.more_is_better)
    if not ranked:
        return None
    first = ranked[0]
    close = [cell for cell in ranked if _share(figures[first.name], figures[cell.name]) <= _noise(metric, first, cell, report)]
    chosen = max(close, key=lambda cell: (cell.parity or {}).get("mean_centred") or 0.0)  # the first of equals: the better one
    value = figures[chosen.name]
    others = [cell for cell in ranked if cell is not chosen]
    if not others:
        why = "the only one that was measured and passes its tolerance"
    elif chosen is not first:
        why = f"as good as {_named(first)} ({_number(figures[first.name])} {metric.unit}) within the noise, and more exact"
    else:
        against = figures[others[0].name]
        comparison = f"{value / against:.3g} times" if metric.more_is_better else f"{value / against:.0%} of"
        why = f"{comparison} {noun} of {_named(others[0])}, the next best ({_number(against)} {metric.unit})"
    why = f"{why}; {_exactness(chosen)}"
    return Recommendation(use, variant_of(chosen), provider_of(chosen), f"{_number(value)} {metric.unit}", f"{why}.")


def _share(a: float, b: float) -> float:
    return abs(b / a - 1)


def _noise(metric: Metric, a: Cell, b: Cell, report: Report) -> float:
    return min(_CLOSE, max(metric.noise(cell, report.workload) for cell in (a, b)))


def _named(cell: Cell) -> str:
    return f"{variant_of(cell)} on {provider_of(cell)}"


def _exactness(cell: Cell) -> str:
    p = cell.parity or {}
    return f"mean centred cosine {p['mean_centred']:.4f} to PyTorch fp32, {p['top10_overlap']:.0%} of the ten nearest kept"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
