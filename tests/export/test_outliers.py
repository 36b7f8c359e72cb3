"""A small model with outlier channels as large models have them: int8 ranks as fp32 does, and owes it to smoothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.calibrated import Calibrated, calibrated_of
from helpers.checkpoints import AVATURE, OUTLIERS, needs_avature
from jobonnx.evaluation.evaluate import Evaluation, compare, evaluate
from jobonnx.evaluation.formats import read_folder
from jobonnx.runtime.providers import PROVIDERS
from jobonnx.runtime.session import Settings
from jobonnx.text.batching import batch_by_length, pad
from jobonnx_export.graph.builder import write_float_graph, write_int8_graph
from jobonnx_export.quantize import ALPHA, make_recipe

pytestmark = pytest.mark.slow  # graphs of four precisions, four languages

LANGUAGES = ("en", "es", "de", "zh")
MOST_LOST = -0.005  # nDCG@20; the small model's own gate
PRECISIONS = (("int8", ALPHA, False), ("int8-static", ALPHA, True), ("int8 without smoothing", None, False))


class Graph:
    """Titles to vectors through one graph file."""

    def __init__(self, path: Path, source: Calibrated) -> None:
        self._session = PROVIDERS["cpu"].open_session(path, None, Settings("cpu", 2))
        self._source = source

    def encode(self, texts: Sequence[str]) -> Any:
        rows = self._source.tokenizer.encode(texts)
        vectors = np.empty((len(rows), self._source.checkpoint.architecture.hidden), np.float32)
        for batch in batch_by_length([len(row) for row in rows], 2048):
            vectors[batch] = self._session.run(*pad([rows[i] for i in batch], self._source.checkpoint.architecture.pad_id))
        return vectors


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Evaluation]]:
    """Language -> precision -> how it ranks."""
    folder = tmp_path_factory.mktemp("outliers")
    source = calibrated_of(OUTLIERS)
    write_float_graph(source.checkpoint, folder / "fp32.onnx")
    for name, alpha, static in PRECISIONS:
        recipe = make_recipe(source.checkpoint, source.statistics, alpha, static=static)
        write_int8_graph(source.checkpoint, folder / f"{name}.onnx", recipe)
    graphs = {path.stem: Graph(path, source) for path in folder.glob("*.onnx")}
    datasets = {language: read_folder(AVATURE / language) for language in LANGUAGES}
    return {language: {name: evaluate(graph, d) for name, graph in graphs.items()} for language, d in datasets.items()}


def lost(evaluations: dict[str, dict[str, Evaluation]], name: str) -> dict[str, float]:
    return {language: compare(e[name], e["fp32"])["cosine_ndcg@20"].mean for language, e in evaluations.items()}


@needs_avature
@pytest.mark.parametrize("variant", ["int8", "int8-static"])
def test_int8_passes_the_ranking_gate(variant: str, evaluations: dict[str, dict[str, Evaluation]]) -> None:
    found = lost(evaluations, variant)
    assert min(found.values()) >= MOST_LOST, found


@needs_avature
def test_int8_without_smoothing_fails_it(evaluations: dict[str, dict[str, Evaluation]]) -> None:
    found = lost(evaluations, "int8 without smoothing")
    assert min(found.values()) < MOST_LOST, found
