"""The engine graph as a whole: token ids in, unit vectors out, written straight from the checkpoint's tensors.

One model for every precision and provider. What it is put together from differs: how tokens lie in memory (layout.py), the kind of
linear layer (linear.py) and the kind of attention (attention.py). What sets it apart from a traced graph:

- On CPUs no matrix product ever computes padding.
- With CLS pooling the last layer computes one row per title: its query, attention output and feed-forward. The result is the same.
- Pooling and L2 normalisation are inside, so any ONNX Runtime client gets the right vectors.

Inputs: `input_ids` and `attention_mask`, int64 [batch, sequence], padded on the right. Output: `sentence_embedding`, float32
[batch, hidden]. With `hidden_states` the output is `last_hidden_state`, float32 [batch, sequence, hidden], of which padding's rows
mean nothing: what sentence-transformers, optimum and transformers.js pool themselves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto

from jobonnx_export.checkpoint import Checkpoint
from jobonnx_export.graph.attention import Attention, FusedAttention, StandardAttention, WindowedAttention
from jobonnx_export.graph.external_data import DataFile
from jobonnx_export.graph.layout import Layout, Padded, Rows, Unpadded, Windows
from jobonnx_export.graph.linear import FloatLinear, Int8Linear, Linear, QdqLinear
from jobonnx_export.graph.writer import GraphWriter
from jobonnx_export.quantize import Int8Recipe, quantize_rows

_INPUTS = ("input_ids", "attention_mask")
_OUTPUT = "sentence_embedding"
_HIDDEN_STATES = "last_hidden_state"


def write_float_graph(
    checkpoint: Checkpoint,
    path: Path,
    data: DataFile | None = None,
    *,
    padded: bool = False,
    standard_ops_only: bool = False,
    fp16: bool = False,
    hidden_states: bool = False,
) -> None:
    """Write `path`, and its large tensors into a data file beside it.

    Args:
        checkpoint: where the tensors come from. Each is read once and never kept.
        path: the graph file to write.
        data: the data file, which graphs of the same precision may share; None for one of its own, `path`.data.
        padded: compute padding too, as GPUs need it; see `Unpadded`.
        standard_ops_only: use standard ONNX operators only, for compilers that know no others.
        fp16: run the encoder in float16. LayerNorm computes in float32 inside its kernel; softmax of standard operators, pooling
            and normalisation are float32.
        hidden_states: give the hidden states of every token, neither pooled nor normalised.
    """
    dtype = np.float16 if fp16 else np.float32
    hidden = checkpoint.architecture.hidden
    with (data or DataFile(path.with_name(path.name + ".data"))).open() as opened:
        graph = GraphWriter(opened)
        layout: Layout
        attention: Attention
        if padded:
            layout = Padded(graph, hidden) if standard_ops_only else Windows(graph, hidden)
            linear = FloatLinear(checkpoint, layout, dtype)
            attention = (
                WindowedAttention(checkpoint, layout, linear, dtype)
                if isinstance(layout, Windows)
                else StandardAttention(checkpoint, layout, linear, dtype)
            )
        else:
            layout = Unpadded(graph, hidden)
            linear = FloatLinear(checkpoint, layout, dtype)
            attention = (
                StandardAttention(checkpoint, layout, linear, dtype)
                if standard_ops_only
                else FusedAttention(checkpoint, layout, linear)
            )
        _Encoder(checkpoint, layout, linear, attention, dtype).write(path, hidden_states)


def write_int8_graph(
    checkpoint: Checkpoint,
    path: Path,
    recipe: Int8Recipe,
    data: DataFile | None = None,
    *,
    standard_ops_only: bool = False,
    hidden_states: bool = False,
) -> None:
    """Write `path`, and its large tensors into a data file beside it: int8 products of unpadded rows, all else in float32.

    The word embeddings are stored as int8, with a scale per row.

    Args:
        checkpoint: where the other tensors come from. Each is read once and never kept.
        path: the graph file to write.
        recipe: the quantised layers. Those it does not name stay in float32.
        data: the data file, which graphs of the same precision may share; None for one of its own, `path`.data.
        standard_ops_only: use standard ONNX operators only, for compilers that know no others; needs a recipe of per-tensor scales.
        hidden_states: give the hidden states of every token, neither pooled nor normalised.
    """
    with (data or DataFile(path.with_name(path.name + ".data"))).open() as opened:
        graph = GraphWriter(opened)
        layout = Unpadded(graph, checkpoint.architecture.hidden)
        linear: Linear
        attention: Attention
        if standard_ops_only:
            linear = QdqLinear(graph, checkpoint, layout, recipe)
            attention = StandardAttention(checkpoint, layout, linear, np.float32)
        else:
            linear = Int8Linear(graph, checkpoint, layout, recipe)
            attention = FusedAttention(checkpoint, layout, linear)
        _Encoder(checkpoint, layout, linear, attention, np.float32, int8_words=True).write(path, hidden_states)


class _Encoder:
    """XLM-RoBERTa (Conneau et al. 2020, arXiv:1911.02116) with pooling and normalisation."""

    def __init__(
        self, checkpoint: Checkpoint, layout: Layout, linear: Linear, attention: Attention, dtype: Any, *, int8_words: bool = False
    ) -> None:
        """Put the parts together.

        Args:
            checkpoint: where the tensors come from.
            layout: how tokens lie between attentions.
            linear: the kind of linear layer.
            attention: the kind of attention.
            dtype: what the encoder computes in, float32 or float16.
            int8_words: store the word embeddings as int8, with a scale per row.
        """
        self.graph = layout.graph
        self.checkpoint = checkpoint
        self.layout = layout
        self.linear = linear
        self.attention = attention
        self.dtype = dtype
        self.int8_words = int8_words

    def write(self, path: Path, hidden_states: bool) -> None:
        """Add every node and write the graph file."""
        hidden = self.checkpoint.architecture.hidden
        if hidden_states:
            outputs: dict[str, list[str | int]] = {_HIDDEN_STATES: ["batch", "sequence", hidden]}
            self.graph.op("Identity", self.hidden_states(), name=_HIDDEN_STATES)
        else:
            outputs = {_OUTPUT: ["batch", hidden]}
            self.graph.op("Identity", self.vectors(), name=_OUTPUT)
        self.graph.save(path, {name: ["batch", "sequence"] for name in _INPUTS}, outputs)

    def vectors(self) -> str:
        """Token ids to vectors, float32 [batch, hidden]."""
        x, rows = self.forward(first_alone=self.checkpoint.pooling == "cls")  # pooling reads no other row
        x = rows.pool(x)
        return self.unit(x) if self.checkpoint.normalize else x

    def hidden_states(self) -> str:
        """Token ids to hidden states, float32 [batch, sequence, hidden]."""
        x, rows = self.forward(first_alone=False)
        return rows.to_batch(x)

    def forward(self, first_alone: bool) -> tuple[str, Rows]:
        """Token ids to the last layer's rows, float32, and how they lie; those of each title's first token alone, or all."""
        rows: Rows = self.layout
        x = self.embed()
        last = self.checkpoint.architecture.layers - 1
        for i in range(last + 1):
            x, rows = self.layer(x, rows, i, first_alone and i == last)
        if self.dtype is np.float16:
            x = self.graph.op("Cast", x, to=TensorProto.FLOAT)
        return x, rows

    def embed(self) -> str:
        """Sum of the embeddings of words and positions, normalised: rows of all tokens."""
        position_ids = self.position_ids()
        x = self.words(self.layout.tokens("input_ids"))
        # Only the rows that a text within the limit can reach. The one token type is the same for every token.
        a = self.checkpoint.architecture
        positions = self.checkpoint.tensor("embeddings.position_embeddings.weight")[: self.checkpoint.max_tokens + a.pad_id + 1]
        positions = positions + self.checkpoint.tensor("embeddings.token_type_embeddings.weight")
        table = self.graph.const("embeddings.positions", positions.astype(self.dtype))
        x = self.add(x, self.graph.op("Gather", table, self.layout.tokens(position_ids), axis=0))
        return self.norm(x, "embeddings.LayerNorm")

    def words(self, ids: str) -> str:
        """Look the embeddings of words up: rows of all tokens."""
        g, name = self.graph, "embeddings.word_embeddings.weight"
        words = self.checkpoint.tensor(name)
        if not self.int8_words:
            return g.op("Gather", g.const(name, words.astype(self.dtype)), ids, axis=0)
        values, scales = quantize_rows(words)
        x = g.op("Cast", g.op("Gather", g.const(f"{name}_s8", values), ids, axis=0), to=TensorProto.FLOAT)
        return g.op("Mul", x, g.op("Gather", g.const(f"{name}.scale", scales), ids, axis=0))

    def position_ids(self) -> str:
        """Count the ids that are not padding, from pad_id + 1: int64 [batch, sequence].

        As transformers does in create_position_ids_from_input_ids.
        """
        g, counts_in = self.graph, self.layout.counts_in
        pad = g.scalar("pad_id", self.checkpoint.architecture.pad_id, np.int64)
        is_token = g.op("Cast", g.op("Not", g.op("Equal", "input_ids", pad)), to=counts_in)
        counted = g.op("Mul", g.op("CumSum", is_token, g.scalar("axis1", 1, np.int64)), is_token)
        if counts_in != TensorProto.INT64:
            counted = g.op("Cast", counted, to=TensorProto.INT64)
        return g.op("Add", counted, pad)

    def layer(self, x: str, rows: Rows, i: int, first_alone: bool) -> tuple[str, Rows]:
        """One encoder layer, x = norm(x + attention(x)), x = norm(x + feed_forward(x)): the rows, and how they lie."""
        name = f"encoder.layer.{i}"
        keys, values = self.attention.keys_and_values(x, f"{name}.attention")
        if first_alone:
            x, rows = self.layout.first_tokens(x)
        x = self.norm(self.add(self.attention(x, rows, keys, values, f"{name}.attention"), x), f"{name}.attention.output.LayerNorm")
        x = self.norm(self.add(self.feed_forward(x, name), x), f"{name}.output.LayerNorm")
        return x, rows

    def feed_forward(self, x: str, name: str) -> str:
        """Widen, GELU (the exact one, with erf), narrow."""
        return self.linear(self.graph.op("Gelu", self.linear(x, f"{name}.intermediate.dense")), f"{name}.output.dense")

    def add(self, x: str, y: str) -> str:
        """Add two tensors."""
        return self.graph.op("Add", x, y)

    def norm(self, x: str, name: str) -> str:
        """LayerNorm over each row, computed in float32."""
        weight, bias = (
            self.graph.const(f"{name}.{part}", self.checkpoint.tensor(f"{name}.{part}").astype(self.dtype))
            for part in ("weight", "bias")
        )
        epsilon = self.checkpoint.architecture.epsilon
        return self.graph.op("LayerNormalization", x, weight, bias, axis=-1, epsilon=epsilon, stash_type=1)

    def unit(self, x: str) -> str:
        """Divide vectors by max(norm, 1e-12), as torch.nn.functional.normalize does."""
        g = self.graph
        length = g.op("Sqrt", g.op("ReduceSum", g.op("Mul", x, x), g.ints(1), keepdims=1))
        return g.op("Div", x, g.op("Max", length, g.scalar("smallest_norm", 1e-12, np.float32)))
