"""The rate of matrix products."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from jobonnx.runtime.providers import PROVIDERS
from jobonnx_bench import gemm, gemm_rate
from jobonnx_bench.gemm import CUDA_ENGINE, ENGINE, OPENVINO_ENGINE, ROWS, missing, product, products, rates


def test_products_run_and_say_what_is_missing() -> None:
    pytest.importorskip("onnx")
    for dtype in ("fp32", "int8"):
        call = product(dtype, 2, 8, 4, 1)
        assert call is not None
        call()
    assert product("bf16", 2, 8, 4, 1) is product("fp16", 2, 8, 4, 1) is None


def test_a_products_arrays_live_as_long_as_it() -> None:
    pytest.importorskip("onnx")
    call = product("fp32", 512, 512, 512, 1)
    gc.collect()
    assert call is not None
    call()  # into freed memory, it crashed
    x, y = (value.numpy() for value in call.__defaults__[0])  # type: ignore[attr-defined]
    assert np.isfinite(x).all()
    assert np.abs(y).max() > 1


def test_numbers_tell_in_which_type_a_product_was_computed() -> None:
    x, weight, _ = gemm._arrays("fp32", 1, 512, 64, integers=False)
    assert gemm._in_fp32(x @ weight, x, weight)
    cut = [(array.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32) for array in (x, weight)]  # bf16
    assert not gemm._in_fp32(cut[0] @ cut[1], x, weight)


@pytest.mark.skipif(
    not PROVIDERS["openvino"].is_here(), reason="this onnxruntime has no OpenVINO; pip install onnxruntime-openvino alone"
)
def test_openvino_multiplies_too() -> None:
    pytest.importorskip("onnx")
    for dtype in ("fp32", "int8"):
        call = product(dtype, 4, 64, 32, 1, gemm._OPENVINO)
        assert call is not None
        call()
    assert product("fp16", 4, 64, 32, 1, gemm._OPENVINO) is None


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_never_counts_the_cpus_products_as_its_own() -> None:
    pytest.importorskip("onnx")
    with pytest.raises(Exception, match=r"(?i)fallback|not (available|enabled)|no such|cannot"):
        product("fp32", 2, 8, 4, 1, "AbsentExecutionProvider")


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
    limits = {
        "gemm": {
            "fp32": {"8": {"rates": {CUDA_ENGINE: 9.0, ENGINE: 1.0, "torch": 2.0}}},
            "bf16": {"8": {"rates": {OPENVINO_ENGINE: 4.0, ENGINE: 3.0}}},
        }
    }
    assert gemm_rate(limits, {"dtype": "bf16", "provider": "openvino"}) == 4.0
    assert gemm_rate(limits, {"dtype": "bf16", "provider": "cpu"}) == 4.0
    assert gemm_rate(limits, {"dtype": "fp32", "provider": "cpu"}) == 2.0
    assert gemm_rate(limits, {"dtype": "fp32", "provider": "tensorrt"}) == 9.0
    assert gemm_rate(limits, {"dtype": "int8", "provider": "cpu"}) is None
    assert gemm_rate(None, {}) is None
