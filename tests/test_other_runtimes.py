"""A bundle's graphs in other hands: plain ONNX Runtime, Node, transformers.js and sentence-transformers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.checkpoints import ROOT
from jobonnx import Encoder
from jobonnx.arrays import Floats
from jobonnx.bundle.manifest import Bundle

TITLES = ["nurse", "Krankenschwester in der Intensivpflege", "软件工程师", "nurse", "Koch " * 200]
CPU = "CPUExecutionProvider"
needs_node = pytest.mark.skipif(shutil.which("npm") is None, reason="needs Node and npm: apt install nodejs npm")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the examples and the packages that they import."""
    folder = tmp_path_factory.mktemp("node")
    # Without their scripts, which fetch libraries for GPUs.
    packages = ["onnxruntime-node", "@huggingface/transformers"]
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", *packages]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for example in (ROOT / "examples").glob("*.mjs"):
        shutil.copy(example, folder)
    return folder


def run_node(folder: Path, *arguments: str) -> Floats:
    """Run an example: float32 [titles, dimension]."""
    done = subprocess.run(["node", *arguments], cwd=folder, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["text"] for row in rows] == [argument for argument in arguments if argument in TITLES]
    return np.array([row["vector"] for row in rows], np.float32)


def test_ten_lines_of_plain_onnxruntime_give_the_encoders_vectors() -> None:
    encoder = Encoder(provider="cpu")
    titles = ["nurse", "Krankenschwester", "data engineer"]
    example = [sys.executable, str(ROOT / "examples" / "ten_lines.py"), str(encoder.bundle.folder)]
    done = subprocess.run(example, capture_output=True, encoding="utf-8", check=True, env={**os.environ, "PYTHONUTF8": "1"})
    printed = np.array(done.stdout.replace("[", " ").replace("]", " ").split(), float).reshape(3, 3)
    assert abs(printed - encoder.similarity(encoder.encode(titles), encoder.encode(titles))).max() < 6e-4


@needs_node
@pytest.mark.slow
@pytest.mark.network
def test_node_gives_the_encoders_vectors(node: Path) -> None:
    encoder = Encoder(provider="cpu")
    vectors = run_node(node, "node.mjs", str(encoder.bundle.folder), *TITLES)
    assert abs(vectors - encoder.encode(TITLES)).max() < 1e-6


@needs_node
@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize(("dtype", "variant", "most"), [("fp32", "fp32", 1e-5), ("q8", "int8", 1e-4), ("fp16", "fp16", 1e-2)])
def test_transformers_js_loads_the_portable_graphs(dtype: str, variant: str, most: float, node: Path, bundle: Path) -> None:
    encoder = Encoder(bundle, variant=variant, provider="cpu", force=True)
    vectors = run_node(node, "transformers_js.mjs", str(bundle), dtype, *TITLES)
    assert abs(vectors - encoder.encode(TITLES)).max() < most


@pytest.mark.parametrize(("file", "variant", "most"), [("model_quantized", "int8", 1e-4), ("model_fp16", "fp16", 1e-2)])
def test_sentence_transformers_loads_the_portable_graphs(file: str, variant: str, most: float, bundle: Path) -> None:
    import onnxruntime
    from sentence_transformers import SentenceTransformer

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    kwargs = {"file_name": f"onnx/{file}.onnx", "provider": CPU, "session_options": options}
    theirs = SentenceTransformer(str(bundle), backend="onnx", device="cpu", model_kwargs=kwargs)
    assert Path(theirs[0].auto_model.model_path) == bundle / "onnx" / f"{file}.onnx"
    ours = Encoder(bundle, variant=variant, provider="cpu", force=True)
    assert abs(theirs.encode(TITLES) - ours.encode(TITLES)).max() < most


def test_portable_graphs_are_one_file_each(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    assert {graph.path: graph.data for graph in opened.graphs if graph.target == "portable"} == {
        "onnx/model.onnx": None,
        "onnx/model_fp16.onnx": None,
        "onnx/model_quantized.onnx": None,
    }
    assert sorted(path.name for path in (bundle / "onnx").iterdir()) == ["model.onnx", "model_fp16.onnx", "model_quantized.onnx"]
