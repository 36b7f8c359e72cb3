"""Validation during training: jobonnx's own metrics on occupations that training never saw."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sentence_transformers.evaluation import SentenceEvaluator

from jobonnx.arrays import Floats
from jobonnx.evaluation.metrics import ranking_metrics
from jobonnx.evaluation.ranking import TitleEncoder, rank
from jobonnx_train.tasks import Retrieval

log = logging.getLogger(__name__)


def score(encoder: TitleEncoder, name: str, task: Retrieval) -> float:
    """Score an encoder on a task: recall@10 across languages (names mix_xx), MAP@200 within one."""
    metric, depth = ("recall@10", 10) if name.startswith("mix") else ("map@200", 200)
    rankings = list(rank(encoder, task.queries, task.corpus, depth))
    hits = np.array([[document in task.relevant[row.query_id] for document in row.document_ids] for row in rankings])
    sizes = np.array([len(task.relevant[row.query_id]) for row in rankings])
    return float(ranking_metrics(hits, sizes, cutoffs=(depth,), map_cutoffs=(depth,))[metric].mean())


class CachingEncoder:
    """An encoder that encodes each distinct title once: the tasks share most of their titles."""

    def __init__(self, encoder: TitleEncoder) -> None:
        self.encoder = encoder
        self.vectors: dict[str, Floats] = {}

    def encode(self, texts: list[str], /) -> Floats:
        """Encode texts: the encoder's vectors, float32 [texts, dimensions]."""
        missing = [text for text in dict.fromkeys(texts) if text not in self.vectors]
        if missing:
            vectors = self.encoder.encode(missing)
            self.vectors |= zip(missing, vectors.astype(np.float32), strict=True)
        return np.stack([self.vectors[text] for text in texts])


class Quiet:
    """A sentence-transformers model that shows no bar, takes large batches and puts a prompt before every title."""

    def __init__(self, model: Any, prompt: str | None = None) -> None:
        self.model, self.prompt = model, prompt

    def encode(self, texts: list[str], /) -> Floats:
        """Encode texts: float32 [texts, dimensions]."""
        vectors: Floats = self.model.encode(texts, prompt=self.prompt, batch_size=256, show_progress_bar=False)
        return vectors


class Validation(SentenceEvaluator):  # type: ignore[misc] # sentence-transformers is untyped here
    """Scores the model on every task and appends a row to the table of scores.

    Args:
        tasks: name -> task.
        table: a file of JSON lines.
    """

    def __init__(self, tasks: Mapping[str, Retrieval], table: Path) -> None:
        super().__init__()
        self.tasks, self.table, self.started = tasks, table, time.monotonic()

    def __call__(self, model: Any, output_path: str | None = None, epoch: float = -1, steps: int = -1, *_: Any) -> dict[str, float]:
        """Score the model: task name -> score."""
        encoder = CachingEncoder(Quiet(model))
        scores = {name: score(encoder, name, task) for name, task in self.tasks.items() if task.queries}
        minutes = round((time.monotonic() - self.started) / 60, 1)
        with self.table.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"epoch": epoch, "step": steps, "minutes": minutes, **scores}) + "\n")
        log.info("step %d, %.1f min: %s", steps, minutes, " ".join(f"{name} {value:.3f}" for name, value in scores.items()))
        return scores
