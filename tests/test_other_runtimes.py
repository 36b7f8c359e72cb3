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
import tokenizers

from helpers.checkpoints import ROOT, SHARED, needs
from jobonnx import Encoder
from jobonnx.arrays import Floats
from jobonnx.bundle.manifest import Bundle

TITLES = ["nurse", "Krankenschwester in der Intensivpflege", "软件工程师", "nurse", "Koch " * 200]
TITLES += ["SENIOR DATA ENGINEER", "Straßenbauer", "ＮＵＲＳＥ", "Łącznikowiec", "ŠKOLNÍ UČITEL"]
CPU = "CPUExecutionProvider"
SOURCES = [SHARED / name for name in ("esco_v1.2.0", "esco_multilingual", "onet_27.0", "csco2022")]
needs_sources = needs("ESCO, O*NET and CSCO", *SOURCES)
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


def real_titles() -> list[str]:
    """The titles that the small model learned from, of 24 languages, as they are written and in capitals."""
    from jobonnx_train.runs import Sources

    esco, more, onet, csco = SOURCES
    titles = Sources(esco, onet, csco / "csco22.csv", more).corpus(held_out=0).texts()
    return titles + [title.upper() for title in titles]


def ids_without_a_limit(folder: Path, texts: list[str]) -> list[list[int]]:
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    return [encoding.ids for encoding in tokenizer.encode_batch_fast(texts)]


@pytest.mark.medium
@needs_sources
def test_the_small_models_ids_do_not_hang_on_a_table_that_javascript_does_not_read(tmp_path: Path) -> None:
    folder = Encoder(provider="cpu").bundle.folder
    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    table, *others = tokenizer["normalizer"]["normalizers"]
    assert table["type"] == "Precompiled"
    # What transformers.js puts there: two titles begin with a space of no width, which it makes a space too.
    spaces = {"type": "Replace", "pattern": {"Regex": "[\u2000-\u200f]"}, "content": " "}
    tokenizer["normalizer"]["normalizers"] = [spaces, {"type": "NFKC"}, *others]
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    titles = real_titles()
    assert len(titles) > 500_000
    assert ids_without_a_limit(tmp_path, titles) == ids_without_a_limit(folder, titles)


@needs_node
@pytest.mark.slow
@pytest.mark.network
@needs_sources
def test_javascript_makes_the_same_ids_of_every_real_title(node: Path, tmp_path: Path) -> None:
    folder = Encoder(provider="cpu").bundle.folder
    titles = real_titles()
    (tmp_path / "titles.json").write_text(json.dumps(titles), "utf-8")
    (node / "ids.mjs").write_text(
        """
        import { AutoTokenizer, env } from "@huggingface/transformers";
        import { readFileSync, writeFileSync } from "node:fs";
        const [models, name, from, to] = process.argv.slice(2);
        env.allowRemoteModels = false;
        env.localModelPath = models;
        const tokenizer = await AutoTokenizer.from_pretrained(name);
        writeFileSync(to, JSON.stringify(JSON.parse(readFileSync(from)).map((title) => tokenizer.encode(title))));
        """
    )
    command = ["node", "ids.mjs", str(folder.parent), folder.name, str(tmp_path / "titles.json"), str(tmp_path / "ids.json")]
    subprocess.run(command, cwd=node, check=True)
    assert json.loads((tmp_path / "ids.json").read_text()) == ids_without_a_limit(folder, titles)


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
