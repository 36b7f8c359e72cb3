"""What graphs say of themselves, read by onnx and by ONNX Runtime."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import onnx
import onnxruntime
import pytest

import jobonnx
from jobonnx.bundle.integrity import check_data_file
from jobonnx.bundle.manifest import FORMAT, Bundle
from jobonnx_export.labels import label


def said(path: Path) -> dict[str, str]:
    properties = onnx.load(path, load_external_data=False).metadata_props
    found = {p.key.removeprefix("jobonnx."): p.value for p in properties if p.key.startswith("jobonnx.")}
    assert len(found) == sum(p.key.startswith("jobonnx.") for p in properties), "a name twice"
    return found


def test_every_graph_of_a_bundle_says_what_it_is(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    for graph in opened.graphs:
        found = said(bundle / graph.path)
        assert graph.variant in found["variants"].split()
        assert found[f"fingerprint.{graph.variant}"] == opened.fingerprint(graph.variant)
        assert found[f"recipe.{graph.variant}"] == graph.recipe
        assert json.loads(found[f"parity.{graph.variant}"])["min_cosine"] == round(graph.parity.min_cosine or 0, 4)
        assert (found["pooling"], found["max_tokens"], found["pad_id"]) == ("cls", "96", "1")
        assert ("hidden states" in found["output"]) == (graph.target == "portable")
        assert ("session_options" in found) == graph.variant.startswith("int8")
    assert said(bundle / "engine" / "fp32-standard.onnx")["variants"] == "fp32 bf16"


def test_onnxruntime_shows_it_and_who_made_it() -> None:
    """On the small model, whose graph has external data: nothing of it is lost."""
    opened = Bundle.open()
    path = opened.folder / "engine" / "int8-cpu.onnx"
    meta = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).get_modelmeta()
    assert (meta.producer_name, meta.version) == ("jobonnx", FORMAT)
    assert meta.custom_metadata_map["jobonnx.fingerprint.int8"] == opened.fingerprint("int8")
    assert json.loads(meta.custom_metadata_map["jobonnx.session_options"]) == {"session.x64quantprecision": "1"}
    assert "without VNNI" in meta.custom_metadata_map["jobonnx.session_options_needed_on"]
    assert onnx.load(path, load_external_data=False).producer_version == jobonnx.__version__


def test_optimums_graph_keeps_its_producer(bundle: Path) -> None:
    assert onnx.load(bundle / "onnx" / "model.onnx", load_external_data=False).producer_name == "pytorch"


@pytest.mark.parametrize("source", ["geo/location", "a\0b", "größe"])
def test_names_that_look_like_something_else_do_no_harm(source: str, tmp_path: Path) -> None:
    """A "location" in a graph names a data file, and a bundle with another than its own does not open."""
    opened = Bundle.open()
    path = shutil.copytree(opened.folder / "engine", tmp_path / "engine") / "int8-cpu.onnx"
    label(path, opened.graphs, replace(opened, model=replace(opened.model, source=source)))
    check_data_file(path, tmp_path / "engine" / "int8.data")
    onnx.load(path)
