"""The rate of matrix products that ONNX Runtime itself reaches here, at an encoder's layer shapes.

Run by path (`python gemm.py --hidden 1024 --intermediate 4096 --threads 2`), it prints one JSON object a measurement. Only numpy,
onnxruntime and onnx have to be there, jobonnx not: benchmarks/limits.py uses it in the environments of the peers.

A product is x [m, k] times a constant weight [k, n], the weight packed beforehand, as in a loaded model. The best of several calls
counts, over at least 0.1 s: a limit is what the machine can do. int8 is U8 activations by S8 weights, summed in int32 without
overflow, as jobonnx runs them; scales are left to the model.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

DTYPES = ("fp32", "bf16", "fp16", "int8")
ROWS = (8, 64, 256, 1024)
ENGINE = "onnxruntime"
CUDA_ENGINE = "onnxruntime on CUDA"
_SECONDS = 0.1
_CALLS = 5
_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"
_OPTIONS = {_CUDA: {"use_tf32": "0"}}  # as jobonnx.session: fp32 is fp32
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
        threads: of the CPU provider.
        provider: ONNX Runtime's name of one that is built in.
    """
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    # On the CPU provider bf16 has no kernel, and fp16 is computed in fp32 between casts: no limit of its own.
    if dtype == "bf16" or (dtype == "fp16" and provider == _CPU):
        return None
    rng = np.random.default_rng(0)
    if dtype == "int8":
        x = rng.integers(0, 255, (m, k), dtype=np.uint8)
        constants = {
            "weight": rng.integers(-127, 127, (k, n), dtype=np.int8),
            "zero": np.array(128, np.uint8),
            "weight_zero": np.array(0, np.int8),
        }
        node = helper.make_node("MatMulInteger", ["x", "weight", "zero", "weight_zero"], ["y"])
        kinds = TensorProto.UINT8, TensorProto.INT32
        y = np.empty((m, n), np.int32)
    else:
        kind = np.float16 if dtype == "fp16" else np.float32
        x = rng.standard_normal((m, k), dtype=np.float32).astype(kind)
        constants = {"weight": rng.standard_normal((k, n), dtype=np.float32).astype(kind)}
        node = helper.make_node("MatMul", ["x", "weight"], ["y"])
        kinds = (TensorProto.FLOAT16,) * 2 if dtype == "fp16" else (TensorProto.FLOAT,) * 2
        y = np.empty((m, n), kind)
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", kinds[0], x.shape)],
        [helper.make_tensor_value_info("y", kinds[1], y.shape)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)

    def load(**entries: str) -> Any:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        for key, value in entries.items():
            options.add_session_config_entry(f"session.{key}", value)
        return ort.InferenceSession(model.SerializeToString(), options, providers=[(provider, _OPTIONS.get(provider, {}))])

    session = load()
    if dtype == "int8" and provider == _CPU:  # x86 without VNNI overflows in 16 bits; see jobonnx.session.integers_overflow
        exact = (x[:1].astype(np.int64) - 128) @ constants["weight"].astype(np.int64)
        if (session.run(None, {"x": x})[0][:1] != exact).any():
            session = load(x64quantprecision="1")
    device = "cpu" if provider == _CPU else "cuda"
    binding = session.io_binding()  # no allocation, no copy: the product alone
    binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(x, device, 0))
    binding.bind_ortvalue_output("y", ort.OrtValue.ortvalue_from_numpy(y, device, 0))
    return lambda: session.run_with_iobinding(binding)


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
    arguments = parser.parse_args()
    for engine, provider in ((ENGINE, _CPU), (CUDA_ENGINE, _CUDA)) if arguments.cuda else ((ENGINE, _CPU),):

        def make(dtype: str, m: int, k: int, n: int, threads: int, provider: str = provider) -> Call | None:
            return product(dtype, m, k, n, threads, provider)

        shapes = layer_shapes(arguments.hidden, arguments.intermediate)
        for found in products(engine, make, shapes, arguments.threads):
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
