"""Reports made up for tests: results whose figures are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jobonnx.bundle.manifest import Parity
from jobonnx_bench.environment import Environment
from jobonnx_bench.gemm import ENGINE
from jobonnx_bench.report import Batch, BundleFacts, Details, Limits, Rate, Report, Requested, Round, Shape, SystemResult
from jobonnx_bench.workload import WorkloadSummary

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
WORKLOAD = WorkloadSummary(
    titles=100,
    tokens=700,
    longest=12,
    median_length=7,
    repeated_titles=40,
    repeated_distinct=10,
    singles=4,
    groups8=2,
    groups32=2,
    sweep=((1, 8), (10, 80)),
    sha256="0" * 64,
)
LIMITS = Limits(weights=1, rates=(Rate(ENGINE, "cpu", "fp32", 64, 1e9),), reading=(), missing=(), passes=())
EXACT = {"fp32": 1.0, "fp16": 0.99999, "int8": 0.995}


def round_of(bulk: float, one: float) -> Round:
    return Round(bulk, 2 * bulk, None, bulk / 4, (one,) * 4, (2 * one,) * 2, (4 * one,) * 2, (4 * one,) * 2, 0.001)


def parity_of(cosine: float) -> Parity:
    return Parity(50, cosine, cosine, cosine, cosine, 1e-6 if cosine == 1 else 1e-2, cosine, cosine, cosine)


def measured(
    variant: str, provider: str = "cpu", bulk: float = 1.0, one: float = 0.01, peak: int = 100_000_000, **changes: Any
) -> SystemResult:
    """Three rounds that differ by 1% at most: `bulk` and `one` in seconds, `peak` in bytes."""
    made = SystemResult(
        name=f"jobonnx-{variant}-{provider}",
        family="jobonnx",
        status="measured",
        reason=None,
        details=Details(dtype=variant, provider=provider, nodes_elsewhere=0),
        versions={},
        loads=(0.5,),
        first_calls=(0.02,),
        rounds=tuple(round_of(bulk * noise, one * noise) for noise in (1.0, 0.995, 1.005)),
        peak_bytes=peak,
        anonymous_peak_bytes=peak // 2,
        idle_cpu=0.0,
        parity=parity_of(EXACT.get(variant, 0.999)),
        batch_cosine=1.0,
        requested=Requested(variant, provider),
        sweep=(Batch(1, 8, (one,)), Batch(10, 80, (5 * one, 6 * one, 7 * one))),
    )
    return replace(made, **changes)


def peer(name: str, bulk: float = 1.0, one: float = 0.01) -> SystemResult:
    return measured("fp32", bulk=bulk, one=one, name=name, family="peer", requested=None, sweep=())


def absent(variant: str, provider: str, reason: str = "not here; pip install it") -> SystemResult:
    return measured(
        variant, provider, status="absent", reason=reason, details=Details(), rounds=(), parity=None, sweep=(), peak_bytes=None
    )


def report(*systems: SystemResult, **changes: Any) -> Report:
    facts = BundleFacts("a model", None, 4, "cls", 50, {"fp32": "f" * 64, "int8": "1" * 64})
    return replace(Report(ENVIRONMENT, Shape(2, 4, 16), WORKLOAD, systems, LIMITS, facts), **changes)
