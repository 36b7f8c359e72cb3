"""Measuring graphs against reference vectors, at export and again on any machine; without torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jobonnx.bundle.manifest import REFERENCE_TEXTS, REFERENCE_VECTORS, TOKENIZER, Bundle, Model
from jobonnx.errors import JobonnxError
from jobonnx.parity.measure import Floats, Parity, measure, shortfalls
from jobonnx.runtime.session import PROVIDERS, Session, open_session, why_not
from jobonnx.text.batching import pad
from jobonnx.text.tokenizer import Tokenizer

_BATCH = 16  # rows; of mixed lengths, so that padding is part of what is measured


@dataclass(frozen=True)
class Verification:
    """What one graph measured on this machine."""

    variant: str
    target: str
    provider: str
    parity: Parity
    missed: tuple[str, ...]  # what of the tolerance was missed


def verify(bundle: Bundle) -> list[Verification]:
    """Measure every graph of a bundle against the reference vectors it carries.

    A graph for a provider that is not here is measured on the CPU provider: fp16 slowly, bf16 without its rounding.
    """
    try:
        texts = json.loads((bundle.folder / REFERENCE_TEXTS).read_text(encoding="utf-8"))
        reference = np.load(bundle.folder / REFERENCE_VECTORS, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise JobonnxError(f"{bundle.folder}: its reference vectors cannot be read ({error}); export the bundle again") from None
    m = bundle.model
    rows = Tokenizer(bundle.folder / TOKENIZER, m.max_tokens).encode(texts)
    results = []
    for graph in bundle.graphs:
        there = (name for name, p in PROVIDERS.items() if p.target == graph.target and why_not(name, graph.variant) is None)
        provider = next(there, "cpu")
        path = bundle.folder / graph.path
        parity = measure(reference, run_graph(path, rows, m, provider))
        results.append(Verification(graph.variant, graph.target, provider, parity, tuple(shortfalls(graph.variant, parity))))
    return results


def run_graph(path: Path, rows: Sequence[Sequence[int]], model: Model, provider: str = "cpu") -> Floats:
    """Token ids through a graph in shuffled batches of mixed lengths: vectors, float32 [rows, dimension], in order."""
    session = open_session(path, provider, model=model)
    order = np.random.default_rng(0).permutation(len(rows))
    vectors = np.empty((len(rows), model.dimension), dtype=np.float32)
    for start in range(0, len(rows), _BATCH):
        batch = order[start : start + _BATCH]
        vectors[batch] = _run(session, [rows[i] for i in batch], model)
    return vectors


def _run(session: Session, rows: Sequence[Sequence[int]], model: Model) -> Any:
    ids, mask = pad(rows, model.pad_id)
    output = session.run(ids, mask)
    if output.ndim == 2:
        return output
    # The portable graph gives hidden states [batch, sequence, dimension]: pool as sentence-transformers does.
    weights = mask[:, :, None].astype(np.float32)
    vectors = output[:, 0] if model.pooling == "cls" else (output * weights).sum(axis=1) / weights.sum(axis=1)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12) if model.normalize else vectors
