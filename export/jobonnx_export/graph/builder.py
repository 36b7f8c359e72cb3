"""The engine graph, written straight from the checkpoint's tensors: token ids in, unit vectors out.

One builder for every precision. What sets it apart from a traced graph:

- On CPUs no GEMM ever sees padding. Real tokens are packed into a [tokens, hidden] matrix; only attention goes back to [batch,
  sequence]. On GPUs nothing is packed: the host would have to wait for the number of tokens.
- With CLS pooling the last layer computes one row a title: its query, attention output and feed-forward. The result is the same.
- Pooling and L2 normalisation are inside, so any ONNX Runtime client gets the right vectors.

Inputs: `input_ids`, `attention_mask`, int64 [batch, sequence], padded on the right. Output: `sentence_embedding`, float32
[batch, hidden].
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from jobonnx_export.checkpoint import Architecture, Checkpoint
from jobonnx_export.graph.data_file import DataFile

_OPSET = 20
_MICROSOFT = "com.microsoft"  # ONNX Runtime's own operators: attention and integer GEMM, each one kernel
_IR_VERSION = 10
_INLINE_BYTES = 1024  # smaller tensors stay in the graph file, where ONNX Runtime folds constants
_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Int8Input:
    """How the input of int8 layers becomes bytes: round(x * smooth / step) + zero_point, for every layer that reads it alike.

    step: one size for all rows, or None where each row gets the smallest that holds it. Either way no row's bytes depend on
    another row. smooth: float32 [in], or None where nothing has to be multiplied at run time.
    """

    zero_point: int
    step: float | None = None
    smooth: np.ndarray[Any, np.dtype[np.float32]] | None = None


@dataclass(frozen=True)
class Int8Linear:
    """One linear layer in int8: y = step * (bytes(x) - zero_point) @ weight * scale + bias.

    weight: int8 [in, out]; scale: float32 [out].
    """

    weight: np.ndarray[Any, np.dtype[np.int8]]
    scale: np.ndarray[Any, np.dtype[np.float32]]
    input: Int8Input


@dataclass
class _Graph:
    """Nodes and tensors in the making. Large tensors are streamed to the data file as they come."""

    data: DataFile  # open
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: dict[str, onnx.TensorProto] = field(default_factory=dict)
    quantized: dict[tuple[str, int], tuple[str, str]] = field(default_factory=dict)  # see _quantize

    def op(self, kind: str, *inputs: str, name: str = "", domain: str = "", **attributes: Any) -> str:
        """Add a node with one output; return the output's name."""
        output = name or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=output, domain=domain, **attributes))
        return output

    def const(self, name: str, array: np.ndarray[Any, Any]) -> str:
        """Add a tensor once; return its name."""
        if name in self.tensors:
            return name
        array = np.asarray(array, order="C")  # not ascontiguousarray: it makes scalars one-dimensional
        if array.nbytes <= _INLINE_BYTES:
            self.tensors[name] = numpy_helper.from_array(array, name)
            return name
        tensor = TensorProto(name=name, dims=array.shape, data_type=helper.np_dtype_to_tensor_dtype(array.dtype))
        tensor.data_location = TensorProto.EXTERNAL
        offset, length = self.data.add(array)
        for key, value in (("location", self.data.path.name), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        self.tensors[name] = tensor
        return name

    def ints(self, *values: int) -> str:
        return self.const("ints_" + "_".join(map(str, values)), np.array(values, dtype=np.int64))


def write_graph(
    checkpoint: Checkpoint,
    path: Path,
    data: DataFile | None = None,
    *,
    plain: bool = False,
    half: bool = False,
    half_embeddings: bool = False,
    packed: bool = True,
    int8: dict[str, Int8Linear] | None = None,
    scaled_values: dict[int, np.ndarray[Any, np.dtype[np.float32]]] | None = None,
) -> None:
    """Write `path`, and what is large into a data file beside it.

    Args:
        checkpoint: where the tensors come from; each is read once and never kept.
        path: the graph file to write.
        data: the data file, which graphs of the same numbers may share; None for `path`.data.
        plain: standard ONNX operators only, for compilers that know no others (OpenVINO, TensorRT).
        half: run the encoder in float16. LayerNorm computes in float32 inside its kernel; pooling and the norm are float32.
        half_embeddings: store the word embeddings as float16 and compute with them in float32.
        packed: compute on real tokens only. False for GPUs: how many tokens are real is known on the device only, so packing makes
            the host wait for it in each run, no CUDA graph can be captured, and TensorRT has no NonZero. Floats only.
        int8: linear layers to run in int8, by module name; those not named stay in float.
        scaled_values: by layer, factors [hidden] to divide the attention values by, which smooths the input of the attention
            output layer at no cost: attention is linear in its values.
    """
    assert packed or not int8, "int8 is for packed rows"
    a = checkpoint.architecture
    real = np.float16 if half else np.float32
    data = data or DataFile(path.with_name(path.name + ".data"))
    with data.open():
        g = _Graph(data)

        def tensor(name: str, dtype: Any = real) -> str:
            return g.const(name, checkpoint.tensor(name).astype(dtype))

        def norm(x: str, name: str) -> str:
            return g.op(
                "LayerNormalization", x, tensor(f"{name}.weight"), tensor(f"{name}.bias"), axis=-1, epsilon=a.epsilon, stash_type=1
            )

        def linear(x: str, name: str, divide: np.ndarray[Any, Any] | None = None, bias_later: bool = False) -> str:
            bias = checkpoint.tensor(f"{name}.bias")
            bias = bias if divide is None else bias / divide
            if int8 and name in int8:
                scale = int8[name].scale if divide is None else int8[name].scale / divide
                return (_qdq_linear if plain else _int8_linear)(g, x, name, int8[name], scale, bias)
            weight = checkpoint.tensor(f"{name}.weight")
            weight = weight if divide is None else weight / divide[:, None]
            if not packed:  # rows lie in [batch, sequence], which Gemm does not take
                product = g.op("MatMul", x, g.const(f"{name}.weight", weight.T.astype(real)))
                return product if bias_later else g.op("Add", product, g.const(f"{name}.bias", bias.astype(real)))
            # Stored as in the checkpoint, [out, in]; the kernel packs it once at load.
            return g.op(
                "Gemm",
                x,
                g.const(f"{name}.weight", weight.astype(real)),
                g.const(f"{name}.bias", bias.astype(real)),
                transB=1,
            )

        mask = g.op("Cast", "attention_mask", to=TensorProto.INT32, name="mask")
        flat = place = first = ""
        if packed:
            # Real tokens, packed: `flat` are their places in the padded matrix, `place` the way back for every padded cell.
            cells = g.op("Reshape", mask, g.ints(-1))
            flat = g.op("Squeeze", g.op("NonZero", cells), g.ints(0), name="flat")
            # A padded cell points at the real token before it: any finite row will do, attention masks it.
            place = g.op(
                "Sub", g.op("CumSum", cells, g.const("axis0", np.array(0, np.int64))), g.const("one", np.array(1, np.int32))
            )
            place = g.op("Reshape", place, g.op("Shape", "attention_mask"), name="place")
            first = g.op("Gather", place, g.const("zero", np.array(0, np.int64)), axis=1, name="first")

        # CUDA's fused attention kernels take the length of each row, and no mask; they add the biases in the same pass.
        fused = not packed and not plain
        lengths = g.op("ReduceSum", mask, g.ints(1), keepdims=0, name="lengths") if fused else ""

        # XLM-R counts positions over ids that are not padding, from pad_id + 1 (transformers: create_position_ids_from_input_ids).
        pad = g.const("pad_id", np.array(a.pad_id, np.int64))
        # GPUs count in float32, which is exact so far: by its list of operators TensorRT has no CumSum of integers.
        counted = g.op("Cast", g.op("Not", g.op("Equal", "input_ids", pad)), to=TensorProto.INT64 if packed else TensorProto.FLOAT)
        position = g.op("CumSum", counted, g.const("axis1", np.array(1, np.int64)))
        position = g.op("Mul", position, counted)
        position = g.op("Add", position if packed else g.op("Cast", position, to=TensorProto.INT64), pad)

        def tokens(x: str) -> str:
            return g.op("Gather", g.op("Reshape", x, g.ints(-1)), flat, axis=0) if packed else x

        words = checkpoint.tensor("embeddings.word_embeddings.weight").astype(np.float16 if half_embeddings else real)
        x = g.op("Gather", g.const("embeddings.word_embeddings.weight", words), tokens("input_ids"), axis=0)
        del words
        if half_embeddings and not half:
            x = g.op("Cast", x, to=TensorProto.FLOAT)
        # Only rows a text within the limit can reach; the one token type is the same for every row.
        table = checkpoint.tensor("embeddings.position_embeddings.weight")[: checkpoint.max_tokens + a.pad_id + 1]
        table = table + checkpoint.tensor("embeddings.token_type_embeddings.weight")
        x = g.op("Add", x, g.op("Gather", g.const("embeddings.positions", table.astype(real)), tokens(position), axis=0))
        x = norm(x, "embeddings.LayerNorm")

        for i in range(a.layers):
            layer = f"encoder.layer.{i}"
            divide = (scaled_values or {}).get(i)
            only_cls = checkpoint.pooling == "cls" and i == a.layers - 1
            keys = linear(x, f"{layer}.attention.self.key", bias_later=fused)
            values = linear(x, f"{layer}.attention.self.value", divide, bias_later=fused)
            if packed:
                keys, values = (g.op("Gather", y, place, axis=0) for y in (keys, values))
            if only_cls:
                x = g.op("Gather", x, first, axis=0) if packed else g.op("Gather", x, g.ints(0), axis=1)
            queries = linear(x, f"{layer}.attention.self.query", bias_later=fused)
            if packed:
                queries = g.op("Unsqueeze", queries, g.ints(1)) if only_cls else g.op("Gather", queries, place, axis=0)
            if plain:
                attended = _plain_attention(g, queries, keys, values, mask, a, real)
            elif packed:
                attended = _attention(g, queries, keys, values, "", mask, a)
            else:
                biases = [checkpoint.tensor(f"{layer}.attention.self.{part}.bias") for part in ("query", "key", "value")]
                bias = g.const(f"{layer}.attention.self.bias", np.concatenate(biases).astype(real))
                attended = _attention(g, queries, keys, values, bias, lengths, a)
            if packed:
                attended = g.op("Reshape", attended, g.ints(-1, a.hidden))
                if not only_cls:
                    attended = g.op("Gather", attended, flat, axis=0)
            x = norm(g.op("Add", linear(attended, f"{layer}.attention.output.dense"), x), f"{layer}.attention.output.LayerNorm")
            inner = g.op("Gelu", linear(x, f"{layer}.intermediate.dense"))  # the exact one, with erf
            x = norm(g.op("Add", linear(inner, f"{layer}.output.dense"), x), f"{layer}.output.LayerNorm")

        if half:
            x = g.op("Cast", x, to=TensorProto.FLOAT)
        if checkpoint.pooling == "mean":
            x = _mean(g, x, place, mask)
        elif not packed:
            x = g.op("Squeeze", x, g.ints(1))
        if checkpoint.normalize:
            # torch.nn.functional.normalize: divide by max(norm, 1e-12).
            length = g.op("Sqrt", g.op("ReduceSum", g.op("Mul", x, x), g.ints(1), keepdims=1))
            x = g.op("Div", x, g.op("Max", length, g.const("smallest_norm", np.array(1e-12, np.float32))))
        g.op("Identity", x, name="sentence_embedding")

    shape = ["batch", "sequence"]
    graph = helper.make_graph(
        g.nodes,
        "jobonnx",
        [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", a.hidden])],
        list(g.tensors.values()),
    )
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(_MICROSOFT, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="jobonnx")
    path.write_bytes(model.SerializeToString())


_MASKED = -1e4  # added to the scores of padding: exp gives exactly 0, and float16 can hold it


def _attention(g: _Graph, queries: str, keys: str, values: str, bias: str, mask: str, a: Architecture) -> str:
    """`bias`: of queries, keys and values, one after the other, or "". `mask`: int32 [batch, sequence], or [batch] lengths."""
    return g.op(
        "MultiHeadAttention", queries, keys, values, bias, mask, domain=_MICROSOFT, num_heads=a.heads, mask_filter_value=_MASKED
    )


def _plain_attention(g: _Graph, queries: str, keys: str, values: str, mask: str, a: Architecture, real: Any) -> str:
    width = a.hidden // a.heads
    split = g.ints(0, -1, a.heads, width)
    q = g.op("Transpose", g.op("Reshape", queries, split), perm=[0, 2, 1, 3])
    k = g.op("Transpose", g.op("Reshape", keys, split), perm=[0, 2, 3, 1])
    v = g.op("Transpose", g.op("Reshape", values, split), perm=[0, 2, 1, 3])
    scale = g.const("1/sqrt(width)", np.array(1 / np.sqrt(width), real))
    if real is np.float32:
        scores = g.op("Mul", g.op("MatMul", q, k), scale)
    else:  # scaled first, as float16 ends at 65,504; softmax in float32, whatever comes before and after
        scores = g.op("Cast", g.op("MatMul", g.op("Mul", q, scale), k), to=TensorProto.FLOAT)
    padding = g.op("Sub", g.const("one", np.array(1, np.int32)), g.op("Unsqueeze", mask, g.ints(1, 2)))
    padding = g.op("Mul", g.op("Cast", padding, to=TensorProto.FLOAT), g.const("masked", np.array(_MASKED, np.float32)))
    shares = g.op("Softmax", g.op("Add", scores, padding), axis=-1)
    if real is not np.float32:
        shares = g.op("Cast", shares, to=TensorProto.FLOAT16)
    return g.op("Reshape", g.op("Transpose", g.op("MatMul", shares, v), perm=[0, 2, 1, 3]), g.ints(0, -1, a.hidden))


def _mean(g: _Graph, x: str, place: str, mask: str) -> str:
    """Mean over each title's real tokens: [tokens, hidden], or without `place` [batch, sequence, hidden] -> [batch, hidden]."""
    weights = g.op("Unsqueeze", g.op("Cast", mask, to=TensorProto.FLOAT), g.ints(2))
    if place:
        x = g.op("Mul", g.op("Gather", x, place, axis=0), weights)
    else:  # not a product: what a fused kernel leaves in a padded cell may be NaN
        x = g.op("Where", g.op("Cast", weights, to=TensorProto.BOOL), x, g.const("nothing", np.array(0, np.float32)))
    total = g.op("ReduceSum", x, g.ints(1), keepdims=0)
    return g.op("Div", total, g.op("ReduceSum", weights, g.ints(1), keepdims=0))


def _int8_linear(g: _Graph, x: str, name: str, layer: Int8Linear, column_scale: Any, bias: Any) -> str:
    """U8 activations by S8 weights with one scale a column: no row's result depends on another row."""
    whole, step = _quantize(g, x, name, layer.input)
    static = layer.input.step is not None
    bias_name = g.const(f"{name}.bias", bias.astype(np.float32))
    product = g.op(
        "MatMulIntegerToFloat",
        whole,
        g.const(f"{name}.weight_s8", layer.weight),
        step if static else g.const("unit", np.array(1, np.float32)),
        g.const(f"{name}.scale", column_scale.astype(np.float32)),
        _zero_point(g, layer.input),
        # A zero, and for each layer its own: ONNX Runtime's rewrite for CPUs without VNNI changes it. Before 1.30 it crashes
        # without one, and it would add a shared one twice.
        g.const(f"{name}.zero", np.array(0, np.int8)),
        *([bias_name] if static else []),
        domain=_MICROSOFT,
    )
    return product if static else g.op("Add", g.op("Mul", product, step), bias_name)


def _qdq_linear(g: _Graph, x: str, name: str, layer: Int8Linear, column_scale: Any, bias: Any) -> str:
    """The same in standard operators, which compilers turn into integer products of their own; one step for all rows."""
    whole, step = _quantize(g, x, name, layer.input)
    x = g.op("DequantizeLinear", whole, step, _zero_point(g, layer.input))
    scale = g.const(f"{name}.scale", column_scale.astype(np.float32))
    # As in _int8_linear, but one a column: that rewrite makes the scale's shape of it.
    zeros = g.const(f"{name}.zeros", np.zeros(len(column_scale), np.int8))
    whole_weight = g.const(f"{name}.weight_s8", layer.weight)
    weight = g.op("DequantizeLinear", whole_weight, scale, zeros, name=f"{name}.weight", axis=1)
    return g.op("Add", g.op("MatMul", x, weight), g.const(f"{name}.bias", bias.astype(np.float32)))


def _quantize(g: _Graph, x: str, name: str, source: Int8Input) -> tuple[str, str]:
    """Bytes of `x`, and their step: a constant, or float32 [rows, 1]. Layers that read the same input share both."""
    key = x, id(source)
    if key not in g.quantized:
        if source.smooth is not None:
            x = g.op("Mul", x, g.const(f"{name}.smooth", source.smooth.astype(np.float32)))
        if source.step is not None:
            step = g.const(f"{name}.step", np.array(source.step, np.float32))
            g.quantized[key] = g.op("QuantizeLinear", x, step, _zero_point(g, source)), step
        else:
            step = _row_step(g, x, source.zero_point)
            unit = g.const("unit", np.array(1, np.float32))
            g.quantized[key] = g.op("QuantizeLinear", g.op("Div", x, step), unit, _zero_point(g, source)), step
    return g.quantized[key]


def _row_step(g: _Graph, x: str, zero_point: int) -> str:
    """The smallest step with which a row's highest value fits above the zero point and its lowest below."""
    above, below = (g.const(f"1/{n}", np.array(1 / n, np.float32)) for n in (255 - zero_point, -zero_point))
    step = g.op(
        "Max",
        g.op("Mul", g.op("ReduceMax", x, g.ints(1), keepdims=1), above),
        g.op("Mul", g.op("ReduceMin", x, g.ints(1), keepdims=1), below),
        # An all-zero row has step 0 and would give 0 / 0; any positive step makes it zeros.
        g.const("tiny", np.array(_TINY, np.float32)),
    )
    return step


def _zero_point(g: _Graph, source: Int8Input) -> str:
    return g.const(f"zero_point_{source.zero_point}", np.array(source.zero_point, np.uint8))
