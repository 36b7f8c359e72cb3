"""A bundle as a SentenceTransformer: the vectors of `Encoder`, by `load` and by the name in modules.json."""

from __future__ import annotations

import copy
import pickle
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer, util
from sentence_transformers.evaluation import EmbeddingSimilarityEvaluator, InformationRetrievalEvaluator, TripletEvaluator

from helpers.checkpoints import ROOT
from jobonnx import Bundle, Encoder, JobonnxError
from jobonnx.data.titles import read_titles
from jobonnx.errors import ProviderUnavailableError
from jobonnx.sentence_transformers import BundleModule, load

pytestmark = pytest.mark.medium
TITLES = ["nurse", "Krankenschwester", "software developer", "nurse", "", "Koch " * 300]
QUERIES, CORPUS = {"1": "nurse", "2": "Koch"}, {"a": "enfermera", "b": "cocinero", "c": "abogado", "d": "Krankenschwester"}


@pytest.fixture(scope="module")
def model() -> SentenceTransformer:
    return load(provider="cpu")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(provider="cpu")


def test_vectors_are_the_encoders(model: SentenceTransformer, encoder: Encoder) -> None:
    titles = [*read_titles()[::60], *TITLES]
    assert len(titles) > 500
    np.testing.assert_allclose(model.encode(titles), encoder.encode(titles), atol=1e-6)
    np.testing.assert_allclose(model.encode("nurse"), encoder.encode("nurse"), atol=1e-6)
    np.testing.assert_allclose(model.encode(titles, batch_size=7), encoder.encode(titles), atol=1e-6)
    prompts: list[dict[str, Any]] = [{"prompt": "job: "}, {"prompt_name": "query"}]
    for prompt in prompts:
        np.testing.assert_allclose(model.encode(TITLES, **prompt), encoder.encode(TITLES, **prompt), atol=1e-6)
    assert model.encode(sentences=TITLES).shape == (6, 256)
    assert isinstance(model.encode(TITLES, convert_to_tensor=True), torch.Tensor)
    short = load(provider="cpu", truncate_dim=32)
    np.testing.assert_allclose(short.encode(TITLES), encoder.encode(TITLES)[:, :32], atol=1e-6)  # as there: no unit length


def test_vectors_of_every_variant_are_the_encoders(bundle: Path) -> None:
    for variant in ("fp32", "int8", "int8-static"):
        ours, model = Encoder(bundle, variant=variant, provider="cpu"), load(bundle, variant=variant, provider="cpu")
        for call in ("encode", "encode_query", "encode_document"):
            np.testing.assert_allclose(getattr(model, call)(TITLES), getattr(ours, call)(TITLES), atol=1e-6)
        assert model.prompts == ours.prompts


def test_options_are_those_of_the_encoder(bundle: Path) -> None:
    with pytest.raises(ProviderUnavailableError, match="'fp16' is slower than fp32 on a CPU"):
        load(bundle, variant="fp16")
    with pytest.raises(JobonnxError, match="has no variant 'int4'"):
        load(bundle, variant="int4")
    with pytest.raises(ValueError, match="truncate_dim=999 has to be between"):
        load(bundle, truncate_dim=999)
    model = load(bundle, variant="fp32", prompts={"query": "Q: "}, similarity_fn_name="dot", truncation="left", threads=1)
    assert (model.prompts["query"], model.similarity_fn_name, model.device.type) == ("Q: ", "dot", "cpu")


def test_the_first_module_is_what_clients_expect(encoder: Encoder) -> None:
    model = load(provider="cpu")
    assert (model.max_seq_length, model.get_embedding_dimension()) == (128, 256)
    model.max_seq_length = 8
    assert np.abs(model.encode(TITLES[5]) - encoder.encode(TITLES[5])).max() > 1e-4
    assert model.tokenizer("nurse")["input_ids"] == encoder.tokenize(["nurse"])[0]
    features = model.tokenize(["nurse", "Krankenschwester"])
    assert features["input_ids"].shape == features["attention_mask"].shape
    np.testing.assert_allclose(model(features)["sentence_embedding"], encoder.encode(["nurse", "Krankenschwester"]), atol=1e-6)
    with pytest.raises(ValueError, match="max_seq_length=999"):
        model.max_seq_length = 999
    with pytest.raises(TypeError, match="text 1 is NoneType, not str; the value is missing"):
        model.encode(["nurse", None])


def test_repeats_are_computed_once(model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, rows = model[0].encoder.engine, []
    run = engine.session.run

    def counted(ids: Any, mask: Any) -> Any:
        rows.append(len(ids))
        return run(ids, mask)

    monkeypatch.setattr(engine._stream, "run", counted)
    model.encode(["nurse", "cook", "nurse"] * 700)
    assert sum(rows) == 2


def test_saved_it_is_found_by_name(model: SentenceTransformer, encoder: Encoder, tmp_path: Path) -> None:
    load(provider="cpu", prompts={"query": "Q: "}).save(str(tmp_path / "saved"))
    found = SentenceTransformer(str(tmp_path / "saved"), trust_remote_code=True, device="cpu", model_kwargs={"threads": 1})
    assert type(found) is SentenceTransformer
    assert isinstance(found[0], BundleModule)
    assert found[0].encoder.settings.threads == 1
    np.testing.assert_allclose(found.encode(TITLES), encoder.encode(TITLES), atol=1e-6)
    np.testing.assert_allclose(found.encode_query(TITLES), encoder.encode(TITLES, prompt="Q: "), atol=1e-6)
    (tmp_path / "saved" / "0_BundleModule" / "config.json").write_text("{}")
    with pytest.raises(JobonnxError, match=r"config\.json is not the file that was exported"):
        SentenceTransformer(str(tmp_path / "saved"), trust_remote_code=True)


def test_it_goes_to_other_processes(model: SentenceTransformer, encoder: Encoder) -> None:
    expected = encoder.encode(TITLES)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_allclose(other.encode(TITLES), expected, atol=1e-6)


@pytest.mark.slow
def test_a_pool_of_processes_gives_the_same_vectors(model: SentenceTransformer, encoder: Encoder) -> None:
    np.testing.assert_allclose(model.encode(TITLES * 3, device=["cpu", "cpu"]), encoder.encode(TITLES * 3), atol=1e-6)


def test_utilities_and_evaluators_run(model: SentenceTransformer) -> None:
    titles = list(CORPUS.values())
    hits = util.semantic_search(model.encode(["nurse"]), model.encode(titles), top_k=2)[0]
    assert {titles[hit["corpus_id"]] for hit in hits} == {"enfermera", "Krankenschwester"}
    assert util.paraphrase_mining(model, titles)[0][0] > 0.5
    assert util.community_detection(model.encode(titles, convert_to_tensor=True), threshold=0.5, min_community_size=2)
    relevant = {"1": {"a", "d"}, "2": {"b"}}
    found = InformationRetrievalEvaluator(QUERIES, CORPUS, relevant, name="titles", map_at_k=[3])(model)
    assert found["titles_cosine_map@3"] > 0.9
    triplets = TripletEvaluator(["nurse", "Koch"], ["enfermera", "cocinero"], ["abogado", "abogado"], name="t")(model)
    assert triplets["t_cosine_accuracy"] == 1
    pairs = EmbeddingSimilarityEvaluator(["nurse", "nurse", "Koch"], ["enfermera", "abogado", "cocinero"], [1, 0, 1], name="p")
    assert pairs(model)["p_spearman_cosine"] > 0.5


NEWCOMER = ROOT / "tests" / "data" / "newcomer.py"


IMPORTS = {"encoder": "from jobonnx import Encoder", "load": "from jobonnx.sentence_transformers import load"}


def results(script: Path, model: Path, **options: Any) -> dict[str, Any]:
    """Run the newcomer's script on a model."""
    found: dict[str, Any] = runpy.run_path(str(script), {"MODEL": str(model), "OPTIONS": options})["results"]
    return found


def moved(way: str, folder: Path) -> Path:
    """Change the script's import, and nothing else."""
    line = "from sentence_transformers import SentenceTransformer"
    script = NEWCOMER.read_text("utf-8")
    assert script.count(line) == 1
    other = folder / "moved.py"
    other.write_text(script.replace(line, f"{IMPORTS[way]} as SentenceTransformer"), "utf-8")
    return other


def assert_alike(found: dict[str, Any], expected: dict[str, Any], bound: float, other_bytes: float) -> None:
    assert list(found) == list(expected)
    for name, theirs in expected.items():
        ours = found[name]
        if isinstance(theirs, str | int | list):
            assert ours == theirs, name
            continue
        ours, theirs = np.asarray(ours), np.asarray(theirs)
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype), name
        if ours.dtype.kind == "u":  # eight signs to a byte: a component near zero falls on either side
            assert (ours != theirs).mean() <= other_bytes, name
        else:
            np.testing.assert_allclose(ours, theirs, atol=bound, err_msg=name)


@pytest.mark.parametrize("way", IMPORTS)
def test_a_newcomers_script_changes_by_its_import_alone(way: str, tmp_path: Path) -> None:
    """On the small model: its checkpoint in sentence-transformers, and its int8 bundle here, whose parity has max_abs .013."""
    small = Bundle.open()
    bound = small.graphs[0].parity.max_abs
    assert bound is not None
    theirs = results(NEWCOMER, ROOT / "training" / "checkpoint")
    ours = results(moved(way, tmp_path), small.folder)
    assert_alike(ours, theirs, 2 * bound, other_bytes=0.2)


@pytest.mark.parametrize("way", IMPORTS)
def test_a_newcomers_script_gives_the_same_in_fp32(way: str, bundle: Path, checkpoint: Path, tmp_path: Path) -> None:
    theirs = results(NEWCOMER, checkpoint)
    assert_alike(results(moved(way, tmp_path), bundle, variant="fp32"), theirs, 1e-5, other_bytes=0.02)
