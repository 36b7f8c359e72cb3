"""Engine graphs, fed as an outside user feeds them: onnxruntime, `input_ids` and `attention_mask`, nothing of jobonnx."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.calibrated import Calibrated, calibrated_of
from helpers.checkpoints import make_checkpoint
from jobonnx.parity.measure import measure, tolerance_violations
from jobonnx.runtime.providers.cpu import overflows
from jobonnx_export import quantize
from jobonnx_export.graph.builder import write_float_graph, write_int8_graph
from jobonnx_export.quantize import make_recipe

pytestmark = pytest.mark.medium

TEXTS = [
    "Koch",
    "",
    "Oberbürgermeister der Landeshauptstadt",
    "chief executive officer",
    "ein <pad> im Text <pad>",
    "软件工程师",
    "看護師",
    "enfermera de quirófano",
    "x",
    "   ",
    "👩🏽‍🚒 firefighter",
    "tool & die maker " * 60,  # past the limit
    "Data Scientist (m/w/d)",
    "<pad>",
    "fachkraft " * 20,
    "Industriemechaniker/in, Einsatzgebiet Produktionstechnik",
]
VARIANTS = ("fp32", "fp16", "int8", "int8-static")
# CUDA gets "fp16 padded" and TensorRT "fp16 padded standard"; in fp32 they show more digits.
PADDED = ("fp32 padded", "fp16 padded", "fp32 padded standard", "fp16 padded standard")
KINDS = [
    f"{variant}/{pooling}"
    for variant in (*VARIANTS, "fp32 standard", "int8-static standard", *PADDED)
    for pooling in ("cls", "mean")
]


@dataclass(frozen=True)
class Engine:
    """A graph of one kind, and its checkpoint."""

    variant: str
    standard_ops_only: bool
    padded: bool
    path: Path
    source: Calibrated
    session: Any

    def run(self, rows: Sequence[Sequence[int]], width: int = 0) -> Any:
        """Pad to `width` or the longest row, and run."""
        return self.session.run(["sentence_embedding"], padded(rows, width))[0]


def padded(rows: Sequence[Sequence[int]], width: int = 0) -> dict[str, Any]:
    width = max(width, *(len(row) for row in rows))
    ids = np.array([[*row, *[1] * (width - len(row))] for row in rows], dtype=np.int64)
    mask = np.array([[1] * len(row) + [0] * (width - len(row)) for row in rows], dtype=np.int64)
    return {"input_ids": ids, "attention_mask": mask}


def open_graph(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    if overflows():
        options.add_session_config_entry("session.x64quantprecision", "1")  # as the README tells outside users
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def write(source: Calibrated, kind: str, path: Path) -> Engine:
    """Write a graph as an export does."""
    variant, standard, in_padded = kind.split("/")[0].split()[0], "standard" in kind, "padded" in kind
    if variant.startswith("int8"):
        recipe = make_recipe(source.checkpoint, source.statistics, static=variant == "int8-static")
        write_int8_graph(source.checkpoint, path, recipe, standard_ops_only=standard)
    else:
        write_float_graph(source.checkpoint, path, padded=in_padded, standard_ops_only=standard, fp16=variant == "fp16")
    return Engine(variant, standard, in_padded, path, source, open_graph(path))


@pytest.fixture(scope="module", params=KINDS)
def engine(
    request: pytest.FixtureRequest, calibrated: Calibrated, calibrated_mean: Calibrated, tmp_path_factory: pytest.TempPathFactory
) -> Engine:
    source = calibrated if request.param.endswith("cls") else calibrated_mean
    return write(source, request.param, tmp_path_factory.mktemp("graph") / "graph.onnx")


@pytest.fixture(scope="module")
def alone(engine: Engine) -> Any:
    """Every text's vector, computed by itself."""
    return np.concatenate([engine.run([row]) for row in engine.source.tokenizer.encode(TEXTS)])


def assert_same_vectors(engine: Engine, vectors: Any, expected: Any) -> None:
    """What no batching may change: cosine 0.99999 in any variant, 1e-6 in fp32.

    In the QDQ graph, run where it is not made for, the width of the padding reaches the last digit of the softmax, and a byte that
    is rounded the other way weighs .0001 in 128 random dimensions. On trained weights it keeps the promise: test_small_model.py.
    """
    cosines = (vectors * expected).sum(axis=1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(expected, axis=1)
    assert (cosines >= (0.9999 if engine.standard_ops_only and engine.variant == "int8-static" else 0.99999)).all(), cosines
    if engine.variant == "fp32":
        assert np.abs(vectors - expected).max() <= 1e-6


def test_equals_sentence_transformers_in_a_padded_mixed_batch(engine: Engine) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(engine.source.folder), device="cpu")
    features = model.tokenize(TEXTS)
    inputs = {name: features[name].numpy() for name in ("input_ids", "attention_mask")}
    (vectors,) = engine.session.run(None, inputs)
    assert vectors.dtype == np.float32
    parity = measure(model.encode(TEXTS), vectors)
    assert not tolerance_violations(engine.variant, parity), parity
    assert (inputs["attention_mask"] == 0).any()
    assert (inputs["input_ids"][4] == 1).sum() > (inputs["attention_mask"][4] == 0).sum(), "no literal <pad> among the tokens"


def test_padding_width_and_batch_mates_do_not_matter(engine: Engine, alone: Any) -> None:
    rows = engine.source.tokenizer.encode(TEXTS)
    assert_same_vectors(engine, engine.run(rows), alone)
    assert_same_vectors(engine, engine.run(rows, width=300), alone)
    assert_same_vectors(engine, engine.run(rows[:1], width=300), alone[:1])
    assert_same_vectors(engine, engine.run(rows[:1] * 33), np.repeat(alone[:1], 33, axis=0))


def test_any_batch_in_any_order(engine: Engine, alone: Any) -> None:
    rows = engine.source.tokenizer.encode(TEXTS)

    @settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    @given(places=st.lists(st.integers(0, len(TEXTS) - 1), min_size=1, max_size=12), extra=st.integers(0, 40))
    def check(places: list[int], extra: int) -> None:
        batch = [rows[i] for i in places]
        assert_same_vectors(engine, engine.run(batch, width=max(map(len, batch)) + extra), alone[places])

    check()


def test_single_token_rows(engine: Engine) -> None:
    """Beside longer ones, and alone."""
    rows = [[7], engine.source.tokenizer.encode(["Koch"])[0], [9], [0]]
    expected = engine.source.reference.encode(rows)
    vectors = engine.run(rows)
    assert not tolerance_violations(engine.variant, measure(expected, vectors))
    # The QDQ graph's bytes may follow the width of the padding, see assert_same_vectors: a row of one token here, seven wide there.
    width = max(map(len, rows)) if engine.standard_ops_only and engine.variant == "int8-static" else 0
    assert_same_vectors(engine, engine.run([[7]], width), vectors[:1])


def test_limit_is_computed_and_one_past_it_is_refused(engine: Engine) -> None:
    """Positions in the graph end at the limit: one more token is an error of ONNX Runtime, never a wrong vector."""
    limit = engine.source.checkpoint.max_tokens
    row = [0, *[5 + i % 90 for i in range(limit - 2)], 2]
    expected = engine.source.reference.encode([row, row[:-1]])
    assert np.abs(engine.run([row, row[:-1]]) - expected).max() < (1e-5 if engine.variant == "fp32" else 0.05)
    with pytest.raises(Exception, match="out of data bounds"):
        engine.run([[*row, 2]])


def test_names_types_and_axes(engine: Engine) -> None:
    inputs = [(i.name, i.type, i.shape) for i in engine.session.get_inputs()]
    assert inputs == [(name, "tensor(int64)", ["batch", "sequence"]) for name in ("input_ids", "attention_mask")]
    outputs = [(o.name, o.type, o.shape) for o in engine.session.get_outputs()]
    assert outputs == [("sentence_embedding", "tensor(float)", ["batch", 128])]


def test_standard_graphs_hold_standard_operators_only(engine: Engine) -> None:
    domains = {node.domain for node in onnx.load(engine.path, load_external_data=False).graph.node}
    assert domains == ({""} if engine.standard_ops_only else {"", "com.microsoft"})


def test_padded_graphs_hold_no_shape_that_only_the_device_knows(engine: Engine) -> None:
    """It would keep CUDA from capturing a graph. TensorRT takes no arithmetic on shapes either."""
    if engine.padded:
        found = {node.op_type for node in onnx.load(engine.path, load_external_data=False).graph.node}
        assert not {"NonZero", "Shape"} & found if engine.standard_ops_only else "NonZero" not in found


@pytest.mark.parametrize(
    ("batch", "length", "titles"),
    [(1, 5, 1), (8, 8, 8), (8, 9, 4), (6, 10, 2), (7, 4, 1), (16, 4, 16), (64, 1, 64), (32, 16, 4), (4, 40, 1), (4, 96, 1)],
)
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_titles_share_a_window_and_do_not_see_each_other(
    batch: int, length: int, titles: int, pooling: str, calibrated: Calibrated, calibrated_mean: Calibrated, tmp_path: Path
) -> None:
    """As many as fit into 64 tokens and divide the batch."""
    source = calibrated if pooling == "cls" else calibrated_mean
    paths = [tmp_path / name for name in ("windows.onnx", "unpadded.onnx")]
    write_float_graph(source.checkpoint, paths[0], padded=True)
    write_float_graph(source.checkpoint, paths[1])
    model = onnx.load(paths[0])
    for name in ("titles", "windows"):
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, [1]))
    onnx.save(model, paths[0])
    random = np.random.default_rng(batch * length)
    ids = random.integers(5, 1000, (batch, length))
    mask = (np.arange(length) < random.integers(1, length + 1, batch)[:, None]).astype(np.int64)
    inputs = {"input_ids": np.where(mask, ids, 1), "attention_mask": mask}
    vectors, of_a_window, windows = open_graph(paths[0]).run(["sentence_embedding", "titles", "windows"], inputs)
    assert (of_a_window, windows) == (titles, batch // titles)
    np.testing.assert_allclose(vectors, open_graph(paths[1]).run(None, inputs)[0], atol=2e-6)


def test_graph_and_data_move_together(engine: Engine, tmp_path: Path) -> None:
    """The graph names its data by file name only."""
    moved = tmp_path / engine.path.name
    moved.write_bytes(engine.path.read_bytes())
    with pytest.raises(Exception, match="data"):
        open_graph(moved)
    data = engine.path.with_name(engine.path.name + ".data")
    (tmp_path / data.name).write_bytes(data.read_bytes())
    row = engine.source.tokenizer.encode(["Koch"])
    np.testing.assert_array_equal(replace(engine, session=open_graph(moved)).run(row), engine.run(row))


def test_no_gemm_sees_padding_but_on_gpus_and_the_last_layer_sees_cls_rows_only(engine: Engine) -> None:
    rows = engine.source.tokenizer.encode(TEXTS)
    batch, tokens = len(rows), len(rows) * max(map(len, rows)) if engine.padded else sum(map(len, rows))
    seen = dict(gemm_rows(engine, rows))
    assert len(seen) == 18
    last = ("query", "attention.output.dense", "intermediate.dense", "2.output.dense")
    for name, count in seen.items():
        one_per_title = engine.source.checkpoint.pooling == "cls" and name.startswith("encoder.layer.2.") and name.endswith(last)
        assert count == (batch if one_per_title else tokens), name


def gemm_rows(engine: Engine, rows: Sequence[Sequence[int]]) -> Iterator[tuple[str, int]]:
    """Each linear layer's name and how many rows it computed, read from its output's shape."""
    for node, output in spy(engine, rows, "Gemm", "MatMulIntegerToFloat", "MatMul"):
        if ".weight" in node.input[1]:  # the other products are attention's
            yield node.input[1].removesuffix("_s8").removesuffix(".weight"), output.size // output.shape[-1]


def spy(engine: Engine, rows: Sequence[Sequence[int]], *kinds: str) -> Iterator[tuple[onnx.NodeProto, Any]]:
    """Nodes of these kinds and what they computed, padding as `Engine.run`."""
    model = onnx.load(engine.path, load_external_data=False)
    nodes = [node for node in model.graph.node if node.op_type in kinds]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(node.output[0]) for node in nodes)
    path = engine.path.with_name("spied.onnx")
    onnx.save(model, path)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    outputs = session.run([node.output[0] for node in nodes], padded(rows))
    return zip(nodes, outputs, strict=True)


def test_all_zero_activation_row_gives_no_nan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without outliers `<s>` at its own position is zero, and so is its row in the first linear layers."""
    monkeypatch.setattr(
        quantize, "_MOST_WORSE", 0.0
    )  # per-token scales everywhere: a per-tensor scale divides by nothing of a token
    source = calibrated_of(make_checkpoint(tmp_path / "tiny", outliers=0.0))
    c = source.checkpoint
    row = c.tensor("embeddings.word_embeddings.weight")[0] + c.tensor("embeddings.position_embeddings.weight")[2]
    assert not (row + c.tensor("embeddings.token_type_embeddings.weight")[0]).any()
    assert not c.tensor("embeddings.LayerNorm.bias").any()
    engine = write(source, "int8/cls", tmp_path / "graph.onnx")
    rows = source.tokenizer.encode(TEXTS)
    assert not tolerance_violations("int8", measure(source.reference.encode(rows), engine.run(rows)))
    # A NaN that this CPU happens to turn into a zero would not show in the vectors.
    divided = [output for _, output in spy(engine, rows, "Div")]
    assert any((output == 0).all(axis=1).any() for output in divided), "no all-zero row: this test proves nothing"
    assert all(np.isfinite(output).all() for output in divided)
