"""Intel's OpenVINO, built into its own onnxruntime or as a plug-in."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jobonnx.bundle.manifest import Model
from jobonnx.runtime.providers.base import Provider
from jobonnx.runtime.providers.standard_operators import StandardProvider
from jobonnx.runtime.providers.wheel import import_onnxruntime
from jobonnx.runtime.session import Settings

_ORT_NAME = "OpenVINOExecutionProvider"


class OpenVino(StandardProvider):
    """Computes fp32 graphs in fp32 or in bf16, which is variant bf16. Built in it can be asked; the plug-in has its own mind."""

    name = "openvino"
    title = "OpenVINO"
    ort_name = _ORT_NAME
    install = (
        'pip install "jobonnx[openvino]" on a machine with an Intel CPU, onnxruntime-openvino in place of onnxruntime on another'
    )
    untested = False
    floats = "f32"  # the type that is asked for, in OpenVINO's words
    bf16 = "variant 'bf16' needs a CPU with bf16, such as one with AMX, and OpenVINO computes in fp32 on this one; use int8"

    def is_here(self) -> bool:
        """Built in, or as a plug-in that finds a device here."""
        return super().is_here() or bool(plugin_devices(import_onnxruntime()))

    def for_variant(self, variant: str) -> Provider:
        """Return the one that asks for bf16 where that is the variant, and where it can be asked."""
        return _IN_BF16 if variant == "bf16" and super().is_here() else self

    def unavailable_reason(self, variant: str | None = None) -> str | None:
        """Try each precision as it would be opened."""
        asked = self.for_variant(variant or "")
        return super().unavailable_reason(variant) if asked is self else asked.unavailable_reason(variant)

    def configure(self, options: Any, graph: Path, model: Model | None, settings: Settings) -> list[Any] | None:
        """Give it its threads: without the number it ran at less than half its speed."""
        own = {"num_of_threads": str(settings.threads)}
        if devices := plugin_devices(import_onnxruntime()):
            options.add_provider_for_devices(devices, own)  # where a plug-in's devices belong
            return None
        asked = {"CPU": {"INFERENCE_PRECISION_HINT": self.floats}}
        return [(self.ort_name, {**own, "load_config": json.dumps(asked)}), "CPUExecutionProvider"]


class _InBf16(OpenVino):
    """OpenVINO, asked for bf16."""

    floats = "bf16"

    def for_variant(self, variant: str) -> Provider:
        """Return itself."""
        return self


_IN_BF16 = _InBf16()


@cache
def plugin_devices(ort: Any) -> list[Any]:
    """Return the CPU devices of the plug-in onnxruntime-ep-openvino, registered once; none without it, or on other CPUs.

    It takes Intel's CPUs only: on an AMD EPYC it registered and offered no device (1.8.1). The package onnxruntime-openvino has the
    provider built in and takes that EPYC too (1.24.1).
    """
    try:
        import onnxruntime_ep_openvino as plugin
    except ImportError:
        return []
    ort.register_execution_provider_library(_ORT_NAME, plugin.get_library_path())
    cpu = ort.OrtHardwareDeviceType.CPU
    return [d for d in ort.get_ep_devices() if d.ep_name.startswith(_ORT_NAME) and d.device.type == cpu]
