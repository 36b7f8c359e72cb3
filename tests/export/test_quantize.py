"""The int8 recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.torch import load_file, save_file

from helpers.calibrated import Calibrated, calibrated_of
from helpers.checkpoints import make_checkpoint
from helpers.figures import figure
from jobonnx.arrays import Floats
from jobonnx.parity.measure import measure
from jobonnx.runtime.providers import PROVIDERS
from jobonnx.runtime.session import Settings
from jobonnx.text.batching import pad
from jobonnx_export.graph.builder import write_int8_graph
from jobonnx_export.quantize import (
    Int8Recipe,
    LinearStatistics,
    Split,
    _attempt,
    _gelu,
    _per_tensor,
    _per_token,
    linear_names,
    make_recipe,
)

pytestmark = pytest.mark.medium

TITLES = [
    "Koch",
    "Oberbürgermeister",
    "chief executive officer",
    "软件工程师",
    "enfermera de quirófano",
    "Data Scientist (m/w/d)",
    "",
]


@pytest.fixture(scope="module")
def recipe(calibrated: Calibrated) -> Int8Recipe:
    return make_recipe(calibrated.checkpoint, calibrated.statistics)


@pytest.fixture(scope="module")
def strong(tmp_path_factory: pytest.TempPathFactory) -> Calibrated:
    """Outliers that int8 cannot do without smoothing."""
    return calibrated_of(make_checkpoint(tmp_path_factory.mktemp("strong") / "tiny", outliers=15.0))


def test_every_linear_layer_has_its_place(calibrated: Calibrated, recipe: Int8Recipe) -> None:
    names = linear_names(calibrated.checkpoint.architecture)
    assert len(names) == 3 * 6
    assert set(names) == set(recipe.linears) == set(recipe.errors) == set(calibrated.statistics)


def test_weights_come_back_within_half_a_scale(calibrated: Calibrated, recipe: Int8Recipe) -> None:
    for name, linear in recipe.linears.items():
        inverse = linear.input.inverse_smoothing
        factors: Floats = np.reciprocal(np.ones(1, np.float32) if inverse is None else inverse)
        if name.endswith("attention.output.dense"):
            factors = recipe.value_smoothing[name.replace("output.dense", "self.value")]
        original = (calibrated.checkpoint.tensor(f"{name}.weight") * factors).T
        assert linear.weight.dtype == np.int8
        assert np.abs(linear.weight * linear.weight_scale - original).max() <= linear.weight_scale.max() * 0.5001
        assert (np.abs(linear.weight).max(axis=0) == 127).all(), "a channel that does not fill its scale"


def test_smoothing_factors_are_powers_of_two(recipe: Int8Recipe) -> None:
    inverses = [linear.input.inverse_smoothing for linear in recipe.linears.values()]
    factors = [f for f in (*inverses, *recipe.value_smoothing.values()) if f is not None]
    assert any((f != 1).any() for f in factors)
    assert all((np.frexp(f)[0] == 0.5).all() for f in factors)


def test_layers_that_read_the_same_input_share_its_quantisation(recipe: Int8Recipe) -> None:
    for i in range(3):
        q, k, v = (recipe.linears[f"encoder.layer.{i}.attention.self.{name}"].input for name in ("query", "key", "value"))
        assert q is k is v


def test_inputs_that_a_norm_made_have_a_per_tensor_scale_and_others_per_token_scales(recipe: Int8Recipe) -> None:
    for name, linear in recipe.linears.items():
        normed = name.endswith(("query", "key", "value", "intermediate.dense"))
        assert (linear.input.scale is not None) == normed, name


def test_tokens_of_unequal_size_keep_per_token_scales(calibrated: Calibrated) -> None:
    """One scale for all of them would leave the small ones hardly any of the 256 values."""
    name = "encoder.layer.0.intermediate.dense"
    seen = calibrated.statistics[name]
    sizes = np.geomspace(1, 100, len(seen.sample), dtype=np.float32)[:, None]
    unequal = LinearStatistics(100 * seen.highest, 100 * seen.lowest, seen.sample * sizes)
    made = make_recipe(calibrated.checkpoint, calibrated.statistics | {name: unequal})
    assert made.linears[name].input.scale is None
    assert made.linears["encoder.layer.1.intermediate.dense"].input.scale is not None


def test_zero_point_leaves_gelus_short_side_few_values(recipe: Int8Recipe) -> None:
    assert recipe.linears["encoder.layer.0.output.dense"].input.zero_point < 64
    assert 96 < recipe.linears["encoder.layer.0.attention.output.dense"].input.zero_point < 160


def test_smoothing_changes_nothing_in_float(calibrated: Calibrated, recipe: Int8Recipe, tmp_path: Path) -> None:
    """Attention values divided, the layer after them multiplied: the same bits, as the factors are powers of two."""
    undone = {}
    for values, factors in recipe.value_smoothing.items():
        name = values.replace("self.value", "output.dense.weight")
        undone[name] = calibrated.checkpoint.tensor(name) * factors
    assert len(undone) == 3
    folded = replace(calibrated.checkpoint, tensor=lambda name: undone.get(name, calibrated.checkpoint.tensor(name)))
    write_int8_graph(calibrated.checkpoint, tmp_path / "float.onnx", Int8Recipe({}, {}, {}))
    write_int8_graph(folded, tmp_path / "smoothed.onnx", Int8Recipe({}, recipe.value_smoothing, {}))
    in_float, smoothed = (vectors_of(tmp_path / name, calibrated) for name in ("float.onnx", "smoothed.onnx"))
    np.testing.assert_array_equal(in_float, smoothed)


def test_smoothing_beats_no_smoothing_where_channels_stick_out(strong: Calibrated, tmp_path: Path) -> None:
    expected = strong.reference.encode(strong.tokenizer.encode(TITLES))
    centred = {}
    for alpha in (0.5, None):
        made = make_recipe(strong.checkpoint, strong.statistics, alpha)
        write_int8_graph(strong.checkpoint, tmp_path / "int8.onnx", made)
        centred[alpha] = figure(measure(expected, vectors_of(tmp_path / "int8.onnx", strong)), "mean_centred")
    assert 1 - centred[0.5] < 0.5 * (1 - centred[None]), centred


def test_errors_rank_layers_by_what_they_cost(strong: Calibrated, tmp_path: Path) -> None:
    made = make_recipe(strong.checkpoint, strong.statistics, None)
    ranked = sorted(made.errors, key=lambda name: made.errors[name])
    expected = strong.reference.encode(strong.tokenizer.encode(TITLES))
    centred = []
    for in_float in (ranked[:4], ranked[-4:]):
        write_int8_graph(strong.checkpoint, tmp_path / "int8.onnx", made.without(in_float))
        centred.append(figure(measure(expected, vectors_of(tmp_path / "int8.onnx", strong)), "mean_centred"))
    best_spared, worst_spared = centred
    assert 1 - worst_spared < 0.5 * (1 - best_spared), (centred, made.errors)


def test_errors_see_what_smoothing_mends(strong: Calibrated) -> None:
    smoothed, unsmoothed = (make_recipe(strong.checkpoint, strong.statistics, alpha).errors for alpha in (0.5, None))
    assert all(smoothed[name] < unsmoothed[name] for name in smoothed if ".attention.self." in name or ".intermediate." in name)


def test_dead_input_and_output_channels_give_no_nan(calibrated: Calibrated) -> None:
    name = "encoder.layer.0.intermediate.dense"
    dead = calibrated.checkpoint.tensor(f"{name}.weight").copy()
    dead[:, 3] = 0  # an input channel no one reads
    dead[5] = 0  # an output that is always its bias
    checkpoint = replace(calibrated.checkpoint, tensor=lambda n: dead if n == f"{name}.weight" else calibrated.checkpoint.tensor(n))
    seen = calibrated.statistics[name]
    silent = np.arange(len(seen.largest)) == 7
    quiet = LinearStatistics(np.where(silent, 0, seen.highest), np.where(silent, 0, seen.lowest), seen.sample)
    made = make_recipe(checkpoint, calibrated.statistics | {name: quiet})
    linear = made.linears[name]
    assert np.isfinite(linear.weight_scale).all()
    assert (linear.weight_scale > 0).all()
    assert linear.input.inverse_smoothing is not None
    assert linear.input.inverse_smoothing[3] == linear.input.inverse_smoothing[7] == 1
    assert (linear.weight[:, 5] == 0).all()
    assert np.isfinite(made.errors[name])


def test_without_leaves_layers_in_float_and_drops_the_smoothing_of_their_values(recipe: Int8Recipe) -> None:
    left = ["encoder.layer.0.attention.output.dense", "encoder.layer.2.attention.self.query"]
    fewer = recipe.without(left)
    assert set(recipe.linears) - set(fewer.linears) == set(left)
    values = [f"encoder.layer.{i}.attention.self.value" for i in range(3)]
    assert list(recipe.value_smoothing) == values
    assert list(fewer.value_smoothing) == values[1:]


@pytest.mark.parametrize("part", ["attention.self.value", "attention.output.dense", "intermediate.dense"])
def test_graph_with_layers_in_float_is_no_worse(calibrated: Calibrated, recipe: Int8Recipe, tmp_path: Path, part: str) -> None:
    """Values in float feed an int8 layer, and the other way round."""
    expected = calibrated.reference.encode(calibrated.tokenizer.encode(TITLES))
    fewer = recipe.without([f"encoder.layer.{i}.{part}" for i in range(3)])
    write_int8_graph(calibrated.checkpoint, tmp_path / "int8.onnx", fewer)
    assert figure(measure(expected, vectors_of(tmp_path / "int8.onnx", calibrated)), "mean_centred") >= 0.997


@pytest.fixture(scope="module")
def massive(tmp_path_factory: pytest.TempPathFactory) -> Calibrated:
    """One channel of GELU's output is ten times as large as the others, as in trained encoders."""
    folder = make_checkpoint(tmp_path_factory.mktemp("massive") / "tiny")
    tensors = load_file(folder / "model.safetensors")
    for i in range(3):
        tensors[f"encoder.layer.{i}.intermediate.dense.bias"][7] += 30
        tensors[f"encoder.layer.{i}.output.dense.weight"][:, 7] /= 30
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return calibrated_of(folder)


@pytest.mark.parametrize("in_float", [None, "intermediate.dense", "output.dense"])
def test_channel_that_sticks_out_is_split_and_costs_no_operator(massive: Calibrated, tmp_path: Path, in_float: str | None) -> None:
    made = make_recipe(massive.checkpoint, massive.statistics, static=True)
    assert {name: set(split.channels) for name, split in made.splits.items()} == {
        f"encoder.layer.{i}.intermediate.dense": {7} for i in range(3)
    }
    layers = [] if in_float is None else [f"encoder.layer.{i}.{in_float}" for i in range(3)]
    expected = massive.reference.encode(massive.tokenizer.encode(TITLES))
    centred, operators = {}, {}
    unsplit = Int8Recipe(dict(made.linears), made.value_smoothing, {})
    for name in made.splits:
        narrow = name.replace("intermediate", "output")
        seen = massive.statistics[narrow]
        (linear,) = _attempt(
            {narrow: massive.checkpoint.tensor(f"{narrow}.weight").T},
            seen.sample,
            _per_tensor(seen.lowest, seen.highest, None),
            None,
        ).linears.values()
        unsplit.linears[narrow] = linear
    for kind, recipe in {"split": made, "unsplit": unsplit}.items():
        for standard in (False, True):
            path = tmp_path / f"{kind}{standard}.onnx"
            write_int8_graph(massive.checkpoint, path, recipe.without(layers), standard_ops_only=standard)
            centred[kind, standard] = figure(measure(expected, vectors_of(path, massive)), "mean_centred")
            operators[kind, standard] = [node.op_type for node in onnx.load(path, load_external_data=False).graph.node]
    for standard in (False, True):
        assert operators["split", standard] == operators["unsplit", standard]
        if in_float != "output.dense":
            assert 1 - centred["split", standard] < 0.5 * (1 - centred["unsplit", standard]), centred
    assert bool(made.without(layers).splits) == (in_float != "output.dense")


def test_no_channel_is_split_where_none_sticks_out(calibrated: Calibrated, strong: Calibrated) -> None:
    assert all(not make_recipe(c.checkpoint, c.statistics, static=True).splits for c in (calibrated, strong))


def test_copies_add_up_to_the_channel() -> None:
    """Clipped at the limit, as quantising does."""
    limit = 6.0
    split = Split(np.array([0, 0]), np.array([6, 12], np.float32))
    z = np.linspace(-5, 17.9, 500, dtype=np.float32)[:, None]
    whole = _gelu(z)
    wrong = np.abs(np.minimum(split.applied(whole), limit).sum(axis=1) - whole[:, 0])
    assert wrong.max() < 0.175
    assert wrong[np.abs(z[:, 0] % limit - 3) < 0.1].max() < 0.02
    assert split.columns(2).tolist() == [0, 1, 0, 0]


def test_error_counts_each_token_alike() -> None:
    """A token as large as `<s>` is in trained encoders hides nothing: in a Frobenius norm the others' ruin is .01."""
    x = np.full((100, 4), 0.01, np.float32)
    x[0] = 30
    weight = np.eye(4, dtype=np.float32)
    (found,) = _attempt({"layer": weight}, x, _per_tensor(x.min(axis=0), x.max(axis=0), None), None).errors.values()
    assert found > 0.9
    (mended,) = _attempt({"layer": weight}, x, _per_token(x, None), None).errors.values()
    assert mended < 0.01


def vectors_of(path: Path, calibrated: Calibrated) -> Floats:
    return (
        PROVIDERS["cpu"]
        .open_session(path, None, Settings("cpu", 2))
        .run(*pad(calibrated.tokenizer.encode(TITLES), calibrated.checkpoint.architecture.pad_id))
    )
