"""The onnxruntime module: one wheel, or a sentence."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from jobonnx import JobonnxError
from jobonnx.runtime.providers import wheel
from jobonnx.runtime.providers.wheel import import_onnxruntime


def wheels(monkeypatch: pytest.MonkeyPatch, site: Path, **installed: str) -> None:
    """Pretend that these wheels, and no others, are installed."""
    for package, version in installed.items():
        (site / f"{package}-{version}.dist-info").mkdir()
    (site / "onnxruntime_extensions-0.14.0.dist-info").mkdir()  # which is another module
    monkeypatch.setattr(sys, "path", [str(site / "absent"), str(site)])
    monkeypatch.setattr(wheel, "installed_wheels", wheel.installed_wheels.__wrapped__)


def test_the_installed_wheel_is_found_as_pip_knows_it() -> None:
    assert wheel.installed_wheels() == tuple(
        f"{found.metadata['Name']} {found.version}"
        for found in importlib.metadata.distributions()
        if found.metadata["Name"] in ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino")
    )


def test_the_first_one_on_the_path_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "later" / "onnxruntime-1.24.2.dist-info").mkdir(parents=True)
    wheels(monkeypatch, tmp_path, onnxruntime="1.32.0")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "later")])
    assert wheel.installed_wheels() == ("onnxruntime 1.32.0",)


def test_two_wheels_of_onnxruntime_clash(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wheels(monkeypatch, tmp_path, onnxruntime="1.32.0", onnxruntime_gpu="1.31.1")
    with pytest.raises(JobonnxError, match=r"onnxruntime 1\.32\.0 and onnxruntime-gpu 1\.31\.1 overwrite each other; uninstall"):
        import_onnxruntime()


def test_no_onnxruntime_names_the_extras(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wheels(monkeypatch, tmp_path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(JobonnxError, match=r'no onnxruntime is installed; run: pip install "jobonnx\[cpu\]"'):
        import_onnxruntime()


def test_a_wheel_that_does_not_import_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wheels(monkeypatch, tmp_path, onnxruntime="1.32.0")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(JobonnxError, match=r"onnxruntime 1\.32\.0 does not import .*; reinstall it"):
        import_onnxruntime()


def test_the_gpu_wheel_alone_loads_the_cuda_libraries_pip_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    loaded: list[bool] = []
    wheels(monkeypatch, tmp_path, onnxruntime_gpu="1.31.1")
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(preload_dlls=lambda: loaded.append(True)))
    import_onnxruntime()
    assert loaded == [True]
