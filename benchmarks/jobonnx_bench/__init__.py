"""Measuring systems against each other, each in a process of its own.

worker.py is the process, runner.py drives many of them, workload.py draws the titles, gemm.py is what the machine can do, result.py
is what comes out. bundle.py puts them together for one bundle; advice.py, difference.py, table.py, plot.py and page.py make of a
result what `jobonnx bench` writes.
"""

from jobonnx_bench.environment import Environment, record
from jobonnx_bench.result import (
    Batch,
    BundleFacts,
    Cell,
    Report,
    Round,
    Shape,
    Summary,
    Timing,
    bulk_ratio,
    gemm_rate,
    one_ratio,
    summarise,
    timing,
)
from jobonnx_bench.runner import System, Truth, WorkerLost, build, bundle_systems, run
from jobonnx_bench.workload import Sizes, Workload, draw

__all__ = [
    "Batch",
    "BundleFacts",
    "Cell",
    "Environment",
    "Report",
    "Round",
    "Shape",
    "Sizes",
    "Summary",
    "System",
    "Timing",
    "Truth",
    "WorkerLost",
    "Workload",
    "build",
    "bulk_ratio",
    "bundle_systems",
    "draw",
    "gemm_rate",
    "one_ratio",
    "record",
    "run",
    "summarise",
    "timing",
]
