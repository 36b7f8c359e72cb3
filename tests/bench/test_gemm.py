"""The rate of matrix products."""

from __future__ import annotations

import pytest

from jobonnx.bench import gemm_rate
from jobonnx.bench.gemm import CUDA_ENGINE, ENGINE, ROWS, missing, product, products, rates


def test_products_run_and_say_what_is_missing() -> None:
    pytest.importorskip("onnx")
    for dtype in ("fp32", "int8"):
        call = product(dtype, 2, 8, 4, 1)
        assert call is not None
        call()
    assert product("bf16", 2, 8, 4, 1) is product("fp16", 2, 8, 4, 1) is None


def test_rates_are_of_a_whole_layer() -> None:
    def made(dtype: str, m: int, k: int, n: int, threads: int) -> None:
        if dtype != "fp32":
            raise RuntimeError("no such kernel")

    found = list(products("engine", made, [(4, 4)], 1))
    assert [f["m"] for f in found[: len(ROWS)]] == list(ROWS)
    assert missing([found]) == [
        "engine bf16: RuntimeError: no such kernel",
        "engine fp16: RuntimeError: no such kernel",
        "engine fp32: no kernel",
        "engine int8: RuntimeError: no such kernel",
    ]
    timed = [
        {"kind": "product", "engine": ENGINE, "dtype": "fp32", "m": 8, "k": k, "n": n, "seconds": seconds}
        for k, n, seconds in ((4, 4, 1.0), (4, 16, 2.0), (16, 4, 3.0))
    ]
    assert rates([timed], 4, 16) == {"fp32": {"8": {"rates": {ENGINE: 2 * 8 * (4 * 16 + 2 * 64) / (4 * 1 + 2 + 3)}}}}
    assert rates([timed[:2]], 4, 16) == {}


def test_a_cell_is_held_against_its_own_device() -> None:
    limits = {"gemm": {"fp32": {"8": {"rates": {CUDA_ENGINE: 9.0, ENGINE: 1.0, "torch": 2.0}}}}}
    assert gemm_rate(limits, {"dtype": "fp32", "provider": "cpu"}) == 2.0
    assert gemm_rate(limits, {"dtype": "fp32", "provider": "tensorrt"}) == 9.0
    assert gemm_rate(limits, {"dtype": "int8", "provider": "cpu"}) is None
    assert gemm_rate(None, {}) is None
