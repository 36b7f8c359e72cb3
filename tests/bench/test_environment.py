"""What a measurement ran on."""

from __future__ import annotations

from jobonnx_bench.environment import record


def test_the_environment_names_what_matters() -> None:
    environment = record()
    assert environment.features.keys() >= {"AVX2", "AVX-512", "VNNI", "BF16", "AMX-INT8", "NEON", "I8MM"}
    assert environment.cpu
    assert environment.threads >= 1
