"""The README.md of a bundle: metadata that the Hub reads, the parity table, and blocks that run as they stand."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from jobonnx.bundle.manifest import Bundle, Rejected
from jobonnx_export.card import write_card


@pytest.fixture
def small(tmp_path: Path) -> Bundle:
    """A copy of the small bundle."""
    return replace(Bundle.open(), folder=shutil.copytree(Bundle.open().folder, tmp_path / "small"))


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A checkpoint that says nothing of itself."""
    (tmp_path / "checkpoint").mkdir()
    return tmp_path / "checkpoint"


def card_of(bundle: Bundle) -> tuple[dict[str, Any], str]:
    card = ModelCard((bundle.folder / "README.md").read_text(encoding="utf-8"))
    data: Any = card.data
    return data.to_dict(), card.text


def test_metadata_come_from_the_checkpoint_and_the_export(empty: Path, small: Bundle) -> None:
    (empty / "README.md").write_text("---\nlicense: mit\nlanguage:\n- de\nlibrary_name: other\ntags: [other]\n---\n# Other\n")
    (empty / "LICENSE.txt").write_text("the licence")
    (empty / "NOTICE").write_text("the notice")
    model = replace(small.model, source="somebody/model", revision="0" * 40)
    write_card(empty, replace(small, model=model))
    data, text = card_of(small)
    assert data.pop("tags")[:2] == ["jobonnx", "onnx"]
    assert data == {
        "license": "mit",
        "language": ["de"],
        "base_model": "somebody/model",
        "base_model_relation": "quantized",
        "pipeline_tag": "sentence-similarity",
        "library_name": "onnx",
    }
    assert "huggingface.co/somebody/model" in text
    assert (small.folder / "LICENSE.txt").read_text() == "the licence"
    assert (small.folder / "NOTICE").read_text() == "the notice"


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"---\n: [\n---\n", b"---\n- 1\n---\n", b"---\nlicense: 7\n---\n"])
def test_a_card_that_says_nothing_costs_the_licence_and_nothing_else(content: bytes, small: Bundle, empty: Path) -> None:
    (empty / "README.md").write_bytes(content)
    write_card(empty, small)
    data, _ = card_of(small)
    assert "license" not in data
    assert "base_model" not in data, "a folder has no name on the Hub"


def test_every_graph_has_its_figures_and_what_was_left_out_its_reason(small: Bundle, empty: Path) -> None:
    rejected = Rejected(**{**vars(small.graphs[0]), "variant": "int8-static"}, missed=("mean_centred 0.9 (asked: >= 0.97)",))
    write_card(empty, replace(small, rejected=(rejected,)))
    _, text = card_of(small)
    parity = small.graphs[0].parity
    row = next(line for line in text.splitlines() if line.startswith("| `engine/int8-cpu.onnx` |"))
    assert f"| {parity.min_cosine:.6f} | {parity.mean_centred:.6f} | {parity.top10_overlap:.3f} |" in row
    assert "int8-static for cpu (mean_centred 0.9 (asked: >= 0.97))" in text


def test_names_and_prompts_do_no_harm(small: Bundle, empty: Path) -> None:
    model = replace(small.model, source="it's a `name`$dimension\n|", prompts={"query": "a|b: ", "document": ""})
    write_card(empty, replace(small, model=model))
    _, text = card_of(small)
    assert "it-s-a--name--dimension--" in text
    assert "it's" not in text
    assert "| query | `a\\|b: ` |" in text


def test_int8_is_told_what_it_needs_and_others_are_not(small: Bundle, empty: Path) -> None:
    write_card(empty, small)
    assert "## int8 on CPUs without VNNI" in card_of(small)[1]
    graphs = (replace(small.graphs[0], variant="fp32"),)
    write_card(empty, replace(small, graphs=graphs, default_variant="fp32"))
    assert "x64quantprecision" not in card_of(small)[1]


@pytest.mark.parametrize("number", [0, 1])
def test_the_python_blocks_run(number: int, small: Bundle, empty: Path) -> None:
    write_card(empty, small)
    code = re.findall(r"```python\n(.*?)```", card_of(small)[1], re.DOTALL)[number]
    code = code.replace("REPOSITORY", small.folder.as_posix())
    done = subprocess.run([sys.executable, "-c", code], cwd=small.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"0\.83\d", done.stdout), "nurse and Krankenschwester"


def test_a_whole_export_has_a_card_for_the_libraries_of_its_portable_graphs(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    data, text = card_of(opened)
    assert data["library_name"] == "sentence-transformers"
    assert "transformers.js" in data["tags"]
    assert 'model_kwargs={"file_name": "onnx/model_quantized.onnx"}' in text
    assert '{ pooling: "cls", normalize: true }' in text
    assert "| query | `query: ` |" in text
    assert len(re.findall(r"^\| `(?:engine|onnx)/", text, re.MULTILINE)) == len(opened.graphs)
