"""The rate of matrix products that ONNX Runtime reaches here, at an encoder's layer shapes.

    python -m jobonnx_bench.gemm --hidden 1024 --intermediate 4096 --threads 2 --provider cpu

prints one JSON object per measurement: {"product": `Product`}. Whatever knows providers imports jobonnx where it is needed, so that
benchmarks/limits.py can use the rest for other engines in environments without jobonnx.

A product is x [m, k] times a constant weight [k, n], the weight packed beforehand, as in a loaded model. The fastest of several
calls counts, over at least 0.1 s: a limit is what the machine can do. int8 is U8 activations by S8 weights, summed in int32 without
overflow, as jobonnx runs them; their scales are left to the model. Providers of standard graphs take int8 only between quantising
and dequantising nodes (QDQ), whose scales are then part of the product. A provider may compute fp32 in bf16; the result shows it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jobonnx.runtime.providers.base import Provider

DTYPES = ("fp32", "bf16", "fp16", "int8")
ROWS = (8, 64, 256, 1024)
ENGINE = "onnxruntime"  # ONNX Runtime's own CPU kernels
NO_KERNEL = "no kernel"
CPU = "cpu"  # the device of everything that runs on no GPU
_SECONDS = 0.1
_CALLS = 5
_ROUNDING = 1e-4  # of a product's norm: fp32 errs by less, bf16 by more
_X_SCALE, _WEIGHT_SCALE, _ZERO = 4 / 127, 0.01, 128  # of quantised floats
_OVERFLOW = 1e-3  # of a product's norm: exact int8 sums err by less, saturated ones by more
Array = np.ndarray[Any, Any]
Call = Callable[[], Any]
MakeProduct = Callable[[str, int, int, int, int], Call]  # dtype, m, k, n, threads


@dataclass(frozen=True)
class Product:
    """One measured product, or why it could not be measured."""

    engine: str
    device: str
    dtype: str
    m: int
    k: int
    n: int
    seconds: float | None = None
    missing: str | None = None

    def __post_init__(self) -> None:
        if (self.seconds is None) == (self.missing is None) or (self.seconds is not None and self.seconds <= 0):
            raise ValueError("seconds has to be above 0, or missing a reason")


class NoProductError(Exception):
    """An engine has no such product; the message is the reason."""


def best(call: Call) -> float:
    """Time the fastest of at least 5 calls and 0.1 s of them, in seconds, after a first call that does not count."""
    call()
    found: list[float] = []
    end = time.perf_counter() + _SECONDS
    while len(found) < _CALLS or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return min(found)


def layer_shapes(hidden: int, intermediate: int) -> list[tuple[int, int]]:
    """k and n of a layer's products: query, key, value and attention output; the feed-forward's two."""
    return [(hidden, hidden), (hidden, intermediate), (intermediate, hidden)]


def measure_products(
    engine: str, device: str, make: MakeProduct, shapes: Sequence[tuple[int, int]], threads: int
) -> Iterator[Product]:
    """Measure every dtype at every shape (k, n) and number of rows."""
    for dtype in DTYPES:
        for k, n in shapes:
            for m in ROWS:
                product = partial(Product, engine, device, dtype, m, k, n)
                try:
                    yield product(seconds=best(make(dtype, m, k, n, threads)))
                except NoProductError as error:
                    yield product(missing=str(error))
                except Exception as error:  # an engine that lacks one kernel still has the others
                    yield product(missing=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")


def refuse_overflow(found: Array, exact: Array) -> None:
    """Refuse a product of large int8 values that saturated on the way.

    x86 without VNNI adds pairs of U8 x S8 products in 16 bits; such a product is fast, and wrong.

    Raises:
        NoProductError: `found` is further from `exact` than rounding explains.
    """
    if not _is_near(found, exact, _OVERFLOW):
        raise NoProductError("int8 products overflow on this CPU")


def _is_near(found: Array, exact: Array, tolerance: float) -> bool:
    difference = found.astype(np.float64) - exact
    return bool(np.linalg.norm(difference) < tolerance * np.linalg.norm(exact))


def provider_product(dtype: str, m: int, k: int, n: int, threads: int, provider: str) -> Call:
    """Make one product on one of jobonnx's execution providers, ready to be called.

    Args:
        dtype: one of `DTYPES`.
        m: rows of x.
        k: columns of x and rows of the weight.
        n: columns of the weight.
        threads: of providers that run on the CPU.
        provider: jobonnx's name of it.

    Raises:
        NoProductError: the provider does not compute in that type, or not exactly.
        JobonnxError: the provider is not here.
    """
    import onnxruntime as ort

    from jobonnx.runtime.providers import find_provider
    from jobonnx.runtime.providers.base import STANDARD

    known = find_provider(provider).for_variant(dtype)
    device = known.device
    if dtype == "fp16" and device == CPU:
        raise NoProductError(NO_KERNEL)  # it would be fp32 between casts
    x, weight, y = _arrays(dtype, m, k, n, integers=dtype == "int8" and known.target != STANDARD)
    session = _open(_model(x, weight, y), known, threads)

    def first_row(inputs: Array) -> Array:
        row: Array = session.run(None, {"x": inputs})[0][:1]
        return row

    if dtype == "int8":
        refuse_overflow(*_largest(x, weight, first_row))
    elif dtype != "fp16" and _is_near(first_row(x), x[:1].astype(np.float64) @ weight, _ROUNDING) != (dtype == "fp32"):
        raise NoProductError(NO_KERNEL)  # no provider takes bf16 in a graph for a CPU; some compute fp32 graphs in bf16
    values = [ort.OrtValue.ortvalue_from_numpy(array, device, 0) for array in (x, y)]
    binding = session.io_binding()  # no allocation, no copy: the product alone
    binding.bind_ortvalue_input("x", values[0])
    binding.bind_ortvalue_output("y", values[1])

    def call(memory: Any = values) -> Any:  # the binding does not keep its arrays alive
        return session.run_with_iobinding(binding)

    return call


def _arrays(dtype: str, m: int, k: int, n: int, integers: bool) -> tuple[Array, Array, Array]:
    """Make x [m, k], the weight [k, n] and room for their product [m, n]; with `integers` x is U8 and the product S32."""
    rng = np.random.default_rng(0)
    kind = np.float16 if dtype == "fp16" else np.float32
    x: Array = rng.standard_normal((m, k), dtype=np.float32).astype(kind)
    weight: Array = rng.standard_normal((k, n), dtype=np.float32).astype(kind)
    if dtype == "int8":
        weight = rng.integers(-127, 127, (k, n), dtype=np.int8)
    if integers:
        return rng.integers(0, 255, (m, k), dtype=np.uint8), weight, np.empty((m, n), np.int32)
    return x, weight, np.empty((m, n), kind)


def _largest(x: Array, weight: Array, first_row: Callable[[Array], Array]) -> tuple[Array, Array]:
    """Compute the first row of the largest activations times an int8 weight: as found, and exactly."""
    sums = weight.astype(np.float64).sum(axis=0, keepdims=True)
    if x.dtype == np.uint8:
        return first_row(np.full_like(x, 255)), (255 - _ZERO) * sums
    return first_row(np.full_like(x, 127 * _X_SCALE)), 127 * _X_SCALE * sums * _WEIGHT_SCALE


def _model(x: Array, weight: Array, y: Array) -> bytes:
    """Build x times weight as an ONNX model. An int8 weight meets U8 integers, or floats that are quantised on the way (QDQ)."""
    from onnx import helper, numpy_helper

    constants = {"weight": weight}
    zero = np.array(_ZERO, np.uint8)
    if weight.dtype != np.int8:
        nodes = [helper.make_node("MatMul", ["x", "weight"], ["y"])]
    elif x.dtype == np.uint8:
        constants |= {"zero": zero, "weight_zero": np.array(0, np.int8)}
        nodes = [helper.make_node("MatMulInteger", ["x", "weight", "zero", "weight_zero"], ["y"])]
    else:
        columns = weight.shape[1]
        constants |= {"zero": zero, "scale": np.array(_X_SCALE, np.float32)}
        constants |= {"weight_zero": np.zeros(columns, np.int8), "weight_scale": np.full(columns, _WEIGHT_SCALE, np.float32)}
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


def _open(model: bytes, provider: Provider, threads: int) -> Any:
    """Open a session as jobonnx does for the provider, with buffers left to the caller.

    Raises:
        JobonnxError: the provider is not here.
        NoProductError: it left the product to another one.
    """
    from jobonnx.errors import ProviderUnavailableError
    from jobonnx.runtime.providers.base import session_options
    from jobonnx.runtime.providers.wheel import import_onnxruntime
    from jobonnx.runtime.session import Session, Settings

    if reason := provider.unavailable_reason():
        raise ProviderUnavailableError(reason)
    ort = import_onnxruntime()
    settings = Settings(provider.name, threads)
    options = session_options(ort, settings)
    with tempfile.TemporaryDirectory(prefix="jobonnx-gemm-") as folder:
        graph = Path(folder) / "product.onnx"
        graph.write_bytes(model)
        providers = provider.configure(options, graph, None, settings)
        session = ort.InferenceSession(str(graph), options, providers=providers, enable_fallback=0)
    if others := Session(session, provider.name, threads).nodes.keys() - {provider.ort_name}:
        raise NoProductError(f"left to {', '.join(sorted(others))}")
    return session


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m jobonnx_bench.gemm", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--hidden", type=int, required=True)
    parser.add_argument("--intermediate", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--provider", action="append", required=True, metavar="NAME", help="jobonnx's name of it; may be repeated")
    arguments = parser.parse_args()
    from jobonnx.runtime.providers import EVERYWHERE, find_provider

    shapes = layer_shapes(arguments.hidden, arguments.intermediate)
    for provider in arguments.provider:
        engine = ENGINE if provider == EVERYWHERE else f"{ENGINE} on {provider}"
        make = partial(provider_product, provider=provider)
        for product in measure_products(engine, find_provider(provider).device, make, shapes, arguments.threads):
            print(json.dumps({"product": asdict(product)}), flush=True)


if __name__ == "__main__":
    main()
