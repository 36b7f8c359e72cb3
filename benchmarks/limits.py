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
import importlib.util
import json
import os
import statistics
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np


def _gemm() -> Any:
    """jobonnx_bench.gemm by its path: an environment of a peer has no jobonnx."""
    path = Path(__file__).resolve().parent / "jobonnx_bench" / "gemm.py"
    spec = importlib.util.spec_from_file_location("gemm", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


gemm = _gemm()
best = gemm.best
Call = Any  # gemm.Call
_LARGE = 2 << 30  # bytes: no cache holds it


def torch_product(dtype: str, m: int, k: int, n: int, threads: int) -> Call | None:
    if dtype == "fp16":
        return None  # never the type of a system on a CPU
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
    if dtype == "fp16":
        return None  # never the type of a system on a CPU
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


PRODUCTS = {"onnxruntime": gemm.product, "torch": torch_product, "openvino": openvino_product}


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
    reads: dict[int, list[float]] = {}
    for found in (found for one_pass in passes for found in one_pass):
        if found["kind"] == "reading":
            reads.setdefault(found["bytes"], []).append(found["seconds"])
    return {
        "weights": layers * (4 * hidden * hidden + 2 * hidden * intermediate),
        "gemm": gemm.rates(passes, hidden, intermediate),
        "reading": [{"bytes": size, "seconds": statistics.median(seconds)} for size, seconds in sorted(reads.items())],
        "missing": gemm.missing(passes),
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
            measured = gemm.products(engine, PRODUCTS[engine], gemm.layer_shapes(h, i), arguments.threads)
        for found in measured:
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
