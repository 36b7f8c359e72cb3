"""The variants and providers of a bundle, and a complete measurement of the small one."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from jobonnx import JobonnxError
from jobonnx.data.titles import read_titles
from jobonnx.runtime.providers import PROVIDERS
from jobonnx_bench.bundle import Effort, measure, read_shape, select_systems
from jobonnx_bench.report import Shape
from jobonnx_bench.workload import Sizes
from jobonnx_export.pipeline import VARIANTS

TINY = Effort(1, Sizes(bulk=48, repeated=16, singles=4, groups8=2, groups32=1), (8, 64))
CRASHES = """
import os
def load(folder, **options):
    print("no room", flush=True)
    os._exit(7)
"""


def test_every_variant_on_every_provider_has_a_row(bundle: Path) -> None:
    systems = select_systems(str(bundle))
    assert len({system.name for system in systems}) == len(systems) == 5 * len(PROVIDERS)
    reasons = {(s.options["variant"], s.options["provider"]): s.absent for s in systems}
    assert reasons["fp32", "cpu"] is None
    assert reasons["fp16", "cpu"] == "the bundle has no fp16 graph for cpu"
    for variant in VARIANTS:
        assert 'pip install "jobonnx[gpu]"' in (reasons[variant, "tensorrt"] or "")
        assert "nobody has run this provider with jobonnx yet" in (reasons[variant, "directml"] or "")


def test_what_is_asked_for_is_what_is_measured(bundle: Path) -> None:
    systems = select_systems(str(bundle), ["int8"], ["cpu", "cuda"])
    assert [system.name for system in systems] == ["jobonnx-int8-cpu", "jobonnx-int8-cuda"]
    with pytest.raises(JobonnxError, match=r"provider 'warp' is unknown; it is one of cpu, openvino"):
        select_systems(str(bundle), [], ["warp"])
    with pytest.raises(JobonnxError, match=r"no variant 'int3' \(it has fp32"):
        select_systems(str(bundle), ["int3"])


def test_measured_absent_and_crashed_systems_are_rows(bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    adapter = tmp_path / "crashes.py"
    adapter.write_text(CRASHES)
    fp32, int8, absent = (
        select_systems(str(bundle), [v], [p])[0] for v, p in (("fp32", "cpu"), ("int8", "cpu"), ("fp32", "directml"))
    )
    lines: list[str] = []
    report = measure(str(bundle), [fp32, replace(int8, adapter=adapter), absent], read_titles(), TINY, lines.append)
    a, b, c = report.systems
    assert [result.status for result in report.systems] == ["measured", "failed", "absent"]
    assert b.reason is not None
    assert "ended with status 7 during 'load'; the last line of its output: no room" in b.reason
    assert c.reason is not None
    assert "pip install onnxruntime-directml" in c.reason
    assert [result.variant for result in report.systems] == ["fp32", "int8", "fp32"]
    assert a.parity is not None
    assert a.parity.min_cosine is not None
    assert a.parity.min_cosine > 0.999999  # against PyTorch's vectors, which the bundle carries
    assert report.bundle is not None
    assert a.parity.texts == report.bundle.parity_texts
    assert [batch.tokens <= size for batch, size in zip(a.sweep, TINY.sweep, strict=True)] == [True, True]
    assert report.workload.sweep == tuple((batch.titles, batch.tokens) for batch in a.sweep)
    assert report.limits is not None
    assert {("onnxruntime", "cpu", "fp32"), ("onnxruntime", "cpu", "int8")} == {
        (r.engine, r.device, r.dtype) for r in report.limits.rates
    }
    assert report.environment.versions["numpy"]
    assert any(line.startswith("sweep over batch sizes: jobonnx-fp32-cpu") for line in lines)
    if os.path.exists("/proc/self/status"):
        assert a.peak_bytes is not None


def test_a_provider_asked_for_twice_is_measured_once(bundle: Path) -> None:
    assert [s.name for s in select_systems(str(bundle), ["int8", "int8"], ["cpu", "cpu"])] == ["jobonnx-int8-cpu"]


def test_the_shape_is_read_from_the_config(bundle: Path, tmp_path: Path) -> None:
    assert isinstance(read_shape(bundle), Shape)
    path = tmp_path / "config.json"
    for content in ("{}", '{"num_hidden_layers": 2, "hidden_size": 4, "intermediate_size": "16"}', "[1]", "[" * 100_000):
        path.write_text(content)
        with pytest.raises(JobonnxError, match=r"config\.json.*export the bundle again"):
            read_shape(tmp_path)
