"""The rate of matrix products."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from jobonnx.errors import ProviderUnavailableError
from jobonnx.runtime.providers import PROVIDERS
from jobonnx_bench import gemm
from jobonnx_bench.gemm import ENGINE, ROWS, Call, NoProductError, Product, measure_products, provider_product, refuse_overflow

pytest.importorskip("onnx", reason='matrix products need onnx: pip install "jobonnx[bench]"')


def test_products_run_and_say_what_is_missing() -> None:
    for dtype in ("fp32", "int8"):
        provider_product(dtype, 2, 8, 4, 1, "cpu")()
    for dtype in ("bf16", "fp16"):
        with pytest.raises(NoProductError, match=r"^no kernel$"):
            provider_product(dtype, 2, 8, 4, 1, "cpu")


@pytest.mark.medium
def test_a_products_arrays_live_as_long_as_it() -> None:
    call = provider_product("fp32", 512, 512, 512, 1, "cpu")
    gc.collect()
    call()  # into freed memory, it crashed
    defaults: Any = getattr(call, "__defaults__", None)
    x, y = (value.numpy() for value in defaults[0])
    assert np.isfinite(x).all()
    assert np.abs(y).max() > 1


def test_numbers_tell_in_which_type_a_product_was_computed() -> None:
    x, weight, _ = gemm._arrays("fp32", 1, 512, 64, integers=False)
    exact = x.astype(np.float64) @ weight
    assert gemm._is_near(x @ weight, exact, gemm._ROUNDING)
    cut = [(array.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32) for array in (x, weight)]  # bf16
    assert not gemm._is_near(cut[0] @ cut[1], exact, gemm._ROUNDING)


def test_int8_sums_that_saturate_are_no_product() -> None:
    rng = np.random.default_rng(0)
    weight = rng.integers(-127, 127, (64, 8)).astype(np.int64)
    pairs = 255 * (weight[0::2] + weight[1::2])
    exact = (255 - 128) * weight.sum(axis=0, keepdims=True)
    zero_point = 128 * weight.sum(axis=0, keepdims=True)
    refuse_overflow(pairs.sum(axis=0, keepdims=True) - zero_point, exact)
    saturated = np.clip(pairs, -(2**15), 2**15 - 1).sum(axis=0, keepdims=True) - zero_point  # as x86 without VNNI adds
    with pytest.raises(NoProductError, match=r"^int8 products overflow on this CPU$"):
        refuse_overflow(saturated, exact)


@pytest.mark.skipif(
    not PROVIDERS["openvino"].is_here(), reason="this onnxruntime has no OpenVINO; pip install onnxruntime-openvino alone"
)
def test_openvino_multiplies_too() -> None:
    provider_product("fp32", 4, 64, 32, 1, "openvino")()
    with pytest.raises(NoProductError, match="no kernel"):
        provider_product("fp16", 4, 64, 32, 1, "openvino")


def test_a_provider_never_counts_the_cpus_products() -> None:
    with pytest.raises(ProviderUnavailableError, match=r"provider 'directml' is not in onnxruntime"):
        provider_product("fp32", 2, 8, 4, 1, "directml")


def test_a_product_that_was_left_to_the_cpu_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = PROVIDERS["cpu"]
    monkeypatch.setattr(type(cpu), "ort_name", "AnotherExecutionProvider")
    monkeypatch.setattr(type(cpu), "unavailable_reason", lambda self, variant=None: None)
    monkeypatch.setattr(type(cpu), "configure", lambda self, *_: ["CPUExecutionProvider"])
    with pytest.raises(NoProductError, match=r"^left to CPUExecutionProvider$"):
        provider_product("fp32", 2, 8, 4, 1, "cpu")


@pytest.mark.medium
def test_an_engine_that_lacks_one_kernel_still_has_the_others() -> None:
    def made(dtype: str, m: int, k: int, n: int, threads: int) -> Call:
        if dtype == "bf16":
            raise NoProductError("no kernel")
        if dtype == "fp16":
            raise RuntimeError("no such\nkernel")
        return lambda: None

    found = list(measure_products("engine", "gpu", made, [(4, 5)], 1))
    assert [p.m for p in found[: len(ROWS)]] == list(ROWS)
    assert {(p.dtype, p.missing) for p in found} == {
        ("fp32", None),
        ("bf16", "no kernel"),
        ("fp16", "RuntimeError: no such kernel"),
        ("int8", None),
    }
    assert all((p.engine, p.device, p.k, p.n) == ("engine", "gpu", 4, 5) for p in found)


def test_a_product_has_either_a_time_or_a_reason() -> None:
    wrongs: tuple[dict[str, Any], ...] = ({}, {"seconds": 0.0}, {"seconds": 1.0, "missing": "both"})
    for wrong in wrongs:
        with pytest.raises(ValueError, match="seconds has to be above 0, or missing a reason"):
            Product("engine", "cpu", "fp32", 1, 1, 1, **wrong)


@pytest.mark.medium
def test_it_runs_as_a_program() -> None:
    command = [sys.executable, "-P", "-m", "jobonnx_bench.gemm", "--hidden", "4", "--intermediate", "8", "--threads", "1"]
    done = subprocess.run([*command, "--provider", "cpu"], capture_output=True, text=True, check=True)
    products = [Product(**json.loads(line)["product"]) for line in done.stdout.splitlines()]
    assert {p.engine for p in products} == {ENGINE}
    assert {p.dtype for p in products if p.seconds} == {"fp32", "int8"}


def test_importing_it_needs_no_jobonnx() -> None:
    code = "import sys; sys.modules['jobonnx'] = None; import jobonnx_bench.gemm"
    subprocess.run([sys.executable, "-c", code], check=True)
