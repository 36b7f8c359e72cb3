"""AMD's MIGraphX, for GPUs on Linux."""

from __future__ import annotations

from jobonnx.runtime.providers.standard_operators import StandardProvider


class MiGraphX(StandardProvider):
    """Runs the graphs of standard operators. Nobody has run it with jobonnx yet."""

    name = "migraphx"
    title = "MIGraphX"
    ort_name = "MIGraphXExecutionProvider"
    install = "pip install onnxruntime-migraphx on Linux with an AMD GPU, in place of onnxruntime"
    bf16 = "variant 'bf16' is measured for OpenVINO; use fp32 or int8-static with provider migraphx"
