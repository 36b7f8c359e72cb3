"""Intel's OpenVINO, built into its own onnxruntime or as a plug-in."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jobonnx.bundle.manifest import Model
from jobonnx.runtime.providers.standard_operators import StandardProvider
from jobonnx.runtime.providers.wheel import import_onnxruntime
from jobonnx.runtime.session import Settings

_ORT_NAME = "OpenVINOExecutionProvider"


class OpenVino(StandardProvider):
    """Computes fp32 graphs in bf16 where the CPU has it, whatever is asked of it; that is what variant bf16 is."""

    name = "openvino"
    title = "OpenVINO"
    ort_name = _ORT_NAME
    install = (
        'pip install "jobonnx[openvino]" on a machine with an Intel CPU, onnxruntime-openvino in place of onnxruntime on another'
    )
    untested = False
    bf16 = "variant 'bf16' needs a CPU with bf16, such as one with AMX, and OpenVINO computes in fp32 on this one; use int8"

    def is_here(self) -> bool:
        """Built in, or as a plug-in that finds a device here."""
        return super().is_here() or bool(plugin_devices(import_onnxruntime()))

    def configure(self, options: Any, graph: Path, model: Model | None, settings: Settings) -> list[Any] | None:
        """Give it its threads: without the number it ran at less than half its speed."""
        own = {"num_of_threads": str(settings.threads)}
        if devices := plugin_devices(import_onnxruntime()):
            options.add_provider_for_devices(devices, own)  # where a plug-in's devices belong
            return None
        return [(self.ort_name, own), "CPUExecutionProvider"]


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
