"""GPU providers on a machine without a GPU: everything is real but the provider's name and where its buffers lie."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jobonnx.runtime.session import PROVIDERS


def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on "cuda" and "tensorrt" are the CPU provider, with buffers bound on the CPU."""
    for name in ("cuda", "tensorrt"):
        monkeypatch.setitem(PROVIDERS, name, replace(PROVIDERS[name], onnxruntime_name="CPUExecutionProvider", device="cpu"))
