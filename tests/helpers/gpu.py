"""GPU providers on a machine without a GPU: everything is real but the provider's name and where its buffers lie."""

from __future__ import annotations

from typing import Any

import pytest

from jobonnx.runtime.providers import PROVIDERS
from jobonnx.runtime.providers.cuda import Cuda
from jobonnx.runtime.providers.tensorrt import TensorRt


class _OnTheCpu:
    ort_name = "CPUExecutionProvider"
    device = "cpu"

    def is_here(self) -> bool:
        return True

    def configure(self, options: Any, graph: Any, model: Any, settings: Any) -> list[Any]:
        return ["CPUExecutionProvider"]


class CudaOnTheCpu(_OnTheCpu, Cuda):
    """CUDA's batches, shapes and bound buffers, with the CPU's kernels."""


class TensorRtOnTheCpu(_OnTheCpu, TensorRt):
    """TensorRT's, likewise."""


class Straying(CudaOnTheCpu):
    """All nodes lie with another provider than the one asked for."""

    def nodes_on_other_providers(self, session: Any) -> list[str]:
        self.ort_name = "CUDAExecutionProvider"
        return super().nodes_on_other_providers(session)


def pretend(monkeypatch: pytest.MonkeyPatch, strays: bool = False) -> None:
    """From here on "cuda" and "tensorrt" are the CPU provider, with buffers bound on the CPU."""
    monkeypatch.setitem(PROVIDERS, "cuda", Straying() if strays else CudaOnTheCpu())
    monkeypatch.setitem(PROVIDERS, "tensorrt", TensorRtOnTheCpu())
