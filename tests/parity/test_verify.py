"""Measuring a bundle's graphs again, and noticing when one has gone bad."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from helpers.figures import figure
from jobonnx import Bundle, JobonnxError
from jobonnx.bundle.integrity import describe_file, with_checksum
from jobonnx.bundle.manifest import MANIFEST, REFERENCE_TEXTS, REFERENCE_VECTORS
from jobonnx.parity.verify import pooled, verify


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return shutil.copytree(bundle, tmp_path / "copy")


def spoil(path: Path, value: float) -> None:
    """Put a value into every LayerNorm bias of a graph."""
    graph = onnx.load(path)
    biases = [t for t in graph.graph.initializer if "LayerNorm.bias" in t.name]
    assert biases
    for tensor in biases:
        array = numpy_helper.to_array(tensor).copy()
        array[::2] += value
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(graph, path)


def accept(folder: Path, name: str) -> None:
    """Make the manifest say that an altered file is the right one."""
    content: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    content["files"][name] = asdict(describe_file(folder / name))
    (folder / MANIFEST).write_text(json.dumps(with_checksum(content)), encoding="utf-8")


def test_every_graph_of_an_export_passes_and_measures_what_it_did_then(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    results = verify(opened)
    assert [(r.variant, r.target) for r in results] == [(g.variant, g.target) for g in opened.graphs]
    for result, graph in zip(results, opened.graphs, strict=True):
        assert result.missed == ()
        assert result.provider == "cpu"
        assert result.parity.texts == len(json.loads((bundle / REFERENCE_TEXTS).read_text(encoding="utf-8"))) > 100
        # A part of the export's texts: it cannot be worse than the worst of them.
        assert figure(result.parity, "min_cosine") >= figure(graph.parity, "min_cosine") - 1e-6
    exactness = {r.variant: figure(r.parity, "max_abs") for r in results if r.target != "portable"}
    assert exactness["fp32"] < exactness["fp16"] < exactness["int8"]


@pytest.mark.parametrize("value", [0.5, np.nan])
def test_only_the_graph_that_was_spoilt_misses_its_tolerance(value: float, copy: Path) -> None:
    spoil(copy / "engine" / "fp32-cpu.onnx", value)
    accept(copy, "engine/fp32-cpu.onnx")
    missed = {(r.variant, r.target): r.missed for r in verify(Bundle.open(copy))}
    phrases = missed.pop(("fp32", "cpu"))
    assert [phrase.split()[0] for phrase in phrases] == ["mean_centred", "p5_centred", "max_abs"]
    assert set(missed.values()) == {()}


def test_wrong_references_fail_every_graph(copy: Path) -> None:
    np.save(copy / REFERENCE_VECTORS, np.roll(np.load(copy / REFERENCE_VECTORS), 1, axis=0))
    accept(copy, REFERENCE_VECTORS)
    assert all(result.missed for result in verify(Bundle.open(copy)))


@pytest.mark.parametrize("name", [REFERENCE_TEXTS, REFERENCE_VECTORS])
@pytest.mark.parametrize("content", [b"", b"nonsense"])
def test_references_that_cannot_be_read_are_one_sentence(name: str, content: bytes, copy: Path) -> None:
    (copy / name).write_bytes(content)
    accept(copy, name)
    with pytest.raises(JobonnxError, match=rf"{name}.*; export the bundle again") as caught:
        verify(Bundle.open(copy))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["null", "5", "[1, 2]", '["one"]', "[]", "[" * 100_000, '["\\ud800"]'])
def test_reference_texts_of_another_form_are_one_sentence(content: str, copy: Path) -> None:
    (copy / REFERENCE_TEXTS).write_text(content)
    accept(copy, REFERENCE_TEXTS)
    with pytest.raises(JobonnxError, match=r"reference\.(json|npy).*; export the bundle again"):
        verify(Bundle.open(copy))


@pytest.mark.parametrize("odd", [np.zeros((2, 3), np.float32), np.zeros(7), np.array("text"), np.array([{}], dtype=object)])
def test_reference_vectors_of_another_form_are_one_sentence(odd: Any, copy: Path) -> None:
    np.save(copy / REFERENCE_VECTORS, odd, allow_pickle=True)
    accept(copy, REFERENCE_VECTORS)
    with pytest.raises(JobonnxError, match=r"reference\.npy.*; export the bundle again"):
        verify(Bundle.open(copy))


@pytest.mark.parametrize(("pooling", "expected"), [("cls", [[4, 1], [6, 1]]), ("mean", [[5, 1], [6, 1]])])
@pytest.mark.parametrize("normalize", [True, False])
def test_a_portable_graph_is_pooled_without_its_padding(pooling: str, expected: Any, normalize: bool) -> None:
    """The hidden state of a token is its id, and 1; padding has id 1 too."""
    ids = np.array([[4, 6], [6, 1]], dtype=np.float32)
    hidden = np.stack([ids, np.ones_like(ids)], axis=-1)
    reference = np.array(expected, dtype=np.float32)
    if normalize:
        reference /= np.linalg.norm(reference, axis=1, keepdims=True)
    model = replace(Bundle.open().model, dimension=2, pad_id=1, pooling=pooling, normalize=normalize)
    np.testing.assert_allclose(pooled(hidden, [2, 1], model), reference, atol=1e-6)
