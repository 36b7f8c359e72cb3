"""The rate of matrix products that ONNX Runtime itself reaches here, at an encoder's layer shapes.

Run by path (`python gemm.py --hidden 1024 --intermediate 4096 --threads 2`), it prints one JSON object a measurement. Only numpy,
onnxruntime and onnx have to be there, jobonnx not: benchmarks/limits.py uses it in the environments of the peers.

A product is x [m, k] times a constant weight [k, n], the weight packed beforehand, as in a loaded model. The best of several calls
counts, over at least 0.1 s: a limit is what the machine can do. int8 is U8 activations by S8 weights, summed in int32 without
overflow, as jobonnx runs them; scales are left to the model. OpenVINO takes int8 only between quantising and dequantising steps
(QDQ), whose scales are then part of the product; it may compute fp32 in bf16, which the numbers tell.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from typing import Any

import numpy as np

DTYPES = ("fp32", "bf16", "fp16", "int8")
ROWS = (8, 64, 256, 1024)
ENGINE = "onnxruntime"
CUDA_ENGINE = "onnxruntime on CUDA"
OPENVINO_ENGINE = "onnxruntime on OpenVINO"
_SECONDS = 0.1
_CALLS = 5
_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"
_OPENVINO = "OpenVINOExecutionProvider"
_ROUNDING = 1e-4  # of a product's norm: fp32 errs by less, bf16 by more
Array = np.ndarray[Any, Any]
Call = Callable[[], Any]
Product = Callable[[str, int, int, int, int], Call | None]


def best(call: Call) -> float:
    """Seconds of the fastest of at least 5 calls and 0.1 s of them, after a first one that does not count."""
    call()
    found: list[float] = []
    end = time.perf_counter() + _SECONDS
    while len(found) < _CALLS or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return min(found)


def product(dtype: str, m: int, k: int, n: int, threads: int, provider: str = _CPU) -> Call | None:
    """One product, ready to be called; None where ONNX Runtime has no kernel for the type.

    Args:
        dtype: one of `DTYPES`.
        m: rows of x.
        k: columns of x and rows of the weight.
        n: columns of the weight.
        threads: of the CPU and OpenVINO providers.
        provider: ONNX Runtime's name of one that is built in; OpenVINO may be a plug-in.
    """
    import onnxruntime as ort

    # No provider takes bf16 from a graph for a CPU, OpenVINO computes in it by itself; on a CPU fp16 is fp32 between casts.
    if (dtype == "bf16" and provider != _OPENVINO) or (dtype == "fp16" and provider != _CUDA):
        return None
    x, weight, y = _arrays(dtype, m, k, n, integers=dtype == "int8" and provider != _OPENVINO)
    model = _model(x, weight, y)
    session = _session(model, provider, threads, dtype)
    first = session.run(None, {"x": x})[0][:1]
    if provider == _CPU and dtype == "int8" and (first != (x[:1].astype(np.int64) - 128) @ weight.astype(np.int64)).any():
        # x86 without VNNI overflows in 16 bits; see jobonnx.runtime.session.integers_overflow
        session = _session(model, provider, threads, dtype, x64quantprecision="1")
    if provider == _OPENVINO and dtype != "int8" and _in_fp32(first, x[:1], weight) != (dtype == "fp32"):
        return None
    device = "cuda" if provider == _CUDA else "cpu"
    values = [ort.OrtValue.ortvalue_from_numpy(array, device, 0) for array in (x, y)]
    binding = session.io_binding()  # no allocation, no copy: the product alone
    binding.bind_ortvalue_input("x", values[0])
    binding.bind_ortvalue_output("y", values[1])

    def call(memory: Any = values) -> Any:  # the binding does not keep its arrays alive
        return session.run_with_iobinding(binding)

    return call


def _arrays(dtype: str, m: int, k: int, n: int, integers: bool) -> tuple[Array, Array, Array]:
    """x [m, k], the weight [k, n] and room for their product [m, n]; x is U8 and the product S32 if integers."""
    rng = np.random.default_rng(0)
    kind = np.float16 if dtype == "fp16" else np.float32
    x: Array = rng.standard_normal((m, k), dtype=np.float32).astype(kind)
    weight: Array = rng.standard_normal((k, n), dtype=np.float32).astype(kind)
    if dtype == "int8":
        weight = rng.integers(-127, 127, (k, n), dtype=np.int8)
    if integers:
        return rng.integers(0, 255, (m, k), dtype=np.uint8), weight, np.empty((m, n), np.int32)
    return x, weight, np.empty((m, n), kind)


def _model(x: Array, weight: Array, y: Array) -> bytes:
    """x times weight as an ONNX model; an int8 weight by integers as they are, or by floats that are quantised on the way."""
    from onnx import helper, numpy_helper

    constants = {"weight": weight}
    zero = np.array(128, np.uint8)
    if weight.dtype != np.int8:
        nodes = [helper.make_node("MatMul", ["x", "weight"], ["y"])]
    elif x.dtype == np.uint8:
        constants |= {"zero": zero, "weight_zero": np.array(0, np.int8)}
        nodes = [helper.make_node("MatMulInteger", ["x", "weight", "zero", "weight_zero"], ["y"])]
    else:
        columns = weight.shape[1]
        constants |= {"zero": zero, "scale": np.array(4 / 127, np.float32)}
        constants |= {"weight_zero": np.zeros(columns, np.int8), "weight_scale": np.full(columns, 0.01, np.float32)}
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["quantized"]),
            helper.make_node("DequantizeLinear", ["quantized", "scale", "zero"], ["left"]),
            helper.make_node("DequantizeLinear", ["weight", "weight_scale", "weight_zero"], ["right"], axis=1),
            helper.make_node("MatMul", ["left", "right"], ["y"]),
        ]
    inputs, outputs = (
        [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)]
        for name, array in (("x", x), ("y", y))
    )
    graph = helper.make_graph(
        nodes, "product", inputs, outputs, [numpy_helper.from_array(array, name) for name, array in constants.items()]
    )
    content: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10).SerializeToString()
    return content


def _session(model: bytes, provider: str, threads: int, dtype: str, **entries: str) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    if provider != _CPU:
        entries["disable_cpu_ep_fallback"] = "1"  # what the provider does not take is no product of its own
    for key, value in entries.items():
        options.add_session_config_entry(f"session.{key}", value)
    if provider != _OPENVINO:
        tf32 = {"use_tf32": "0"} if provider == _CUDA else {}  # as jobonnx.runtime.session: fp32 is fp32
        return ort.InferenceSession(model, options, providers=[(provider, tf32)])
    own = {"num_of_threads": str(threads)}
    if provider in ort.get_available_providers():
        own |= {"precision": "FP32"} if dtype == "fp32" else {}
        return ort.InferenceSession(model, options, providers=[(provider, own)])
    options.add_provider_for_devices(_plugin_devices(), own)
    return ort.InferenceSession(model, options)


@cache
def _plugin_devices() -> list[Any]:
    """The CPU devices of OpenVINO's plug-in."""
    import onnxruntime as ort
    import onnxruntime_ep_openvino as plugin

    ort.register_execution_provider_library(_OPENVINO, plugin.get_library_path())
    cpu = ort.OrtHardwareDeviceType.CPU
    return [d for d in ort.get_ep_devices() if d.ep_name.startswith(_OPENVINO) and d.device.type == cpu]


def _in_fp32(found: Array, x: Array, weight: Array) -> bool:
    """Whether a product is as near to x times weight as fp32 comes."""
    exact = x.astype(np.float64) @ weight.astype(np.float64)
    return bool(np.linalg.norm(found - exact) < _ROUNDING * np.linalg.norm(exact))


def products(engine: str, make: Product, shapes: Sequence[tuple[int, int]], threads: int) -> Iterator[dict[str, Any]]:
    """Every dtype at every shape (k, n) and number of rows; what an engine cannot do has "missing" and the reason."""
    for dtype in DTYPES:
        for k, n in shapes:
            for m in ROWS:
                found: dict[str, Any] = {"kind": "product", "engine": engine, "dtype": dtype, "m": m, "k": k, "n": n}
                try:
                    call = make(dtype, m, k, n, threads)
                    seconds = None if call is None else best(call)
                    yield found | ({"missing": "no kernel"} if seconds is None else {"seconds": seconds})
                except Exception as error:  # an engine that lacks one kernel still has the others
                    yield found | {"missing": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}


def layer_shapes(hidden: int, intermediate: int) -> list[tuple[int, int]]:
    """k and n of a layer's products: query, key, value and attention output; the feed-forward's two."""
    return [(hidden, hidden), (hidden, intermediate), (intermediate, hidden)]


def rates(
    passes: Iterable[Iterable[dict[str, Any]]], hidden: int, intermediate: int
) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """The rates over several passes of `products`: medians.

    Returns:
        dtype -> rows -> {"rates": engine -> operations/s over the products of one layer}, fastest engine first.
    """
    measured: dict[tuple[str, int, str, int, int], list[float]] = {}
    for found in (found for one_pass in passes for found in one_pass):
        if found["kind"] == "product" and "missing" not in found:
            measured.setdefault((found["dtype"], found["m"], found["engine"], found["k"], found["n"]), []).append(found["seconds"])
    layer = [(k, n, times) for (k, n), times in zip(layer_shapes(hidden, intermediate), (4, 1, 1), strict=True)]
    gemm: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for dtype, m, engine in dict.fromkeys(key[:3] for key in measured):
        if all((dtype, m, engine, k, n) in measured for k, n, _ in layer):
            seconds = sum(times * statistics.median(measured[dtype, m, engine, k, n]) for k, n, times in layer)
            operations = 2 * m * sum(times * k * n for k, n, times in layer)
            gemm.setdefault(dtype, {}).setdefault(str(m), {"rates": {}})["rates"][engine] = operations / seconds
    for by_rows in gemm.values():
        for best_of in by_rows.values():
            best_of["rates"] = dict(sorted(best_of["rates"].items(), key=lambda pair: -pair[1]))
    return gemm


def missing(passes: Iterable[Iterable[dict[str, Any]]]) -> list[str]:
    """What an engine could not do, a phrase each."""
    return sorted({f"{f['engine']} {f['dtype']}: {f['missing']}" for one_pass in passes for f in one_pass if "missing" in f})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--hidden", type=int, required=True)
    parser.add_argument("--intermediate", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--cuda", action="store_true", help="on the CUDA provider as well")
    parser.add_argument("--openvino", action="store_true", help="on the OpenVINO provider as well")
    arguments = parser.parse_args()
    engines = {ENGINE: _CPU}
    if arguments.openvino:
        engines[OPENVINO_ENGINE] = _OPENVINO
    if arguments.cuda:
        engines[CUDA_ENGINE] = _CUDA
    shapes = layer_shapes(arguments.hidden, arguments.intermediate)
    for engine, provider in engines.items():
        for found in products(engine, partial(product, provider=provider), shapes, arguments.threads):
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
