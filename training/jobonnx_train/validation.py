"""Validation during training: jobonnx's own metrics on occupations the training never saw."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.evaluation import SentenceEvaluator

from jobonnx.evaluation.formats import Counts, Dataset
from jobonnx.evaluation.metrics import TitleEncoder, evaluate, rank, ranking_metrics
from jobonnx_train.data import Retrieval


def score(encoder: TitleEncoder, name: str, task: Retrieval) -> float:
    """MAP@200 within a language; recall@10 across languages (names mix_xx)."""
    if not name.startswith("mix"):
        qrels = {query: dict.fromkeys(found, 1) for query, found in task.relevant.items()}
        return evaluate(encoder, Dataset(name, task.queries, task.corpus, qrels, Counts())).means["cosine_map@200"]
    ranked = list(rank(encoder, task.queries, task.corpus, 10))
    hits = np.array([[document in task.relevant[row.query_id] for document in row.document_ids] for row in ranked])
    sizes = np.array([len(task.relevant[row.query_id]) for row in ranked])
    return float(ranking_metrics(hits, sizes, cutoffs=(10,), map_cutoffs=(10,))["recall@10"].mean())


class Remembering:
    """An encoder that encodes each distinct title once: the tasks share most of their titles."""

    def __init__(self, model: SentenceTransformer) -> None:
        self.model = model
        self.vectors: dict[str, np.ndarray[Any, np.dtype[np.float32]]] = {}

    def encode(self, texts: list[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Unit vectors, float32 (texts, dimensions)."""
        missing = [text for text in dict.fromkeys(texts) if text not in self.vectors]
        if missing:
            vectors = self.model.encode(missing, batch_size=256, show_progress_bar=False)
            self.vectors |= zip(missing, vectors.astype(np.float32), strict=True)
        return np.stack([self.vectors[text] for text in texts])


class Validation(SentenceEvaluator):
    """Scores the model on every task and appends a row to the log table, a file of JSON lines."""

    def __init__(self, tasks: Mapping[str, Retrieval], log: Path) -> None:
        super().__init__()
        self.tasks, self.log, self.started = tasks, log, time.monotonic()

    def __call__(self, model: Any, output_path: str | None = None, epoch: float = -1, steps: int = -1, *_: Any) -> dict[str, float]:
        """Task name -> score."""
        encoder = Remembering(model)
        scores = {name: score(encoder, name, task) for name, task in self.tasks.items() if task.queries}
        minutes = round((time.monotonic() - self.started) / 60, 1)
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"epoch": epoch, "step": steps, "minutes": minutes, **scores}) + "\n")
        print(f"step {steps}, {minutes} min:", *(f"{name} {value:.3f}" for name, value in scores.items()), flush=True)
        return scores
