"""How far vectors are from the PyTorch reference, and how far each variant may be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from jobonnx.arrays import Doubles, Floats, Ints
from jobonnx.bundle.manifest import REFERENCE_TEXTS, REFERENCE_VECTORS, Parity
from jobonnx.errors import JobonnxError, reason
from jobonnx.strict_json import read_json

# One scale for every variant, field -> lower bound; docs/decisions/0020-one-scale-of-trust.md says where the bounds come from.
_TRUST = {"mean_centred": 0.99, "p5_centred": 0.98, "top10_overlap": 0.9, "ndcg20": 0.97}
_RANKING = ("top10_overlap", "ndcg20")
RANKED_TEXTS = 2000  # ranking is judged among at least so many texts; fewer make every neighbour easy to keep
# variant -> field -> bound: an upper bound for max_abs, a lower bound for all else. Formats that promise more are held to it too.
TOLERANCES: dict[str, dict[str, float]] = {
    "fp32": _TRUST | {"max_abs": 1e-5},
    "bf16": _TRUST,
    "fp16": _TRUST | {"mean_centred": 0.999},
    "int8": _TRUST,
    "int8-static": _TRUST,
}


def measure(reference: Floats, vectors: Floats) -> Parity:
    """Compare two float32 [texts, dimension] matrices, row by row."""
    if reference.shape != vectors.shape or reference.ndim != 2 or len(reference) == 0:
        raise ValueError(f"reference {reference.shape} and vectors {vectors.shape} have to be the same non-empty matrix shape")
    with np.errstate(invalid="ignore", over="ignore"):
        plain = _cosines(reference, vectors)
        mean = reference.mean(axis=0, dtype=np.float64)
        centred = _cosines(reference - mean, vectors - mean)
        nearest, found = _nearest(reference, 20), _nearest(vectors, 20)
        return Parity(
            texts=len(reference),
            min_cosine=_finite(plain.min()),
            mean_cosine=_finite(plain.mean()),
            min_centred=_finite(centred.min()),
            mean_centred=_finite(centred.mean()),
            max_abs=_finite(np.abs(reference - vectors).max()),
            top10_overlap=_finite(_overlap(nearest[:, :10], found[:, :10])),
            p5_centred=_finite(np.percentile(centred, 5)),
            ndcg20=_finite(_ndcg(nearest, found)),
        )


def tolerance_violations(variant: str, parity: Parity) -> list[str]:
    """List what of a variant's tolerances was missed, one phrase each; empty if it passes.

    Ranking is judged among at least `RANKED_TEXTS` texts. A figure that is not finite never passes, nor does a variant without
    tolerances.
    """
    if variant not in TOLERANCES:
        return [f"no tolerance is known for variant {variant!r}"]
    missed = []
    for field, bound in TOLERANCES[variant].items():
        if field in _RANKING and parity.texts < RANKED_TEXTS:
            continue
        value: float | None = getattr(parity, field)
        passed = value is not None and (value <= bound if field == "max_abs" else value >= bound)
        if not passed:
            shown = "NaN" if value is None else f"{value:.6g}"
            missed.append(f"{field} {shown} (asked: {'<=' if field == 'max_abs' else '>='} {bound:g})")
    return missed


def read_reference(folder: Path, dimension: int) -> tuple[list[str], Floats]:
    """Read a bundle's reference texts and their vectors from PyTorch, float32 [texts, dimension].

    Raises:
        JobonnxError: they cannot be read, or do not belong together.
    """
    fix = "export the bundle again"
    texts = read_json(folder / REFERENCE_TEXTS, list[str], fix)
    path = folder / REFERENCE_VECTORS
    try:
        vectors = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise JobonnxError(f"{path} cannot be read ({reason(error)}); {fix}") from None
    if not isinstance(vectors, np.ndarray) or vectors.dtype != np.float32 or vectors.shape != (len(texts), dimension) or not texts:
        raise JobonnxError(f"{path} does not hold float32 vectors of {dimension} dimensions for {len(texts)} texts; {fix}")
    return texts, vectors


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _cosines(a: Any, b: Any) -> Doubles:
    """Cosine of each pair of rows, float64 [rows]. Two zero rows agree; one zero row agrees with nothing."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    same = (a == b).all(axis=1)
    cosines: Doubles = np.where(same, 1.0, np.einsum("ij,ij->i", a, b) / np.where(lengths == 0, 1.0, lengths))
    return cosines


def _nearest(vectors: Floats, k: int) -> Ints:
    """Return the k nearest other rows of each row by inner product, nearest first; all others where there are fewer."""
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    nearest: Ints = np.argsort(-scores, axis=1, kind="stable")[:, : min(k, len(vectors) - 1)]
    return nearest


def _overlap(nearest: Ints, found: Ints) -> float:
    """Return the mean share of the nearest rows that were found; 1 where there are none."""
    if nearest.shape[1] == 0:
        return 1.0
    return float((nearest[:, :, None] == found[:, None, :]).any(axis=2).mean())


def _ndcg(nearest: Ints, found: Ints) -> float:
    """Return the mean nDCG of rankings [rows, k]: `nearest` is the ideal one, whose places are worth k, k - 1, ... 1."""
    k = nearest.shape[1]
    if k == 0:
        return 1.0
    worth, discounts = np.arange(k, 0, -1.0), 1 / np.log2(np.arange(2, k + 2))
    gains = ((nearest[:, :, None] == found[:, None, :]) * worth[:, None]).sum(axis=1)
    return float((gains @ discounts).mean() / (worth @ discounts))
