"""Encoders and retrieval sets for tests of evaluation, and sentence-transformers' evaluator to judge by."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jobonnx.arrays import Floats
from jobonnx.evaluation.formats import Dataset
from jobonnx.evaluation.lines import Counts
from jobonnx.evaluation.metrics import CUTOFFS, MAP_CUTOFFS

NAMES = [f"{m}@{k}" for m in ("accuracy", "precision", "recall", "ndcg", "mrr") for k in CUTOFFS]
NAMES += [f"map@{k}" for k in MAP_CUTOFFS]
"""The 37 metrics of a model card."""

OFFICIAL = ["precision@5", "precision@10", "map", "recip_rank", "ndcg"]
"""What stands behind them."""


class Trigrams:
    """A deterministic encoder: hashed character trigrams, unit length. Many different titles tie."""

    def encode(self, texts: Sequence[str], /) -> Floats:
        vectors = np.zeros((len(texts), 64), np.float32)
        for row, text in enumerate(texts):
            for i in range(len(text) + 1):
                gram = f" {text.lower()} "[i : i + 3]
                vectors[row, hashlib.md5(gram.encode()).digest()[0] % 64] += 1
        unit: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


class Lookup:
    """An encoder that knows the vector of each text."""

    def __init__(self, vectors: Mapping[str, Any]) -> None:
        self.vectors = vectors

    def encode(self, texts: Sequence[str], /) -> Floats:
        return np.array([self.vectors[text] for text in texts], np.float32)


class AsTorch:
    """What sentence-transformers' evaluator needs of a model, over an encoder of ours."""

    def __init__(self, encoder: Any, dtype: str = "float32") -> None:
        self.encoder, self.dtype = encoder, dtype

    def encode_query(self, texts: Sequence[str], **_: Any) -> Any:
        import torch

        return torch.from_numpy(self.encoder.encode(list(texts))).to(getattr(torch, self.dtype))

    encode_document = encode_query


def dataset(queries: dict[str, str], corpus: dict[str, str], qrels: dict[str, dict[str, int]]) -> Dataset:
    """Make a set called `set`."""
    return Dataset("set", queries, corpus, qrels, Counts())


def evaluator(queries: dict[str, str], corpus: dict[str, str], relevant: Mapping[str, set[str]]) -> Any:
    """Make sentence-transformers' evaluator with the model card's cutoffs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 5.7 moved it; 5.1 has it here
        from sentence_transformers.evaluation import InformationRetrievalEvaluator
    from sentence_transformers.util import cos_sim

    cutoffs = list(CUTOFFS)
    return InformationRetrievalEvaluator(
        queries,
        corpus,
        dict(relevant),
        mrr_at_k=cutoffs,
        ndcg_at_k=cutoffs,
        accuracy_at_k=cutoffs,
        precision_recall_at_k=cutoffs,
        map_at_k=list(MAP_CUTOFFS),
        score_functions={"cosine": cos_sim},
        write_csv=False,
    )


def flat(scores: Mapping[str, Mapping[int, float]], prefix: str = "") -> dict[str, float]:
    """Give the evaluator's metrics the names that ours have."""
    return {prefix + metric.replace("@k", f"@{k}"): value for metric, by_k in scores.items() for k, value in by_k.items()}


def with_duplicates(seed: int) -> tuple[dict[str, str], dict[str, str], dict[str, dict[str, int]], Lookup]:
    """Make a set in which most titles stand several times in the corpus, some queries are among them, and ids come unsorted."""
    rng = np.random.default_rng(seed)
    titles = [f"title {i}" for i in range(int(rng.integers(3, 260)))]
    texts = [titles[i] for i in rng.integers(0, len(titles), int(rng.integers(len(titles), 4 * len(titles))))]
    corpus = {f"d{i}": text for i, text in zip(rng.permutation(len(texts)).tolist(), texts, strict=True)}
    queries = {f"q{i}": (titles[i % len(titles)] if i % 2 else f"query {i}") for i in range(int(rng.integers(1, 25)))}
    ids = list(corpus)
    qrels = {q: {ids[i]: 1 for i in rng.permutation(len(ids))[: rng.integers(1, 60)].tolist()} for q in queries}
    vectors = {text: rng.normal(size=24).astype(np.float32) for text in {*titles, *queries.values()}}
    return queries, corpus, qrels, Lookup(vectors)
