"""Apple's CoreML."""

from __future__ import annotations

from jobonnx.runtime.providers.standard_operators import StandardProvider


class CoreMl(StandardProvider):
    """Runs the graphs of standard operators. Nobody has run it with jobonnx yet."""

    name = "coreml"
    title = "CoreML"
    ort_name = "CoreMLExecutionProvider"
    install = 'pip install "jobonnx[cpu]" on macOS'
    bf16 = "variant 'bf16' is measured for OpenVINO; use fp32 or int8-static with provider coreml"
