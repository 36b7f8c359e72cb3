"""ONNX Runtime's own CPU provider."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jobonnx.bundle.manifest import Model
from jobonnx.runtime.probes import int8_overflows
from jobonnx.runtime.providers.base import Provider, session_options
from jobonnx.runtime.providers.wheel import import_onnxruntime
from jobonnx.runtime.session import Session, Settings


class Cpu(Provider):
    """Runs on every CPU, and has a kernel, fast or slow, for every operator of every target's graphs."""

    name = "cpu"
    ort_name = "CPUExecutionProvider"
    target = "cpu"
    install = 'pip install "jobonnx[cpu]"'
    untested = False
    # Scalar kernels, slower than the Add and LayerNormalization that they replace; see docs/decisions.
    disabled_optimizers = ("SkipLayerNormFusion", "BiasSkipLayerNormFusion")

    def unavailable_reason(self, variant: str | None = None) -> str | None:
        """Refuse fp16, which is cast to fp32 and back around every operator."""
        if variant == "fp16":
            return "variant 'fp16' is slower than fp32 on a CPU; use int8 or fp32, or force=True (--force)"
        return super().unavailable_reason(variant)

    def configure(self, options: Any, graph: Path, model: Model | None, settings: Settings) -> list[Any]:
        """Compute int8 products exactly."""
        # Without VNNI, u8 x s8 sums overflow 16 bits. The u8 x u8 kernels are exact but slower, so they are enabled only here.
        if overflows():
            options.add_session_config_entry("session.x64quantprecision", "1")
        return [(self.ort_name, {})]


@cache
def overflows() -> bool:
    """Tell whether ONNX Runtime's u8 x s8 products overflow on this CPU."""

    def plainly(graph: Path) -> Session:
        ort = import_onnxruntime()
        options = session_options(ort, Settings(Cpu.name, 1))
        return Session(ort.InferenceSession(str(graph), options, providers=[Cpu.ort_name]), Cpu.name, 1)

    return int8_overflows(plainly)
