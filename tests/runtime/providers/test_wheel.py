"""The onnxruntime module: one wheel, or a sentence."""

from __future__ import annotations

import importlib.metadata
import sys
from types import SimpleNamespace

import pytest

from jobonnx import JobonnxError
from jobonnx.runtime.providers import wheel
from jobonnx.runtime.providers.wheel import import_onnxruntime


def wheels(monkeypatch: pytest.MonkeyPatch, **installed: str) -> None:
    """Pretend that these wheels, and no others, are installed."""

    def version(package: str) -> str:
        try:
            return installed[package.replace("-", "_")]
        except KeyError:
            raise importlib.metadata.PackageNotFoundError(package) from None

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(wheel, "installed_wheels", wheel.installed_wheels.__wrapped__)


def test_two_wheels_of_onnxruntime_clash(monkeypatch: pytest.MonkeyPatch) -> None:
    wheels(monkeypatch, onnxruntime="1.32.0", onnxruntime_gpu="1.31.1")
    with pytest.raises(JobonnxError, match=r"onnxruntime 1\.32\.0 and onnxruntime-gpu 1\.31\.1 overwrite each other; uninstall"):
        import_onnxruntime()


def test_no_onnxruntime_names_the_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    wheels(monkeypatch)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(JobonnxError, match=r'no onnxruntime is installed; run: pip install "jobonnx\[cpu\]"'):
        import_onnxruntime()


def test_a_wheel_that_does_not_import_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    wheels(monkeypatch, onnxruntime="1.32.0")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(JobonnxError, match=r"onnxruntime 1\.32\.0 does not import .*; reinstall it"):
        import_onnxruntime()


def test_the_gpu_wheel_alone_loads_the_cuda_libraries_pip_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[bool] = []
    wheels(monkeypatch, onnxruntime_gpu="1.31.1")
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(preload_dlls=lambda: loaded.append(True)))
    import_onnxruntime()
    assert loaded == [True]
