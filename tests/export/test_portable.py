"""The portable graph in the hands it is made for: sentence-transformers and optimum, with nothing of jobonnx."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from helpers.checkpoints import make_checkpoint, measure_few_texts
from helpers.figures import figure
from jobonnx.bundle.manifest import Bundle
from jobonnx.errors import JobonnxError
from jobonnx_export.pipeline import export
from jobonnx_export.portable import export_portable

pytestmark = pytest.mark.medium

TEXTS = ["Koch", "", "Oberbürgermeister der Landeshauptstadt", "软件工程师", "ein <pad> im Text", "tool & die maker " * 60]


@pytest.fixture(scope="module")
def mean_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tensors of `checkpoint` with mean pooling and no Normalize module."""
    return make_checkpoint(tmp_path_factory.mktemp("mean") / "tiny", pooling="mean", normalize=False)


@pytest.fixture(scope="module")
def mean_bundle(mean_checkpoint: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its export. The graph below pooling is the same as the CLS bundle's, which saves optimum's time."""

    def copied(transformer: Path, folder: Path) -> None:
        shutil.copyfile(bundle / "onnx" / "model.onnx", folder / "model.onnx")

    output = tmp_path_factory.mktemp("bundle") / "mean"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jobonnx_export.pipeline.export_portable", copied)
        measure_few_texts(patch)
        export(str(mean_checkpoint), output, ["fp32"])
    return output


def test_sentence_transformers_loads_the_bundle_unchanged(checkpoint: Path, bundle: Path) -> None:
    theirs = SentenceTransformer(str(bundle), backend="onnx", device="cpu", model_kwargs={"provider": "CPUExecutionProvider"})
    assert Path(theirs[0].auto_model.model_path) == bundle / "onnx" / "model.onnx", "one of the engine graphs beside it"
    expected = SentenceTransformer(str(checkpoint), device="cpu")
    np.testing.assert_allclose(theirs.encode(TEXTS), expected.encode(TEXTS), atol=1e-5, rtol=0)
    assert theirs.max_seq_length == expected.max_seq_length
    assert theirs.prompts == expected.prompts
    query = theirs.encode(TEXTS, prompt_name="query")
    np.testing.assert_allclose(query, expected.encode(TEXTS, prompt_name="query"), atol=1e-5, rtol=0)
    assert np.abs(query - theirs.encode(TEXTS)).max() > 1e-3, "the prompt does nothing: this test proves nothing"


def test_a_module_that_optimums_process_misses_is_named(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "optimum").mkdir()
    (tmp_path / "optimum" / "__init__.py").touch()  # an optimum without exporters, before the real one
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    with pytest.raises(ModuleNotFoundError) as caught:
        export_portable(checkpoint, tmp_path)
    assert caught.value.name == "optimum.exporters"


def test_mean_pooling_without_normalize(mean_checkpoint: Path, mean_bundle: Path) -> None:
    theirs = SentenceTransformer(str(mean_bundle), backend="onnx", device="cpu").encode(TEXTS)
    expected = SentenceTransformer(str(mean_checkpoint), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(theirs, expected, atol=1e-5, rtol=0)
    assert not np.allclose(np.linalg.norm(theirs, axis=1), 1)
    model = Bundle.open(mean_bundle).model
    assert (model.pooling, model.normalize) == ("mean", False)


@pytest.mark.parametrize("options", [{}, {"subfolder": "onnx"}, {"file_name": "model.onnx"}])
def test_optimum_loads_the_bundle_unchanged(checkpoint: Path, bundle: Path, options: dict[str, str]) -> None:
    from optimum.onnxruntime import ORTModelForFeatureExtraction
    from transformers import AutoTokenizer

    model = ORTModelForFeatureExtraction.from_pretrained(bundle, provider="CPUExecutionProvider", **options)
    inputs = AutoTokenizer.from_pretrained(bundle)(TEXTS, padding=True, truncation=True, max_length=96, return_tensors="pt")
    assert Path(model.path) == bundle / "onnx" / "model.onnx"
    vectors = torch.nn.functional.normalize(model(**inputs).last_hidden_state[:, 0], dim=1).numpy()
    expected = SentenceTransformer(str(checkpoint), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(vectors, expected, atol=1e-5, rtol=0)


def test_bundle_measured_it_too(bundle: Path) -> None:
    graph = Bundle.open(bundle).graph("fp32", "portable")
    assert graph is not None
    assert graph.path == "onnx/model.onnx"
    assert figure(graph.parity, "max_abs") <= 1e-5


@pytest.mark.slow
def test_failure_of_optimum_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "nothing-like-it"}')
    with pytest.raises(JobonnxError, match="optimum could not export it") as caught:
        export_portable(tmp_path, tmp_path)
    assert "\n" not in str(caught.value)
    assert "nothing-like-it" in str(caught.value)
