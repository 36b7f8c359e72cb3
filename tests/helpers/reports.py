"""Reports made up for tests: cells whose figures are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jobonnx_bench import Batch, BundleFacts, Cell, Environment, Report, Round, Shape
from jobonnx_bench.gemm import ENGINE

ENVIRONMENT = Environment(
    date="2026-01-02T03:04:05+00:00",
    cpu="A Processor",
    features={"AVX2": True, "VNNI": False},
    logical_cores=4,
    threads=2,
    cpu_quota="max 100000",
    memory_limit="max",
    memory_bytes=8 << 30,
    load_average=0.1,
    system="Linux x86_64",
    python="3.11.7",
    git_revision="0" * 40,
    versions={"onnxruntime": "1.24.0"},
)
WORKLOAD = {"titles": 100, "tokens": 700, "repeated_titles": 40, "sha256": "0" * 64}
EXACT = {"fp32": 1.0, "fp16": 0.99999, "int8": 0.995}


def round_of(bulk: float, one: float) -> Round:
    return Round(bulk, 2 * bulk, None, bulk / 4, (one,) * 4, (2 * one,) * 2, (4 * one,) * 2, (4 * one,) * 2, 0.001)


def cell(
    variant: str, provider: str = "cpu", bulk: float = 1.0, one: float = 0.01, peak: int = 100_000_000, **changes: Any
) -> Cell:
    """Three rounds that differ by 1% at most: `bulk` and `one` in seconds, `peak` in bytes."""
    cosine = EXACT.get(variant, 0.999)
    parity = {"texts": 50, "max_abs": 1e-6 if cosine == 1 else 1e-2, "top10_overlap": cosine}
    parity |= dict.fromkeys(("min_cosine", "mean_cosine", "min_centred", "mean_centred"), cosine)
    made = Cell(
        name=f"jobonnx-{variant}-{provider}",
        family="jobonnx",
        status="measured",
        reason=None,
        details={"dtype": variant, "provider": provider, "nodes": {"CPUExecutionProvider": 7}},
        versions={},
        loads=(0.5,),
        first_calls=(0.02,),
        rounds=tuple(round_of(bulk * noise, one * noise) for noise in (1.0, 0.995, 1.005)),
        peak_bytes=peak,
        anonymous_peak_bytes=peak // 2,
        idle_cpu=0.0,
        parity=parity,
        batch_cosine=1.0,
        asked={"variant": variant, "provider": provider},
        sweep=(Batch(1, 8, (one,)), Batch(10, 80, (5 * one, 6 * one, 7 * one))),
    )
    return replace(made, **changes)


def absent(variant: str, provider: str, reason: str = "not here; pip install it") -> Cell:
    return cell(variant, provider, status="absent", reason=reason, details={}, rounds=(), parity=None, sweep=(), peak_bytes=None)


def report(*cells: Cell, **changes: Any) -> Report:
    gemm = {"fp32": {"64": {"rates": {ENGINE: 1e9}}}}
    limits = {"weights": 1, "gemm": gemm, "reading": [], "missing": [], "passes": []}
    facts = BundleFacts("a model", None, 4, "cls", 50, {"fp32": "f" * 64, "int8": "1" * 64})
    return replace(Report(ENVIRONMENT, Shape(2, 4, 16), WORKLOAD, cells, limits, facts), **changes)
