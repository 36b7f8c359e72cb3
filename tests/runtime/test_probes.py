"""The products that tell what a provider computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobonnx.runtime import probes
from jobonnx.runtime.providers import PROVIDERS
from jobonnx.runtime.providers.cpu import overflows
from jobonnx.runtime.session import Session, Settings


def on_the_cpu(graph: Path) -> Session:
    return PROVIDERS["cpu"].open_session(graph, None, Settings("cpu", 1))


class Fixed:
    """A session that gives one number whatever it is fed."""

    def __init__(self, value: float) -> None:
        self.value = value

    def feed(self, **inputs: Any) -> Any:
        return np.full((4, 16), self.value, np.float32)


def product_graph(kind: str, *extra: str, domain: str = "") -> bytes:
    """u8 [rows, 64] by s8 weights [64, 16], all 127."""
    from onnx import TensorProto, helper, numpy_helper

    constants = {
        "weight": np.full((64, 16), 127, np.int8),
        "scale": np.float32(1),
        "scales": np.ones(16, np.float32),
        "zero": np.uint8(128),
        "weight_zero": np.int8(0),
    }
    whole = TensorProto.INT32 if kind == "MatMulInteger" else TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node(kind, ["x", "weight", *extra], ["y"], domain=domain)],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["rows", 64])],
        [helper.make_tensor_value_info("y", whole, ["rows", 16])],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items() if name in ("weight", *extra)],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    return model


def test_the_graph_that_tries_for_overflow_is_the_one_made_here() -> None:
    # Without zero points onnxruntime before 1.30 dies of it under session.x64quantprecision.
    assert probes.OVERFLOW.read_bytes() == product_graph("MatMulInteger", "zero", "weight_zero")


def float_graph(nodes: list[Any], constants: dict[str, Any]) -> bytes:
    """fp32 [rows, 64] to fp32 [rows, 16]."""
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 16])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    return model


def rounding_graph() -> bytes:
    """By weights [64, 16], all 1."""
    from onnx import helper

    return float_graph([helper.make_node("MatMul", ["x", "weight"], ["y"])], {"weight": np.ones((64, 16), np.float32)})


def overflow_qdq_graph() -> bytes:
    """To bytes with step 1 and zero point 128, by s8 weights [64, 16], all 127, in standard operators."""
    from onnx import helper

    return float_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["bytes"]),
            helper.make_node("DequantizeLinear", ["bytes", "step", "zero"], ["left"]),
            helper.make_node("DequantizeLinear", ["weight", "scales", "zeros"], ["right"], axis=1),
            helper.make_node("MatMul", ["left", "right"], ["y"]),
        ],
        {
            "step": np.float32(1),
            "zero": np.uint8(128),
            "weight": np.full((64, 16), 127, np.int8),
            "scales": np.ones(16, np.float32),
            "zeros": np.zeros(16, np.int8),
        },
    )


def test_the_graphs_of_standard_operators_are_the_ones_made_here() -> None:
    assert probes.ROUNDING.read_bytes() == rounding_graph()
    assert probes.OVERFLOW_QDQ.read_bytes() == overflow_qdq_graph()


def test_the_cpu_provider_neither_rounds_nor_overflows_on_them() -> None:
    assert not probes.rounds_floats(on_the_cpu)
    assert not probes.qdq_overflows(on_the_cpu)
    assert not probes.int8_overflows(on_the_cpu)


@pytest.mark.parametrize(
    ("probe", "wrong", "right"),
    [
        (probes.int8_overflows, 8160, 64 * 127 * 127),
        (probes.qdq_overflows, 8160, 64 * 127 * 127),
        (probes.rounds_floats, 64, 64 * (1 + 2**-12)),
    ],
)
def test_each_probe_tells_wrong_from_right(probe: Any, wrong: float, right: float) -> None:
    assert probe(lambda graph: Fixed(wrong))
    assert not probe(lambda graph: Fixed(right))


def test_int8_products_are_exact_on_every_cpu(tmp_path: Path) -> None:
    """Without VNNI an x86 CPU adds pairs of u8 x s8 products in 16 bits; the largest ones would overflow there."""
    path = tmp_path / "product.onnx"
    operands = ("scale", "scales", "zero", "weight_zero")
    path.write_bytes(product_graph("MatMulIntegerToFloat", *operands, domain="com.microsoft"))
    x = np.array([[255] * 64, [1] * 64, [0, 255] * 32], np.uint8)
    expected = (x.astype(np.int64) - 128) @ np.full((64, 16), 127)
    np.testing.assert_array_equal(on_the_cpu(path).feed(x=x), expected.astype(np.float32))


def test_slow_exact_products_only_where_the_fast_ones_overflow() -> None:
    """With VNNI or AMX the option would take the kernels that need them away."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        pytest.skip("needs /proc/cpuinfo to know the CPU's features")
    exact_ones = {"avx512_vnni", "avx_vnni", "amx_int8", "asimd"}
    assert overflows() == (not flags & exact_ones)
