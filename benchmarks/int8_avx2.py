"""int8 on CPUs without VNNI: what ONNX Runtime's products reach in every way that gives exact sums, beside PyTorch's.

    python benchmarks/int8_avx2.py [--threads 2] [--rounds 5] [--rows 64 256 1024]

Prints GOP/s over the products of one layer of the full-size encoder (four of 1024 x 1024, one of 1024 x 4096, one of 4096 x 1024),
by rows. The ways take turns within each round, and the best of all rounds counts, so a busy moment harms none of them alone. A way
whose sums are wrong for the largest bytes is marked: such a rate buys nothing. Needs onnx; PyTorch's row needs torch.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from jobonnx_bench.gemm import NoProductError, best

_SHAPES = {(1024, 1024): 4, (1024, 4096): 1, (4096, 1024): 1}  # k and n -> how often in a layer
_ZERO = 128
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Way:
    """A way to multiply U8 activations and S8 weights."""

    name: str
    make: Callable[[int, Array], tuple[list[Any], dict[str, Array], int]]  # rows, weight -> nodes, constants, type of x
    exact_sums: bool = False  # whether ONNX Runtime is told to make U8 of S8 weights


def plain(rows: int, weight: Array) -> tuple[list[Any], dict[str, Array], int]:
    """One MatMulInteger."""
    node = helper.make_node("MatMulInteger", ["x", "w", "zero", "w_zero"], ["y"])
    return [node], {"w": weight, "zero": np.array(_ZERO, np.uint8), "w_zero": np.array(0, np.int8)}, TensorProto.UINT8


def unsigned(rows: int, weight: Array) -> tuple[list[Any], dict[str, Array], int]:
    """Write one MatMulInteger of weights that are U8 with a zero point."""
    nodes, constants, kind = plain(rows, weight)
    shifted = (weight.astype(np.int16) + _ZERO).astype(np.uint8)
    return nodes, constants | {"w": shifted, "w_zero": np.array(_ZERO, np.uint8)}, kind


def row_blocks(size: int) -> Callable[[int, Array], tuple[list[Any], dict[str, Array], int]]:
    """One MatMulInteger for each block of rows."""

    def make(rows: int, weight: Array) -> tuple[list[Any], dict[str, Array], int]:
        sizes = [min(size, rows - start) for start in range(0, rows, size)]
        parts = [f"x{i}" for i in range(len(sizes))]
        nodes = [helper.make_node("Split", ["x", "sizes"], parts, axis=0)]
        nodes += [helper.make_node("MatMulInteger", [part, "w", "zero", "w_zero"], [f"y_{part}"]) for part in parts]
        nodes.append(helper.make_node("Concat", [f"y_{part}" for part in parts], ["y"], axis=0))
        _, constants, kind = unsigned(rows, weight)
        return nodes, constants | {"sizes": np.array(sizes, np.int64)}, kind

    return make


def column_blocks(size: int) -> Callable[[int, Array], tuple[list[Any], dict[str, Array], int]]:
    """One MatMulInteger for each block of columns, so that a packed panel of weights stays in a core's cache."""

    def make(rows: int, weight: Array) -> tuple[list[Any], dict[str, Array], int]:
        starts = range(0, weight.shape[1], size)
        shifted = (weight.astype(np.int16) + _ZERO).astype(np.uint8)
        constants = {f"w{i}": np.ascontiguousarray(shifted[:, start : start + size]) for i, start in enumerate(starts)}
        nodes = [helper.make_node("MatMulInteger", ["x", w, "zero", "w_zero"], [f"y_{w}"]) for w in constants]
        nodes.append(helper.make_node("Concat", [f"y_{w}" for w in constants], ["y"], axis=1))
        zeros = {"zero": np.array(_ZERO, np.uint8), "w_zero": np.array(_ZERO, np.uint8)}
        return nodes, constants | zeros, TensorProto.UINT8

    return make


def two_signs(rows: int, weight: Array) -> tuple[list[Any], dict[str, Array], int]:
    """Run the overflowing kernel on positive and negative parts of 7 bits, whose pairs fit into 16 bits: exact, twice the work."""
    nodes = [
        helper.make_node("Max", ["x", "zero"], ["high"]),
        helper.make_node("Min", ["x", "zero"], ["low"]),
        helper.make_node("Sub", ["high", "zero"], ["positive"]),
        helper.make_node("Sub", ["zero", "low"], ["negative"]),
        helper.make_node("Concat", ["positive", "negative"], ["both"], axis=0),
        helper.make_node("MatMulInteger", ["both", "w"], ["products"]),
        helper.make_node("Split", ["products"], ["a", "b"], axis=0, num_outputs=2),
        helper.make_node("Sub", ["a", "b"], ["y"]),
    ]
    return nodes, {"w": weight, "zero": np.array(_ZERO, np.uint8)}, TensorProto.UINT8


def dynamic(rows: int, weight: Array) -> tuple[list[Any], dict[str, Array], int]:
    """DynamicQuantizeMatMul: one activation scale for the whole batch, so no way for jobonnx; its rate is."""
    scale = np.ones(weight.shape[1], np.float32)
    node = helper.make_node("DynamicQuantizeMatMul", ["x", "w", "scale"], ["y"], domain="com.microsoft")
    return [node], {"w": weight, "scale": scale}, TensorProto.FLOAT


def blockwise(block: int) -> Callable[[int, Array], tuple[list[Any], dict[str, Array], int]]:
    """MatMulNBits of 8 bits, with the accuracy level that computes in int8: scales per block of rows of the weight."""

    def make(rows: int, weight: Array) -> tuple[list[Any], dict[str, Array], int]:
        k, n = weight.shape
        packed = (weight.T.astype(np.int16) + _ZERO).astype(np.uint8).reshape(n, k // block, block)
        node = helper.make_node(
            "MatMulNBits", ["x", "w", "scale"], ["y"], domain="com.microsoft", K=k, N=n, bits=8, block_size=block, accuracy_level=4
        )
        scale = np.ones((n, k // block), np.float32)
        return [node], {"w": packed, "scale": scale}, TensorProto.FLOAT

    return make


WAYS = (
    Way("U8 x S8 as it comes", plain),
    Way("exact: session.x64quantprecision", plain, exact_sums=True),
    Way("exact: weights written as U8", unsigned),
    *(Way(f"exact: blocks of {size} rows", row_blocks(size)) for size in (48, 96, 192, 384)),
    *(Way(f"exact: blocks of {size} columns", column_blocks(size)) for size in (256, 512)),
    Way("exact: positive and negative parts", two_signs),
    Way("DynamicQuantizeMatMul", dynamic, exact_sums=True),
    *(Way(f"MatMulNBits, 8 bits, blocks of {size}", blockwise(size)) for size in (32, 128, 256)),
)


def product(way: Way, rows: int, k: int, n: int, threads: int) -> tuple[Callable[[], Any], bool | None]:
    """Make a product ready to be called, and tell whether its sums are exact; None where it rounds the activations itself."""
    rng = np.random.default_rng(0)
    weight = rng.integers(-127, 128, (k, n)).astype(np.int8)
    nodes, constants, kind = way.make(rows, weight)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    if way.exact_sums:
        options.add_session_config_entry("session.x64quantprecision", "1")
    result = TensorProto.INT32 if kind == TensorProto.UINT8 else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", kind, [rows, k])],
        [helper.make_tensor_value_info("y", result, [rows, n])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    integers = rng.integers(0, 256, (rows, k)).astype(np.uint8)
    exact = None
    if kind == TensorProto.UINT8:
        largest = np.full((rows, k), 255, np.uint8)
        wanted = (255 - _ZERO) * weight.astype(np.int64).sum(axis=0)
        exact = bool((session.run(None, {"x": largest})[0][0] == wanted).all())
    x = integers if kind == TensorProto.UINT8 else integers.astype(np.float32) - _ZERO
    values = [
        ort.OrtValue.ortvalue_from_numpy(array) for array in (x, np.empty((rows, n), np.int32 if exact is not None else np.float32))
    ]
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", values[0])
    binding.bind_ortvalue_output("y", values[1])
    return lambda memory=(values, session): session.run_with_iobinding(binding), exact


def pytorch(rows: int, k: int, n: int, threads: int) -> Callable[[], Any] | None:
    """Make PyTorch's product, which is oneDNN's; None where torch is not installed, or where the sums overflow."""
    try:
        import torch  # noqa: F401
    except ImportError:
        return None
    from limits import torch_product

    try:
        return torch_product("int8", rows, k, n, threads)
    except NoProductError:
        return None


def rates(rows: int, threads: int, rounds: int) -> Iterator[tuple[str, float, bool | None]]:
    """Name, operations per second over a layer, and exactness of each way."""
    calls: dict[str, list[tuple[Callable[[], Any], int]]] = {}
    exact: dict[str, bool | None] = {}
    operations = 0
    for (k, n), times in _SHAPES.items():
        operations += 2 * rows * k * n * times
        for way in WAYS:
            call, right = product(way, rows, k, n, threads)
            calls.setdefault(way.name, []).append((call, times))
            exact[way.name] = right if exact.get(way.name, True) else exact[way.name]
        if theirs := pytorch(rows, k, n, threads):
            calls.setdefault("PyTorch (oneDNN)", []).append((theirs, times))
            exact["PyTorch (oneDNN)"] = True
    least = {name: [float("inf")] * len(parts) for name, parts in calls.items()}
    for _ in range(rounds):
        for name, parts in calls.items():
            least[name] = [min(so_far, best(call)) for so_far, (call, _) in zip(least[name], parts, strict=True)]
    for name, parts in calls.items():
        seconds = sum(time * times for time, (_, times) in zip(least[name], parts, strict=True))
        yield name, operations / seconds, exact[name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, nargs="+", default=[64, 256, 1024])
    arguments = parser.parse_args()
    marks = {True: "exact", False: "**overflows**", None: "rounds the activations itself"}
    found = {rows: list(rates(rows, arguments.threads, arguments.rounds)) for rows in arguments.rows}
    print(f"onnxruntime {ort.__version__}, {arguments.threads} threads; GOP/s")
    print("| way | sums | " + " | ".join(f"{rows} rows" for rows in found) + " |\n|---|---|" + "--:|" * len(found))
    for place, (name, _, exact) in enumerate(next(iter(found.values()))):
        print(f"| {name} | {marks[exact]} | " + " | ".join(f"{of[place][1] / 1e9:.0f}" for of in found.values()) + " |")


if __name__ == "__main__":
    main()
