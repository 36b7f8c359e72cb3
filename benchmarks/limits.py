"""The limits of this machine for an encoder's shapes: the rate of matrix products, and the time to read the weights.

    python benchmarks/limits.py [--hidden 1024] [--intermediate 4096] [--layers 24] [--engines torch read]

Prints one JSON object per measurement. compare.py runs it before each round, in each environment that has an engine: torch is
oneDNN (and MKL, where that is faster), openvino is OpenVINO's own; ONNX Runtime is in jobonnx_bench/gemm.py. Needs numpy and the
engine.

- A product is x [m, k] times a constant weight [k, n], the weight packed beforehand, as in a loaded model. The best of several
  calls counts, over at least 0.1 s: a limit is what the machine can do.
- int8 is U8 activations by S8 weights, summed in int32, or what the engine makes of that; scales are left to the model. An engine
  whose sums overflow has no int8 rate.
- Reading goes matrix by matrix through a buffer, on all threads, as the layers of a one-title call do, with a reduction by numpy
  threads and with a matrix-vector product by torch, whichever is faster; the best of several passes counts.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from jobonnx_bench.gemm import NO_KERNEL, Call, NoProductError, best, layer_shapes, measure_products, refuse_overflow

_LARGE = 2 << 30  # bytes: no cache holds it
_LARGEST = 4.0  # of the floats that are quantised


def torch_product(dtype: str, m: int, k: int, n: int, threads: int) -> Call:
    """Make a product on torch, by oneDNN or MKL."""
    if dtype == "fp16":
        raise NoProductError(NO_KERNEL)  # never the type of a system on a CPU
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    if dtype == "int8":
        x = torch.randint(0, 255, (m, k), dtype=torch.uint8)
        weight = torch.randint(-127, 127, (n, k), dtype=torch.int8)
        packed = torch.ops.onednn.qlinear_prepack(weight, [m, k])
        scales, zeros = torch.ones(n), torch.zeros(n, dtype=torch.int32)

        def int8(x: Any = x) -> Any:
            # x, its scale and zero point; weight, its scales and zero points; bias; output's scale, zero point and type; epilogue
            return torch.ops.onednn.qlinear_pointwise(
                x, 1.0, 128, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
            )

        largest = int8(torch.full((m, k), 255, dtype=torch.uint8))[:1].numpy()
        refuse_overflow(largest, (255 - 128) * weight.numpy().astype(np.float64).sum(axis=1, keepdims=True).T)
        return int8
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    x, weight = torch.randn(m, k).to(kind), torch.randn(n, k).to(kind)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, m)

    def onednn() -> Any:
        return torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")

    def mkl() -> Any:
        return torch.nn.functional.linear(x, weight)

    with torch.inference_mode():
        return onednn if best(onednn) < best(mkl) else mkl


def openvino_product(dtype: str, m: int, k: int, n: int, threads: int) -> Call:
    """Make a product on OpenVINO's own runtime."""
    if dtype == "fp16":
        raise NoProductError(NO_KERNEL)  # never the type of a system on a CPU
    import openvino as ov
    from openvino import opset13 as op

    rng = np.random.default_rng(0)
    x = rng.standard_normal((m, k), dtype=np.float32)
    parameter = op.parameter([m, k], np.float32)
    # Quantised as NNCF does: 256 levels of activations, 255 of weights; the plugin turns both into integers.
    floats = rng.uniform(-_LARGEST, _LARGEST, (k, n)).astype(np.float32)
    weight = op.constant(floats)
    left, right = parameter, weight
    if dtype == "int8":
        ends = [np.float32(end) for end in (-_LARGEST, _LARGEST, -_LARGEST, _LARGEST)]
        left, right = op.fake_quantize(parameter, *ends, 256), op.fake_quantize(weight, *ends, 255)
    model = ov.Model([op.matmul(left, right, False, False)], [parameter], "product")
    precision = "bf16" if dtype == "bf16" else "f32"
    compiled = ov.Core().compile_model(
        model, "CPU", {"INFERENCE_NUM_THREADS": str(threads), "INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    )
    if dtype == "bf16" and compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() != "bf16":
        raise NoProductError(NO_KERNEL)
    request = compiled.create_infer_request()
    if dtype == "int8":
        step = 2 * _LARGEST / 254
        exact = _LARGEST * (np.round(floats.astype(np.float64) / step) * step).sum(axis=0, keepdims=True)
        refuse_overflow(request.infer([np.full((m, k), _LARGEST, np.float32)])[0][:1], exact)
    shared = ov.Tensor(x, shared_memory=True)
    request.set_input_tensor(shared)

    def infer(memory: Any = (x, shared)) -> Any:  # the request does not keep its input alive
        return request.infer()

    return infer


PRODUCTS = {"torch": torch_product, "openvino": openvino_product}


def reading(sizes: list[int], matrix_bytes: int, threads: int) -> Iterator[dict[str, Any]]:
    """Time reading buffers of so many bytes, in pieces of a weight matrix each, by numpy and by torch where it is there."""
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
            ways: dict[str, Call] = {"numpy": partial(_read_by_numpy, pool, halves)}
            if torch is not None:
                vector = torch.ones(1024)
                matrices = [torch.from_numpy(piece).view(-1, 1024) for piece in pieces if len(piece) % 1024 == 0]
                if sum(matrix.numel() for matrix in matrices) == len(floats):
                    ways["torch"] = partial(_read_by_torch, matrices, vector)
            seconds = {way: best(call) for way, call in ways.items()}
            way = min(seconds, key=lambda name: seconds[name])
            yield {"bytes": size, "seconds": seconds[way], "way": way}


def _read_by_numpy(pool: ThreadPoolExecutor, matrices: list[list[Any]]) -> None:
    for parts in matrices:
        list(pool.map(np.max, parts))


def _read_by_torch(matrices: list[Any], vector: Any) -> None:
    for matrix in matrices:
        matrix.mv(vector)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--intermediate", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument(
        "--threads", type=int, default=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    )
    parser.add_argument("--engines", nargs="+", choices=[*PRODUCTS, "read"], default=["torch", "read"])
    parser.add_argument("--large", type=int, default=_LARGE, metavar="BYTES", help="size of the large buffer")
    arguments = parser.parse_args()
    h, i = arguments.hidden, arguments.intermediate
    for engine in arguments.engines:
        if engine == "read":
            weights = arguments.layers * (4 * h * h + 2 * h * i)
            for found in reading([weights, 2 * weights, 4 * weights, arguments.large], 4 * h * h, arguments.threads):
                print(json.dumps({"reading": found}), flush=True)
        else:
            for product in measure_products(engine, "cpu", PRODUCTS[engine], layer_shapes(h, i), arguments.threads):
                print(json.dumps({"product": asdict(product)}), flush=True)


if __name__ == "__main__":
    main()
