"""The limits of this machine for an encoder's shapes: the rate of matrix products, and the time to read the weights.

    python benchmarks/limits.py [--hidden 1024] [--intermediate 4096] [--layers 24] [--engines onnxruntime torch read]

Prints one JSON object a measurement. compare.py runs it before each round, in each environment that has an engine:
onnxruntime is MLAS, torch is oneDNN (and MKL, where that is faster), openvino is OpenVINO's own. Needs numpy and the engine; onnx
as well for onnxruntime.

- A product is x [m, k] times a constant weight [k, n], the weight packed beforehand, as in a loaded model. The best of several
  calls counts, over at least 0.1 s: a limit is what the machine can do.
- int8 is U8 activations by S8 weights, summed in int32, or what the engine makes of that; scales are left to the model.
- Reading goes matrix by matrix through a buffer, on all threads, as the layers of a one-title call do, with a reduction by numpy
  threads and with a matrix-vector product by torch, whichever is faster; the best of several passes counts.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

ROWS = (8, 64, 256, 1024)
_SECONDS = 0.1
_CALLS = 5
_LARGE = 2 << 30  # bytes: no cache holds it
Call = Callable[[], Any]


def best(call: Call) -> float:
    """Seconds of the fastest of at least 5 calls and 0.1 s of them, after a first one that does not count."""
    call()
    found = []
    end = time.perf_counter() + _SECONDS
    while len(found) < _CALLS or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return min(found)


def onnxruntime_product(dtype: str, m: int, k: int, n: int, threads: int) -> Call | None:
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    if dtype == "bf16":
        return None  # no kernel on the CPU provider
    rng = np.random.default_rng(0)
    if dtype == "int8":
        x = rng.integers(0, 255, (m, k), dtype=np.uint8)
        constants = {
            "weight": rng.integers(-127, 127, (k, n), dtype=np.int8),
            "zero": np.array(128, np.uint8),
        }
        node = helper.make_node("MatMulInteger", ["x", "weight", "zero"], ["y"])
        kinds = TensorProto.UINT8, TensorProto.INT32
        y = np.empty((m, n), np.int32)
    else:
        x = rng.standard_normal((m, k), dtype=np.float32)
        constants = {"weight": rng.standard_normal((k, n), dtype=np.float32)}
        node = helper.make_node("MatMul", ["x", "weight"], ["y"])
        kinds = TensorProto.FLOAT, TensorProto.FLOAT
        y = np.empty((m, n), np.float32)
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", kinds[0], x.shape)],
        [helper.make_tensor_value_info("y", kinds[1], y.shape)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()  # no allocation, no copy: the product alone
    binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(x))
    binding.bind_ortvalue_output("y", ort.OrtValue.ortvalue_from_numpy(y))
    return lambda: session.run_with_iobinding(binding)


def torch_product(dtype: str, m: int, k: int, n: int, threads: int) -> Call | None:
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    if dtype == "int8":
        x = torch.randint(0, 255, (m, k), dtype=torch.uint8)
        packed = torch.ops.onednn.qlinear_prepack(torch.randint(-127, 127, (n, k), dtype=torch.int8), [m, k])
        scales, zeros = torch.ones(n), torch.zeros(n, dtype=torch.int32)

        def int8() -> Any:
            # x, its scale and zero point; weight, its scales and zero points; bias; output's scale, zero point and type; epilogue
            return torch.ops.onednn.qlinear_pointwise(
                x, 1.0, 128, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
            )

        return int8
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    x, weight = torch.randn(m, k).to(kind), torch.randn(n, k).to(kind)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, m)

    def onednn() -> Any:
        return torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")

    def plain() -> Any:
        return torch.nn.functional.linear(x, weight)

    with torch.inference_mode():
        return onednn if best(onednn) < best(plain) else plain


def openvino_product(dtype: str, m: int, k: int, n: int, threads: int) -> Call | None:
    import openvino as ov
    from openvino import opset13 as op

    rng = np.random.default_rng(0)
    x = rng.standard_normal((m, k), dtype=np.float32)
    parameter = op.parameter([m, k], np.float32)
    weight = op.constant(rng.standard_normal((k, n), dtype=np.float32))
    left, right = parameter, weight
    if dtype == "int8":
        # Quantised as NNCF does: 256 levels of activations, 255 of weights; the plugin turns both into integers.
        left = op.fake_quantize(parameter, *(np.float32(v) for v in (-4, 4, -4, 4)), 256)
        right = op.fake_quantize(weight, *(np.float32(v) for v in (-4, 4, -4, 4)), 255)
    model = ov.Model([op.matmul(left, right, False, False)], [parameter], "product")
    precision = "bf16" if dtype == "bf16" else "f32"
    compiled = ov.Core().compile_model(
        model, "CPU", {"INFERENCE_NUM_THREADS": str(threads), "INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    )
    if dtype == "bf16" and compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() != "bf16":
        return None
    request = compiled.create_infer_request()
    shared = ov.Tensor(x, shared_memory=True)
    request.set_input_tensor(shared)

    def infer(memory: Any = (x, shared)) -> Any:  # the request does not keep its input alive
        return request.infer()

    return infer


PRODUCTS: dict[str, Callable[[str, int, int, int, int], Call | None]] = {
    "onnxruntime": onnxruntime_product,
    "torch": torch_product,
    "openvino": openvino_product,
}


def products(engine: str, shapes: list[tuple[int, int]], threads: int) -> Iterator[dict[str, Any]]:
    """Every dtype at every shape and number of rows; what an engine cannot do has "missing" and the reason."""
    for dtype in ("fp32", "bf16", "int8"):
        for k, n in shapes:
            for m in ROWS:
                found: dict[str, Any] = {"kind": "product", "engine": engine, "dtype": dtype, "m": m, "k": k, "n": n}
                try:
                    call = PRODUCTS[engine](dtype, m, k, n, threads)
                    seconds = None if call is None else best(call)
                    yield found | ({"missing": "no kernel"} if seconds is None else {"seconds": seconds})
                except Exception as error:  # an engine that lacks one kernel still has the others
                    yield found | {"missing": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}


def reading(sizes: list[int], matrix_bytes: int, threads: int) -> Iterator[dict[str, Any]]:
    """Seconds to read buffers of so many bytes, in pieces of a weight matrix each."""
    try:
        import torch

        torch.set_num_threads(threads)
    except ImportError:
        torch = None  # type: ignore[assignment]
    buffer = np.ones(max(sizes) // 4, np.float32)
    with ThreadPoolExecutor(threads) as pool:
        for size in sizes:
            floats = buffer[: size // 4]
            pieces = [floats[i : i + matrix_bytes // 4] for i in range(0, len(floats), matrix_bytes // 4)]
            # Integers: their maximum is one instruction a vector, and nothing is rounded or checked for NaN.
            halves = [np.array_split(piece.view(np.int32), threads) for piece in pieces]
            ways: dict[str, Call] = {"numpy": lambda halves=halves: [list(pool.map(np.max, parts)) for parts in halves]}
            if torch is not None:
                vector = torch.ones(1024)
                matrices = [torch.from_numpy(piece).view(-1, 1024) for piece in pieces if len(piece) % 1024 == 0]
                if sum(matrix.numel() for matrix in matrices) == len(floats):
                    ways["torch"] = lambda matrices=matrices, vector=vector: [torch.mv(matrix, vector) for matrix in matrices]
            seconds = {way: best(call) for way, call in ways.items()}
            way = min(seconds, key=lambda name: seconds[name])
            yield {"kind": "reading", "bytes": size, "way": way, "seconds": seconds[way]}


def summarise(passes: list[list[dict[str, Any]]], layers: int, hidden: int, intermediate: int) -> dict[str, Any]:
    """The limits over several passes: medians.

    Returns:
        weights: of the linear maps of all layers;
        gemm: dtype -> rows -> {"rates": engine -> operations/s over the products of one layer}, fastest engine first;
        reading: {"bytes", "seconds"} of each buffer;
        missing: what an engine could not do;
        passes: every measurement.
    """
    products: dict[tuple[str, int, str, int, int], list[float]] = {}
    reads: dict[int, list[float]] = {}
    missing = set()
    for found in (found for one_pass in passes for found in one_pass):
        if found["kind"] == "reading":
            reads.setdefault(found["bytes"], []).append(found["seconds"])
        elif "missing" in found:
            missing.add(f"{found['engine']} {found['dtype']}: {found['missing']}")
        else:
            products.setdefault((found["dtype"], found["m"], found["engine"], found["k"], found["n"]), []).append(found["seconds"])
    layer = ((hidden, hidden, 4), (hidden, intermediate, 1), (intermediate, hidden, 1))  # k, n, how many
    gemm: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for dtype, m, engine in dict.fromkeys(key[:3] for key in products):
        if all((dtype, m, engine, k, n) in products for k, n, _ in layer):
            seconds = sum(times * statistics.median(products[dtype, m, engine, k, n]) for k, n, times in layer)
            operations = 2 * m * sum(times * k * n for k, n, times in layer)
            gemm.setdefault(dtype, {}).setdefault(str(m), {"rates": {}})["rates"][engine] = operations / seconds
    for by_rows in gemm.values():
        for best_of in by_rows.values():
            best_of["rates"] = dict(sorted(best_of["rates"].items(), key=lambda pair: -pair[1]))
    return {
        "weights": layers * (4 * hidden * hidden + 2 * hidden * intermediate),
        "gemm": gemm,
        "reading": [{"bytes": size, "seconds": statistics.median(seconds)} for size, seconds in sorted(reads.items())],
        "missing": sorted(missing),
        "passes": passes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--intermediate", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument(
        "--threads", type=int, default=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    )
    parser.add_argument("--engines", nargs="+", choices=[*PRODUCTS, "read"], default=["onnxruntime", "torch", "read"])
    parser.add_argument("--large", type=int, default=_LARGE, metavar="BYTES", help="size of the large buffer")
    arguments = parser.parse_args()
    h, i = arguments.hidden, arguments.intermediate
    for engine in arguments.engines:
        if engine == "read":
            weights = arguments.layers * (4 * h * h + 2 * h * i)
            measured = reading([weights, 2 * weights, 4 * weights, arguments.large], 4 * h * h, arguments.threads)
        else:
            measured = products(engine, [(h, h), (h, i), (i, h)], arguments.threads)
        for found in measured:
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
