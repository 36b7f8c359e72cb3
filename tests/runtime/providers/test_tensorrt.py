"""What TensorRT is told: shapes that hold every bucket, and an engine folder that two models never share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobonnx.bundle.manifest import Model
from jobonnx.runtime.providers.shape_buckets import bucket
from jobonnx.runtime.providers.tensorrt import engine_options, largest_shape

MODEL = Model("m", None, 128, 512, 1000, 1, "cls", True, {}, None, "t" * 64, "k" * 64, "kept")


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "graph.onnx"
    path.write_bytes(b"graph")
    return path


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_options_are_exactly_these(graph: Path, tmp_path: Path) -> None:
    options = engine_options(graph, MODEL, "1.31.1")
    (folder,) = (tmp_path / "cache" / "jobonnx" / "tensorrt").iterdir()
    assert folder.stat().st_mode & 0o077 == 0
    assert options == {
        "trt_fp16_enable": "True",
        "trt_layer_norm_fp32_fallback": "True",
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(folder),
        "trt_profile_min_shapes": "input_ids:1x2,attention_mask:1x2",
        "trt_profile_opt_shapes": "input_ids:128x8,attention_mask:128x8",
        "trt_profile_max_shapes": "input_ids:256x512,attention_mask:256x512",
    }


@pytest.mark.parametrize("max_tokens", [1, 2, 7, 96, 500, 512, 8192, 1 << 18])
def test_every_bucket_lies_within_the_profile(max_tokens: int, graph: Path) -> None:
    rows, length = largest_shape(max_tokens)
    assert bucket(rows, length) == (rows, length)
    assert rows * length <= 1 << 17 or rows == 1
    lengths = {bucket(1, n)[1] for n in range(1, max_tokens + 1)}
    options = engine_options(graph, replace(MODEL, max_tokens=max_tokens), "1")
    shapes = [options[f"trt_profile_{name}_shapes"].split(",")[0].split(":")[1].split("x") for name in ("min", "opt", "max")]
    for low, usual, high, (least, most) in zip(*shapes, [(1, rows), (min(lengths), max(lengths))], strict=True):
        assert int(low) <= least <= most <= int(high)
        assert int(low) <= int(usual) <= int(high)


def test_another_graph_model_or_version_has_another_folder(graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def folder(**changes: Any) -> str:
        return engine_options(graph, replace(MODEL, **changes), "1.31.1")["trt_engine_cache_path"]

    first = folder()
    assert folder() == first
    others = [folder(tensors_sha256="u" * 64), folder(max_tokens=96), engine_options(graph, MODEL, "1.32")["trt_engine_cache_path"]]
    monkeypatch.setattr("importlib.metadata.version", lambda package: "10.16")
    others.append(folder())
    graph.write_bytes(b"another graph")
    others.append(folder())
    assert len({first, *others}) == 6


def test_a_user_without_a_home_compiles_each_time_and_is_told(
    graph: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    options = engine_options(graph, MODEL, "1")
    assert "TensorRT compiles anew in each process (Could not determine home directory.); set XDG_CACHE_HOME" in caplog.text
    assert not any("cache" in name for name in options)


def test_a_cache_that_cannot_be_written_does_not_crash(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "trt_engine_cache_path" not in engine_options(graph, MODEL, "1")
    assert "compiles anew" in caplog.text
