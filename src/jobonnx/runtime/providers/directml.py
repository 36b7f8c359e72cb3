"""Microsoft's DirectML, for GPUs on Windows."""

from __future__ import annotations

from jobonnx.runtime.providers.standard_operators import StandardProvider


class DirectMl(StandardProvider):
    """Runs the graphs of standard operators. Nobody has run it with jobonnx yet."""

    name = "directml"
    title = "DirectML"
    ort_name = "DmlExecutionProvider"
    install = "pip install onnxruntime-directml on Windows, in place of onnxruntime"
    bf16 = "variant 'bf16' is measured for OpenVINO; use fp32 or int8-static with provider directml"
