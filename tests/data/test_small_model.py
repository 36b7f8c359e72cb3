"""The small trained model: every variant of it is exact enough, and ranks as well as its fp32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helpers.checkpoints import AVATURE, SHARED, SMALL, needs, needs_avature
from jobonnx import Bundle, Encoder
from jobonnx.bundle.manifest import TOKENIZER
from jobonnx.data.titles import read_titles
from jobonnx.evaluation.evaluate import compare, evaluate
from jobonnx.evaluation.formats import read_folder
from jobonnx.evaluation.tfidf import Tfidf
from jobonnx.runtime.engine import Engine
from jobonnx.runtime.tuning_cache import default_settings
from jobonnx.text.tokenizer import Tokenizer
from jobonnx_train.readers import LANGUAGES, MORE_LANGUAGES
from jobonnx_train.recipe import small_recipe
from jobonnx_train.runs import Sources
from jobonnx_train.tasks import Retrieval, validation_sets
from jobonnx_train.validation import score

pytestmark = pytest.mark.medium

ESCO, MORE, ONET, CSCO = (SHARED / name for name in ("esco_v1.2.0", "esco_multilingual", "onet_27.0", "csco2022/csco22.csv"))
MEGABYTE = 1 << 20
needs_titles = needs("the titles of ESCO, O*NET and CSCO", ESCO, MORE, ONET, CSCO)


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
    assert (SMALL / "model.safetensors").stat().st_size <= 24 * MEGABYTE
    assert sum(entry.size for entry in Bundle.open().files.values()) <= 15 * MEGABYTE


@pytest.mark.slow
def test_synonyms_come_first() -> None:
    encoder = Encoder(provider="cpu")
    titles = [title for title in read_titles() if title != "Volksvertreter"]
    scores = encoder.similarity(encoder.encode("Volksvertreter"), encoder.encode(titles))[0]
    best = [titles[i] for i in scores.argsort()[::-1][:10]]
    assert {"Abgeordneter", "Parlamentarier"} <= set(best)


def test_capitals_and_full_width_forms_change_nothing() -> None:
    encoder = Encoder(provider="cpu")
    titles = [
        "Data Engineer",
        "infirmière de bloc opératoire",
        "Großhandelskaufmann",
        "žurnalist",
        "ředitel školy",
        "медицинска сестра",
    ]
    vectors = encoder.encode(titles)
    np.testing.assert_array_equal(encoder.encode([title.upper() for title in titles]), vectors)
    np.testing.assert_array_equal(encoder.encode([title.lower() for title in titles]), vectors)
    np.testing.assert_array_equal(encoder.encode("ＤＡＴＡ ｅｎｇｉｎｅｅｒ"), vectors[0])


@pytest.fixture(scope="module")
def tasks() -> dict[str, Retrieval]:
    """What the training held out, language by language."""
    recipe = small_recipe()
    found = validation_sets(Sources(ESCO, ONET, CSCO, MORE).corpus(recipe.held_out), recipe.arguments["seed"])
    assert all(len(found[f"mix_{language}"].queries) >= 100 for language in LANGUAGES if language != "en")
    assert all(len(task.corpus) >= 1000 for name, task in found.items() if name[-2:] in LANGUAGES)
    return found


@pytest.mark.slow
@needs_titles
def test_occupations_it_never_saw_are_found_in_another_language(tasks: dict[str, Retrieval]) -> None:
    encoder = Encoder(provider="cpu")
    for language, least in {"de": 0.67, "es": 0.69, "zh": 0.68, "fr": 0.6, "pl": 0.6, "hu": 0.55}.items():
        assert score(encoder, f"mix_{language}", tasks[f"mix_{language}"]) >= least, language


@pytest.mark.slow
@needs_titles
@pytest.mark.parametrize("language", LANGUAGES)
def test_it_beats_the_baseline_within_its_languages(language: str, tasks: dict[str, Retrieval]) -> None:
    name = f"full_{language}"
    assert score(Encoder(provider="cpu"), name, tasks[name]) >= score(Tfidf(tasks[name].corpus.values()), name, tasks[name])


@pytest.mark.slow
@needs_titles
def test_the_new_languages_meet_english(tasks: dict[str, Retrieval]) -> None:
    encoder = Encoder(provider="cpu")
    recalls = [score(encoder, f"mix_{language}", tasks[f"mix_{language}"]) for language in MORE_LANGUAGES]
    assert min(recalls) >= 0.55
    assert sum(recalls) / len(recalls) >= 0.65


@pytest.mark.slow
@needs_avature
@pytest.mark.parametrize(
    ("language", "least"),
    [("en", 1.1), ("es", 1.0), ("de", 1.0), ("zh", 1.0), ("fr", 1.0), ("it", 1.0), ("nl", 1.0), ("pl", 1.0), ("pt", 1.0)],
)
def test_ranking_beats_the_baseline_and_int8_loses_nothing(exported: Path, language: str, least: float) -> None:
    dataset = read_folder(AVATURE / language)
    fp32, *quantised = (evaluate(Encoder(exported, variant=v, provider="cpu"), dataset) for v in ("fp32", "int8", "int8-static"))
    baseline = evaluate(Tfidf(dataset.corpus.values()), dataset)
    assert fp32.means["cosine_map@200"] >= least * baseline.means["cosine_map@200"]
    assert all(compare(int8, fp32)["cosine_ndcg@20"].mean >= -0.005 for int8 in quantised)
