"""The small trained model: every variant of it is exact enough, and ranks as well as its fp32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helpers.checkpoints import AVATURE, SHARED, SMALL, needs, needs_avature
from jobonnx import Bundle, Encoder
from jobonnx.bundle.manifest import TOKENIZER
from jobonnx.data.titles import read_lexicon, read_titles
from jobonnx.evaluation.evaluate import compare, evaluate
from jobonnx.evaluation.formats import read_folder
from jobonnx.evaluation.tfidf import Tfidf
from jobonnx.runtime.engine import Engine
from jobonnx.runtime.tuning_cache import default_settings
from jobonnx.text.tokenizer import Tokenizer
from jobonnx_train.readers import lexicon_groups, read_csco, read_esco, read_onet
from jobonnx_train.recipe import small_recipe
from jobonnx_train.split import hold_out
from jobonnx_train.tasks import validation_sets
from jobonnx_train.validation import score

pytestmark = pytest.mark.medium

ESCO, ONET, CSCO = SHARED / "esco_v1.2.0", SHARED / "onet_27.0", SHARED / "csco2022" / "csco22.csv"
MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from jobonnx_export.pipeline import export

    folder = tmp_path_factory.mktemp("small") / "bundle"
    export(str(SMALL), folder)
    return folder


@pytest.mark.slow
def test_every_variant_passes_its_tolerance(exported: Path) -> None:
    bundle = Bundle.open(exported)
    assert bundle.variants == ("fp32", "bf16", "fp16", "int8", "int8-static")
    assert not bundle.rejected
    assert bundle.default_variant == "int8"
    assert "float=none" in bundle.recipe("int8")


@pytest.mark.slow
def test_the_bundle_in_the_package_was_made_from_the_checkpoint(exported: Path) -> None:
    """An exporter that changed int8 without `training/bundle.sh` shows here."""
    assert Bundle.open().fingerprint("int8") == Bundle.open(exported).fingerprint("int8")
    titles = ["Volksvertreter", "nurse", "厨师", "jefe de cocina", "Koch"]
    here, there = Encoder(provider="cpu").encode(titles), Encoder(exported, provider="cpu").encode(titles)
    assert abs((here * there).sum(axis=1) - 1).max() < 1e-3


@pytest.mark.slow
def test_no_graphs_vectors_depend_on_batch_mates(exported: Path) -> None:
    bundle = Bundle.open(exported)
    titles = read_titles()[::131]
    rows = Tokenizer(exported / TOKENIZER, bundle.model.max_tokens).encode(titles)
    assert len(rows) > 200
    for graph in (g for g in bundle.graphs if g.target != "portable"):
        with Engine(exported / graph.path, bundle.model, default_settings("cpu", 2)) as engine:
            alone = np.concatenate([engine.run([row]) for row in rows])
            mixed = np.concatenate([engine.run(rows[i : i + 64]) for i in range(0, len(rows), 64)])
        assert (alone * mixed).sum(axis=1).min() >= 0.99999, graph.path


def test_weights_are_small_enough_to_commit() -> None:
    assert (SMALL / "model.safetensors").stat().st_size <= 16 * MEGABYTE
    assert sum(entry.size for entry in Bundle.open().files.values()) <= 15 * MEGABYTE


def test_synonyms_come_first() -> None:
    encoder = Encoder(provider="cpu")
    titles = [title for title in read_titles() if title != "Volksvertreter"]
    scores = encoder.similarity(encoder.encode("Volksvertreter"), encoder.encode(titles))[0]
    best = [titles[i] for i in scores.argsort()[::-1][:10]]
    assert {"Abgeordneter", "Parlamentarier"} <= set(best)


@needs("the titles of ESCO, O*NET and CSCO", ESCO, ONET, CSCO)
def test_occupations_it_never_saw_are_found_in_another_language() -> None:
    groups = [*read_esco(ESCO), *read_onet(ONET), *read_csco(CSCO), *lexicon_groups(read_lexicon())]
    recipe = small_recipe()
    tasks = validation_sets(hold_out(groups, recipe.held_out), recipe.arguments["seed"])
    encoder = Encoder(provider="cpu")
    for name, least in (("mix_de", 0.4), ("mix_es", 0.4), ("mix_zh", 0.25)):
        assert len(tasks[name].queries) >= 100, name
        assert len(tasks[name].corpus) >= 1000, name
        assert score(encoder, name, tasks[name]) >= least, name


@pytest.mark.slow
@needs_avature
@pytest.mark.parametrize(("language", "least"), [("en", 1.1), ("es", 1.0), ("de", 0.8), ("zh", 0.8)])
def test_ranking_beats_the_baseline_and_int8_loses_nothing(exported: Path, language: str, least: float) -> None:
    dataset = read_folder(AVATURE / language)
    fp32, *quantised = (evaluate(Encoder(exported, variant=v, provider="cpu"), dataset) for v in ("fp32", "int8", "int8-static"))
    baseline = evaluate(Tfidf(dataset.corpus.values()), dataset)
    assert fp32.means["cosine_map@200"] >= least * baseline.means["cosine_map@200"]
    assert all(compare(int8, fp32)["cosine_ndcg@20"].mean >= -0.005 for int8 in quantised)
