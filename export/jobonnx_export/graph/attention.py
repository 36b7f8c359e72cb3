"""Multi-head attention, within each title: three kinds, by what the runtime that compiles the graph can fuse."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from onnx import TensorProto

from jobonnx_export.checkpoint import Checkpoint
from jobonnx_export.graph.layout import MASKED, Layout, Rows, Windows
from jobonnx_export.graph.linear import Linear
from jobonnx_export.graph.writer import MICROSOFT


class Attention(ABC):
    """Projections, softmax(QK^T / sqrt(d)) V, and the output projection."""

    def __init__(self, checkpoint: Checkpoint, layout: Layout, linear: Linear) -> None:
        self._graph = layout.graph
        self._checkpoint = checkpoint
        self._heads = checkpoint.architecture.heads
        self._layout = layout
        self._linear = linear

    def keys_and_values(self, x: str, name: str) -> tuple[str, str]:
        """Project rows of all tokens to keys and values, each [batch, sequence, hidden]."""
        keys, values = (self._project(x, f"{name}.self.{part}") for part in ("key", "value"))
        return self._layout.to_batch(keys), self._layout.to_batch(values)

    def __call__(self, x: str, rows: Rows, keys: str, values: str, name: str) -> str:
        """Let rows `x`, which lie as `rows` says, attend to the keys of their titles; return as many rows."""
        queries = rows.to_batch(self._project(x, f"{name}.self.query"))
        return self._output(rows.from_batch(self._attend(queries, keys, values, rows)), name)

    def _project(self, x: str, name: str) -> str:
        return self._linear(x, name)

    def _output(self, attended: str, name: str) -> str:
        return self._linear(attended, f"{name}.output.dense")

    @abstractmethod
    def _attend(self, queries: str, keys: str, values: str, rows: Rows) -> str:
        """Weigh the values by the scores of queries and keys: [batch, queries, hidden]."""


class FusedAttention(Attention):
    """ONNX Runtime's kernel with a mask, as its CPU provider has it."""

    def _attend(self, queries: str, keys: str, values: str, rows: Rows) -> str:
        inputs = (queries, keys, values, "", self._layout.mask)
        return self._graph.op("MultiHeadAttention", *inputs, domain=MICROSOFT, num_heads=self._heads, mask_filter_value=MASKED)


class WindowedAttention(Attention):
    """ONNX Runtime's kernel for GPUs, on windows of several titles; see `Windows`.

    The kernel gets no biases, which would cost a pass over queries, keys and values each. That of the keys adds the same to all
    scores of a query, which softmax takes out again. That of the values passes the softmax, whose weights sum to 1, and is added
    after the output projection. That of the queries is added before.
    """

    def __init__(self, checkpoint: Checkpoint, layout: Windows, linear: Linear, dtype: Any) -> None:
        super().__init__(checkpoint, layout, linear)
        self._windows = layout
        self._dtype = dtype

    def keys_and_values(self, x: str, name: str) -> tuple[str, str]:
        """See `Attention`; without their biases."""
        keys, values = (f"{name}.self.{part}" for part in ("key", "value"))
        return self._product(x, keys), self._product(x, values)

    def _output(self, attended: str, name: str) -> str:
        weight, bias = (self._checkpoint.tensor(f"{name}.output.dense.{part}") for part in ("weight", "bias"))
        bias = bias + weight @ self._checkpoint.tensor(f"{name}.self.value.bias")
        return self._windows.linear(attended, f"{name}.output.dense", weight, bias, self._dtype)

    def _product(self, x: str, name: str) -> str:
        return self._windows.product(x, name, self._checkpoint.tensor(f"{name}.weight"), self._dtype)

    def _attend(self, queries: str, keys: str, values: str, rows: Rows) -> str:
        inputs = (queries, keys, values, "", "", self._windows.apart(rows, self._dtype))
        return self._graph.op("MultiHeadAttention", *inputs, domain=MICROSOFT, num_heads=self._heads)


class StandardAttention(Attention):
    """Standard operators only, for compilers that recognise attention by its shape. Scores and softmax are float32."""

    def __init__(self, checkpoint: Checkpoint, layout: Layout, linear: Linear, dtype: Any) -> None:
        super().__init__(checkpoint, layout, linear)
        self._dtype = dtype

    def _attend(self, queries: str, keys: str, values: str, rows: Rows) -> str:
        g = self._graph
        hidden = self._checkpoint.architecture.hidden
        width = hidden // self._heads
        split = g.ints(0, -1, self._heads, width)
        q = g.op("Transpose", g.op("Reshape", queries, split), perm=[0, 2, 1, 3])
        k = g.op("Transpose", g.op("Reshape", keys, split), perm=[0, 2, 3, 1])
        v = g.op("Transpose", g.op("Reshape", values, split), perm=[0, 2, 1, 3])
        shares = g.op("Softmax", g.op("Add", self._scores(q, k, width), self._padding()), axis=-1)
        if self._dtype is np.float16:
            shares = g.op("Cast", shares, to=TensorProto.FLOAT16)
        attended = g.op("Transpose", g.op("MatMul", shares, v), perm=[0, 2, 1, 3])
        return g.op("Reshape", attended, g.ints(0, -1, hidden))

    def _scores(self, q: str, k: str, width: int) -> str:
        """q k / sqrt(width), float32 [batch, heads, queries, keys]."""
        g = self._graph
        scale = g.scalar("1/sqrt(width)", 1 / np.sqrt(width), self._dtype)
        if self._dtype is np.float32:
            return g.op("Mul", g.op("MatMul", q, k), scale)
        # Scaled before the product, because float16 ends at 65,504.
        return g.op("Cast", g.op("MatMul", g.op("Mul", q, scale), k), to=TensorProto.FLOAT)

    def _padding(self) -> str:
        """Return what is added to the scores: 0 for real tokens, `MASKED` for padding, float32 [batch, 1, 1, sequence]."""
        g = self._graph
        padding = g.op("Sub", g.scalar("one", 1, np.int32), g.op("Unsqueeze", self._layout.mask, g.ints(1, 2)))
        return g.op("Mul", g.op("Cast", padding, to=TensorProto.FLOAT), g.scalar("masked", MASKED, np.float32))
