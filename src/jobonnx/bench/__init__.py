"""Measuring systems against each other, each in a process of its own.

worker.py is the process, runner.py drives many of them, workload.py draws the titles, result.py is what comes out.
"""

from jobonnx.bench.environment import Environment, record
from jobonnx.bench.result import Cell, Report, Round, Shape, Summary, Timing, bulk_ratio, one_ratio, summarise, timing
from jobonnx.bench.runner import System, WorkerLost, build, bundle_systems, run
from jobonnx.bench.workload import Sizes, Workload, draw

__all__ = [
    "Cell",
    "Environment",
    "Report",
    "Round",
    "Shape",
    "Sizes",
    "Summary",
    "System",
    "Timing",
    "WorkerLost",
    "Workload",
    "build",
    "bulk_ratio",
    "bundle_systems",
    "draw",
    "one_ratio",
    "record",
    "run",
    "summarise",
    "timing",
]
