"""benchmarks/limits.py: runs by its path where jobonnx is not installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobonnx_bench.gemm import Product
from jobonnx_bench.report import Reading

pytestmark = pytest.mark.medium

LIMITS = Path(__file__).parents[2] / "benchmarks" / "limits.py"
SMALL = ["--hidden", "8", "--intermediate", "16", "--layers", "1", "--threads", "1", "--large", "65536"]


def test_it_measures_without_jobonnx(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['jobonnx'] = None")
    command = [sys.executable, str(LIMITS), *SMALL, "--engines", "torch", "read"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    products = [Product(**line["product"]) for line in lines if "product" in line]
    readings = [Reading(**line["reading"]) for line in lines if "reading" in line]
    assert {p.dtype for p in products} == {"fp32", "bf16", "fp16", "int8"}
    assert all(p.seconds for p in products if p.dtype == "fp32")
    assert {p.missing for p in products if p.dtype == "int8"} in ({None}, {"int8 products overflow on this CPU"})
    assert [r.bytes for r in readings] == [512, 1024, 2048, 65536]
