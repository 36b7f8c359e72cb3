"""Measuring graphs against reference vectors, at export and again on any machine; without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jobonnx.arrays import Floats, unit
from jobonnx.bundle.manifest import TOKENIZER, Bundle, Model, Parity
from jobonnx.parity.measure import measure, read_reference, tolerance_violations
from jobonnx.runtime.engine import Engine
from jobonnx.runtime.machine import available_threads
from jobonnx.runtime.providers import EVERYWHERE, providers_for
from jobonnx.runtime.tuning_cache import default_settings
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
    model = bundle.model
    texts, reference = read_reference(bundle.folder, model.dimension)
    rows = Tokenizer(bundle.folder / TOKENIZER, model.max_tokens).encode(texts)
    results = []
    for graph in bundle.graphs:
        here = (p.name for p in providers_for(graph.target) if p.unavailable_reason(graph.variant) is None)
        provider = next(here, EVERYWHERE)
        parity = measure(reference, run_graph(bundle.folder / graph.path, rows, model, provider, graph.variant))
        missed = tuple(tolerance_violations(graph.variant, parity))
        results.append(Verification(graph.variant, graph.target, provider, parity, missed))
    return results


def run_graph(path: Path, rows: Sequence[Sequence[int]], model: Model, provider: str = EVERYWHERE, variant: str = "") -> Floats:
    """Token ids through a graph in shuffled batches of mixed lengths: vectors, float32 [rows, dimension], in order."""
    order = np.random.default_rng(0).permutation(len(rows))
    vectors = np.empty((len(rows), model.dimension), dtype=np.float32)
    with Engine(path, model, default_settings(provider, available_threads()), variant) as engine:
        for start in range(0, len(rows), _BATCH):
            batch = order[start : start + _BATCH]
            chosen = [rows[i] for i in batch]
            vectors[batch] = pooled(engine.run(chosen), [len(row) for row in chosen], model)
    return vectors


def pooled(output: Floats, lengths: Sequence[int], model: Model) -> Floats:
    """Return the vectors of a graph's output, float32 [batch, dimension].

    An engine graph gives them. The portable graph gives hidden states [batch, sequence, dimension], which are pooled and normalised
    here, as sentence-transformers does.
    """
    if output.ndim == 2:
        return output
    weights = (np.arange(output.shape[1]) < np.array(lengths)[:, None])[:, :, None].astype(np.float32)
    vectors: Floats = output[:, 0] if model.pooling == "cls" else (output * weights).sum(axis=1) / weights.sum(axis=1)
    return unit(vectors) if model.normalize else vectors
