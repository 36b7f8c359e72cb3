"""The three kinds of linear layer: in floats, in int8 with ONNX Runtime's own operator, and in int8 with standard operators.

Each is called with rows [..., in] and the name of a module of the checkpoint, and returns rows [..., out].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from jobonnx.arrays import Floats
from jobonnx_export.checkpoint import Checkpoint
from jobonnx_export.graph.layout import Layout
from jobonnx_export.graph.writer import MICROSOFT, GraphWriter
from jobonnx_export.quantize import TINY, InputQuantization, Int8Recipe, QuantizedLinear, Split


class Linear(Protocol):
    """Any of the three."""

    def __call__(self, x: str, name: str) -> str:
        """Add the layer `name` of the checkpoint to the graph."""


class FloatLinear:
    """y = x W^T + b, in float32 or float16."""

    def __init__(self, checkpoint: Checkpoint, layout: Layout, dtype: Any) -> None:
        self._checkpoint = checkpoint
        self._layout = layout
        self._dtype = dtype

    def __call__(self, x: str, name: str, divisors: Floats | None = None, split: Split | None = None) -> str:
        """Add the layer; its output is divided by `divisors` [out] and split, which is done to its weight and bias."""
        bias, weight = self._checkpoint.tensor(f"{name}.bias"), self._checkpoint.tensor(f"{name}.weight")
        if divisors is not None:
            bias, weight = bias / divisors, weight / divisors[:, None]
        if split is not None:
            bias, weight = _copied(bias, split), weight[split.columns(len(weight))]
        return self._layout.linear(x, name, weight, bias, self._dtype)


def _copied(bias: Floats, split: Split) -> Floats:
    """Add the copies' biases to those of a layer's channels."""
    copied: Floats = np.concatenate([bias, bias[split.channels] - split.offsets])
    return copied


class _Int8Layer(ABC):
    """Layers of the recipe in int8, those it does not name in float32."""

    def __init__(self, graph: GraphWriter, checkpoint: Checkpoint, layout: Layout, recipe: Int8Recipe) -> None:
        self._graph = graph
        self._checkpoint = checkpoint
        self._recipe = recipe
        self._float = FloatLinear(checkpoint, layout, np.float32)
        self._quantized: dict[tuple[str, InputQuantization], tuple[str, str]] = {}  # input -> what _quantize made of it

    def __call__(self, x: str, name: str) -> str:
        layer, divisors = self._recipe.linears.get(name), self._recipe.value_smoothing.get(name)
        split = self._recipe.splits.get(name)
        if layer is None:
            return self._float(x, name, divisors, split)
        bias, weight_scale = self._checkpoint.tensor(f"{name}.bias"), layer.weight_scale
        if divisors is not None:
            bias, weight_scale = bias / divisors, weight_scale / divisors
        if split is not None:
            columns = split.columns(len(bias))
            bias, weight_scale = _copied(bias, split), weight_scale[columns]
            layer = replace(layer, weight=layer.weight[:, columns])
        values, scale = self._quantize(x, name, layer.input)
        return self._multiply(values, scale, name, layer, weight_scale.astype(np.float32), bias.astype(np.float32))

    @abstractmethod
    def _multiply(self, values: str, scale: str, name: str, layer: QuantizedLinear, weight_scale: Floats, bias: Floats) -> str:
        """Add the product of quantised values, their scale, and the bias."""

    def _quantize(self, x: str, name: str, how: InputQuantization) -> tuple[str, str]:
        """Quantise rows to uint8. Layers that read the same input share the result.

        Returns:
            The values, and their scale: a constant, or float32 [rows, 1].
        """
        g = self._graph
        key = x, how
        if key not in self._quantized:
            if how.inverse_smoothing is not None:
                x = g.op("Mul", x, g.const(f"{name}.smooth", how.inverse_smoothing.astype(np.float32)))
            if how.scale is not None:
                scale = g.scalar(f"{name}.step", how.scale, np.float32)
                values = g.op("QuantizeLinear", x, scale, self._zero_point(how))
            else:
                scale = self._per_token_scale(x, how.zero_point)
                one = g.scalar("unit", 1, np.float32)
                values = g.op("QuantizeLinear", g.op("Div", x, scale), one, self._zero_point(how))
            self._quantized[key] = values, scale
        return self._quantized[key]

    def _per_token_scale(self, x: str, zero_point: int) -> str:
        """Return the smallest scale that maps minimum and maximum of each row into 0..255, for this zero point: [rows, 1]."""
        g = self._graph
        above, below = (g.scalar(f"1/{n}", 1 / n, np.float32) for n in (255 - zero_point, -zero_point))
        return g.op(
            "Max",
            g.op("Mul", g.op("ReduceMax", x, g.ints(1), keepdims=1), above),
            g.op("Mul", g.op("ReduceMin", x, g.ints(1), keepdims=1), below),
            # A row of zeros has scale 0 and would give 0 / 0. Any positive scale makes it zeros.
            g.scalar("tiny", TINY, np.float32),
        )

    def _zero_point(self, how: InputQuantization) -> str:
        return self._graph.scalar(f"zero_point_{how.zero_point}", how.zero_point, np.uint8)


class Int8Linear(_Int8Layer):
    """uint8 activations by int8 weights, in ONNX Runtime's MatMulIntegerToFloat; per-channel weight scales."""

    def _multiply(self, values: str, scale: str, name: str, layer: QuantizedLinear, weight_scale: Floats, bias: Floats) -> str:
        g = self._graph
        per_tensor = layer.input.scale is not None
        bias_name = g.const(f"{name}.bias", bias)
        product = g.op(
            "MatMulIntegerToFloat",
            values,
            g.const(f"{name}.weight_s8", layer.weight),
            scale if per_tensor else g.scalar("unit", 1, np.float32),
            g.const(f"{name}.scale", weight_scale),
            self._zero_point(layer.input),
            # The weight's zero point is 0, and a constant per layer, because ONNX Runtime's rewrite for CPUs without VNNI changes
            # it and would change a shared one twice. Before 1.30 that rewrite crashes without one.
            g.scalar(f"{name}.zero", 0, np.int8),
            *([bias_name] if per_tensor else []),
            domain=MICROSOFT,
        )
        return product if per_tensor else g.op("Add", g.op("Mul", product, scale), bias_name)


class QdqLinear(_Int8Layer):
    """The same in standard operators, which compilers turn into integer products of their own. Per-tensor scales only."""

    def _multiply(self, values: str, scale: str, name: str, layer: QuantizedLinear, weight_scale: Floats, bias: Floats) -> str:
        g = self._graph
        x = g.op("DequantizeLinear", values, scale, self._zero_point(layer.input))
        scales = g.const(f"{name}.scale", weight_scale)
        # One zero point per channel: the rewrite that Int8Linear tells of takes the scale's shape for it.
        zeros = g.const(f"{name}.zeros", np.zeros(len(weight_scale), np.int8))
        stored = g.const(f"{name}.weight_s8", layer.weight)
        weight = g.op("DequantizeLinear", stored, scales, zeros, name=f"{name}.weight", axis=1)
        return g.op("Add", g.op("MatMul", x, weight), g.const(f"{name}.bias", bias))
