"""How the tokens of a batch lie in memory between two attentions: without padding for CPUs, with padding for GPUs.

Attention works on [batch, sequence, hidden]. All the rest of the model works on rows of `hidden` numbers, one per token, and does
not care which title a row belongs to.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

import numpy as np
from onnx import TensorProto

from jobonnx.arrays import Floats
from jobonnx_export.graph.writer import GraphWriter

MASKED = -1e4  # added to the scores of what is not attended to: exp gives exactly 0, and float16 can hold it
_WINDOW = 64  # tokens


class Rows(Protocol):
    """Rows of `hidden` numbers: of all tokens, or of the first token of each title."""

    def to_batch(self, x: str) -> str:
        """Give attention its shape: rows -> [batch, sequence, hidden]."""

    def from_batch(self, x: str) -> str:
        """Take attention's shape back: [batch, sequence, hidden] -> rows."""

    def pool(self, x: str) -> str:
        """Reduce the rows of each title to one: float32 rows -> [batch, hidden]. Of all tokens it is the mean."""


class Layout(ABC):
    """Rows of all tokens. Creating one adds the nodes that know where each token lies."""

    counts_in: int  # ONNX type that positions are counted in

    def __init__(self, graph: GraphWriter, hidden: int) -> None:
        """Read `attention_mask`, int64 [batch, sequence], once for all that need it.

        Args:
            graph: where the nodes go.
            hidden: numbers per row.
        """
        self.graph = graph
        self.hidden = hidden
        self.mask = graph.op("Cast", "attention_mask", to=TensorProto.INT32, name="mask")

    @abstractmethod
    def tokens(self, cells: str) -> str:
        """Take the tokens' values from int64 [batch, sequence], such as their ids."""

    @abstractmethod
    def to_batch(self, x: str) -> str:
        """See `Rows.to_batch`."""

    @abstractmethod
    def from_batch(self, x: str) -> str:
        """See `Rows.from_batch`."""

    @abstractmethod
    def pool(self, x: str) -> str:
        """See `Rows.pool`; the mean over the real tokens of each title."""

    @abstractmethod
    def first_tokens(self, x: str) -> tuple[str, Rows]:
        """Keep the row of each title's first token, <s> (CLS), and tell how these rows lie."""

    @abstractmethod
    def linear(self, x: str, name: str, weight: Floats, bias: Floats, dtype: Any) -> str:
        """Multiply rows by a weight of the checkpoint, [out, in], and add a bias, [out]."""

    def _weights(self) -> str:
        """1 for real tokens and 0 for padding, float32 [batch, sequence, 1]."""
        return self.graph.op("Unsqueeze", self.graph.op("Cast", self.mask, to=TensorProto.FLOAT), self.graph.ints(2))

    def _mean(self, masked: str, weights: str) -> str:
        """Divide the sum over each title's tokens by their number: [batch, sequence, hidden] -> [batch, hidden]."""
        total = self.graph.op("ReduceSum", masked, self.graph.ints(1), keepdims=0)
        return self.graph.op("Div", total, self.graph.op("ReduceSum", weights, self.graph.ints(1), keepdims=0))


class Unpadded(Layout):
    """Rows of the real tokens alone, [tokens, hidden]: no matrix product ever computes padding.

    Not for GPUs. Only the device would know how many tokens are real. So the host would have to wait for that number in each run,
    and no run could be captured and replayed. Compilers for GPUs may also lack NonZero.
    """

    counts_in = TensorProto.INT64

    def __init__(self, graph: GraphWriter, hidden: int) -> None:
        super().__init__(graph, hidden)
        g = graph
        cells = g.op("Reshape", self.mask, g.ints(-1))
        # Token -> its cell in the flat [batch x sequence] matrix.
        self._token_cells = g.op("Squeeze", g.op("NonZero", cells), g.ints(0), name="flat")
        # Cell -> its token, [batch, sequence]. A cell of padding gets the real token before it: attention masks it, so any finite
        # row will do.
        counted = g.op("CumSum", cells, g.scalar("axis0", 0, np.int64))
        cell_tokens = g.op("Sub", counted, g.scalar("one", 1, np.int32))
        self._cell_tokens = g.op("Reshape", cell_tokens, g.op("Shape", "attention_mask"), name="place")
        self._cls_tokens = g.op("Gather", self._cell_tokens, g.scalar("zero", 0, np.int64), axis=1, name="first")

    def tokens(self, cells: str) -> str:
        flat = self.graph.op("Reshape", cells, self.graph.ints(-1))
        return self.graph.op("Gather", flat, self._token_cells, axis=0)

    def to_batch(self, x: str) -> str:
        return self.graph.op("Gather", x, self._cell_tokens, axis=0)

    def from_batch(self, x: str) -> str:
        rows = self.graph.op("Reshape", x, self.graph.ints(-1, self.hidden))
        return self.graph.op("Gather", rows, self._token_cells, axis=0)

    def pool(self, x: str) -> str:
        weights = self._weights()
        return self._mean(self.graph.op("Mul", self.to_batch(x), weights), weights)

    def first_tokens(self, x: str) -> tuple[str, Rows]:
        return self.graph.op("Gather", x, self._cls_tokens, axis=0), _UnpaddedFirst(self.graph, self.hidden)

    def linear(self, x: str, name: str, weight: Floats, bias: Floats, dtype: Any) -> str:
        # Stored as in the checkpoint, [out, in]: the kernel packs it once, at load.
        stored = self.graph.const(f"{name}.weight", weight.astype(dtype))
        return self.graph.op("Gemm", x, stored, self.graph.const(f"{name}.bias", bias.astype(dtype)), transB=1)


class _UnpaddedFirst:
    """One row per title, [batch, hidden]."""

    def __init__(self, graph: GraphWriter, hidden: int) -> None:
        self._graph = graph
        self._hidden = hidden

    def to_batch(self, x: str) -> str:
        return self._graph.op("Unsqueeze", x, self._graph.ints(1))

    def from_batch(self, x: str) -> str:
        return self._graph.op("Reshape", x, self._graph.ints(-1, self._hidden))

    def pool(self, x: str) -> str:
        return x


class Padded(Layout):
    """Rows of all cells, [batch, sequence, hidden]: every shape follows from those of the inputs, as GPUs need it."""

    counts_in = TensorProto.FLOAT  # exact for any length; compilers for GPUs may lack CumSum of integers

    def tokens(self, cells: str) -> str:
        return cells

    def to_batch(self, x: str) -> str:
        return x

    def from_batch(self, x: str) -> str:
        return x

    def pool(self, x: str) -> str:
        weights = self._weights()
        # Not a product: what a fused kernel leaves in a cell of padding may be NaN.
        real = self.graph.op("Cast", weights, to=TensorProto.BOOL)
        return self._mean(self.graph.op("Where", real, x, self.graph.scalar("nothing", 0, np.float32)), weights)

    def first_tokens(self, x: str) -> tuple[str, Rows]:
        return self.graph.op("Gather", x, self.graph.ints(0), axis=1), _PaddedFirst(self.graph)

    def product(self, x: str, name: str, weight: Floats, dtype: Any) -> str:
        """Multiply rows by a weight of the checkpoint, [out, in], and add nothing."""
        # MatMul, because Gemm takes matrices only.
        return self.graph.op("MatMul", x, self.graph.const(f"{name}.weight", weight.T.astype(dtype)))

    def linear(self, x: str, name: str, weight: Floats, bias: Floats, dtype: Any) -> str:
        product = self.product(x, name, weight, dtype)
        return self.graph.op("Add", product, self.graph.const(f"{name}.bias", bias.astype(dtype)))


class _PaddedFirst:
    """One row per title, [batch, 1, hidden]."""

    def __init__(self, graph: GraphWriter) -> None:
        self._graph = graph

    def to_batch(self, x: str) -> str:
        return x

    def from_batch(self, x: str) -> str:
        return x

    def pool(self, x: str) -> str:
        return self._graph.op("Squeeze", x, self._graph.ints(1))


class Windows(Padded):
    """Rows of all cells, several titles side by side in each window: [windows, tokens of a window, hidden].

    The kernels of attention work on tiles of 64 queries, of which a title of 8 tokens fills an eighth. So as many titles as fit
    into `_WINDOW` tokens, and divide the batch, share a window. They lie in memory as they did, and what is added to the scores
    keeps each to itself.
    """

    def __init__(self, graph: GraphWriter, hidden: int) -> None:
        super().__init__(graph, hidden)
        g = graph
        self._batch, self._length = (g.op("Gather", g.op("Shape", self.mask), g.ints(axis)) for axis in (0, 1))
        sizes = g.ints(*(1 << i for i in range(_WINDOW.bit_length())))
        fits = g.op("LessOrEqual", g.op("Mul", sizes, self._length), g.ints(_WINDOW))
        divides = g.op("Equal", g.op("Mod", self._batch, sizes), g.ints(0))
        possible = g.op("Where", g.op("And", fits, divides), sizes, g.ints(1))
        self._titles = g.op("ReduceMax", possible, keepdims=1, name="titles")  # of a window
        self._windows = g.op("Div", self._batch, self._titles, name="windows")
        self._apart: tuple[str, str] | None = None

    def tokens(self, cells: str) -> str:
        return self.graph.op("Reshape", cells, self._shape(self._windows, -1))

    def pool(self, x: str) -> str:
        return super().pool(self._in_titles(x))

    def first_tokens(self, x: str) -> tuple[str, Rows]:
        g = self.graph
        first = g.op("Gather", self._in_titles(x), g.ints(0), axis=1)
        return g.op("Reshape", first, self._shape(self._windows, self._titles, self.hidden)), _WindowedFirst(g, self.hidden)

    def apart(self, rows: Rows, dtype: Any) -> str:
        """Give what is added to scores: 0 within a title, `MASKED` for other titles and for padding.

        Args:
            rows: the queries: this layout, for all tokens, or that of first tokens.
            dtype: of the scores.

        Returns:
            [windows, 1, queries of a window, tokens of a window].
        """
        if self._apart is None:
            self._apart = self._between_titles(dtype)
        first, every = self._apart
        return every if rows is self else first

    def _between_titles(self, dtype: Any) -> tuple[str, str]:
        g, windows, titles = self.graph, self._windows, self._titles
        numbers = g.op("Range", g.scalar("zero", 0, np.int64), g.op("Squeeze", titles), g.scalar("step", 1, np.int64))
        same = g.op("Equal", g.op("Unsqueeze", numbers, g.ints(1, 2)), g.op("Unsqueeze", numbers, g.ints(0, 2)))
        real = g.op("Cast", g.op("Reshape", self.mask, self._shape(windows, 1, titles, -1)), to=TensorProto.BOOL)
        seen = g.op("And", same, real)  # [windows, titles, titles, length]
        added = g.op("Where", seen, g.scalar("seen", 0, dtype), g.scalar("unseen", MASKED, dtype))
        first = g.op("Reshape", added, self._shape(windows, 1, titles, -1))
        per_title = g.op("Reshape", added, self._shape(windows, titles, 1, -1))
        every = g.op("Expand", per_title, self._shape(1, 1, self._length, 1))
        return first, g.op("Reshape", every, self._shape(windows, 1, g.op("Mul", titles, self._length), -1))

    def _in_titles(self, x: str) -> str:
        return self.graph.op("Reshape", x, self._shape(self._batch, self._length, self.hidden))

    def _shape(self, *sizes: str | int) -> str:
        return self.graph.op("Concat", *(size if isinstance(size, str) else self.graph.ints(size) for size in sizes), axis=0)


class _WindowedFirst(_PaddedFirst):
    """One row per title, [windows, titles, hidden]."""

    def __init__(self, graph: GraphWriter, hidden: int) -> None:
        super().__init__(graph)
        self._hidden = hidden

    def pool(self, x: str) -> str:
        return self._graph.op("Reshape", x, self._graph.ints(-1, self._hidden))
