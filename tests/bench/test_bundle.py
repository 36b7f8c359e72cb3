"""The grid of variants and providers, and a whole measurement of the small bundle."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from jobonnx import JobonnxError
from jobonnx.data.titles import read_titles
from jobonnx.runtime.providers import PROVIDERS
from jobonnx_bench import Sizes
from jobonnx_bench.bundle import Effort, grid, measure
from jobonnx_export.pipeline import VARIANTS

TINY = Effort(1, Sizes(bulk=48, repeated=16, singles=4, groups8=2, groups32=1), (8, 64))
CRASHES = """
import os
def load(folder, **options):
    print("no room", flush=True)
    os._exit(7)
"""


def test_every_variant_on_every_provider_has_a_row(bundle: Path) -> None:
    systems = grid(str(bundle))
    assert len({system.name for system in systems}) == len(systems) == 5 * len(PROVIDERS)
    reasons = {(s.options["variant"], s.options["provider"]): s.absent for s in systems}
    assert reasons["fp32", "cpu"] is None
    assert reasons["fp16", "cpu"] == "the bundle has no fp16 graph for cpu"
    for variant in VARIANTS:
        assert 'pip install "jobonnx[gpu]"' in (reasons[variant, "tensorrt"] or "")


def test_what_is_asked_for_is_what_is_measured(bundle: Path) -> None:
    systems = grid(str(bundle), ["int8"], ["cpu", "cuda"])
    assert [system.name for system in systems] == ["jobonnx-int8-cpu", "jobonnx-int8-cuda"]
    with pytest.raises(JobonnxError, match=r"provider 'warp' is unknown; it is one of cpu, openvino"):
        grid(str(bundle), [], ["warp"])
    with pytest.raises(JobonnxError, match=r"no variant 'int3' \(it has fp32"):
        grid(str(bundle), ["int3"])


def test_measured_absent_and_crashed_cells_are_rows(bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    adapter = tmp_path / "crashes.py"
    adapter.write_text(CRASHES)
    fp32, int8, absent = (grid(str(bundle), [v], [p])[0] for v, p in (("fp32", "cpu"), ("int8", "cpu"), ("fp32", "directml")))
    lines: list[str] = []
    report = measure(str(bundle), [fp32, replace(int8, adapter=adapter), absent], read_titles(), TINY, lines.append)
    a, b, c = report.cells
    assert [cell.status for cell in report.cells] == ["measured", "failed", "absent"]
    assert b.reason is not None
    assert "ended with status 7 during 'load'; its last words: no room" in b.reason
    assert c.reason is not None
    assert "pip install onnxruntime-directml" in c.reason
    assert [cell.asked["variant"] for cell in report.cells] == ["fp32", "int8", "fp32"]
    assert a.parity is not None
    assert a.parity["min_cosine"] > 0.999999  # against PyTorch's vectors, which the bundle carries
    assert report.bundle is not None
    assert a.parity["texts"] == report.bundle.parity_texts
    assert [batch.tokens <= size for batch, size in zip(a.sweep, TINY.sweep, strict=True)] == [True, True]
    assert report.workload["sweep"] == [[batch.titles, batch.tokens] for batch in a.sweep]
    assert report.limits is not None
    assert {"fp32", "int8"} <= report.limits["gemm"].keys()
    assert report.environment.versions["numpy"]
    assert any(line.startswith("sweep over batch sizes: jobonnx-fp32-cpu") for line in lines)
    if os.path.exists("/proc/self/status"):
        assert a.peak_bytes is not None
