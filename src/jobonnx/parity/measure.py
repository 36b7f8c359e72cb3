"""How far vectors are from the PyTorch reference, and how far each variant may be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from jobonnx.arrays import Doubles, Floats
from jobonnx.bundle.manifest import REFERENCE_TEXTS, REFERENCE_VECTORS, Parity
from jobonnx.errors import JobonnxError, reason
from jobonnx.strict_json import read_json

# variant -> field -> bound: a lower bound for cosines, an upper bound for max_abs.
TOLERANCES: dict[str, dict[str, float]] = {
    "fp32": {"max_abs": 1e-5, "min_cosine": 0.999999},
    "bf16": {"min_cosine": 0.999, "mean_centred": 0.99},
    "fp16": {"min_cosine": 0.9999, "mean_centred": 0.999},
    "int8": {"min_cosine": 0.99, "mean_centred": 0.97},
    "int8-static": {"min_cosine": 0.99, "mean_centred": 0.97},
}


def measure(reference: Floats, vectors: Floats) -> Parity:
    """Compare two float32 [texts, dimension] matrices, row by row."""
    if reference.shape != vectors.shape or reference.ndim != 2 or len(reference) == 0:
        raise ValueError(f"reference {reference.shape} and vectors {vectors.shape} have to be the same non-empty matrix shape")
    with np.errstate(invalid="ignore", over="ignore"):
        plain = _cosines(reference, vectors)
        mean = reference.mean(axis=0, dtype=np.float64)
        centred = _cosines(reference - mean, vectors - mean)
        return Parity(
            texts=len(reference),
            min_cosine=_finite(plain.min()),
            mean_cosine=_finite(plain.mean()),
            min_centred=_finite(centred.min()),
            mean_centred=_finite(centred.mean()),
            max_abs=_finite(np.abs(reference - vectors).max()),
            top10_overlap=_finite(_overlap(reference, vectors, 10)),
        )


def tolerance_violations(variant: str, parity: Parity) -> list[str]:
    """List what of a variant's tolerances was missed, one phrase each; empty if it passes.

    A figure that is not finite never passes, nor does a variant without tolerances.
    """
    if variant not in TOLERANCES:
        return [f"no tolerance is known for variant {variant!r}"]
    missed = []
    for field, bound in TOLERANCES[variant].items():
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


def _overlap(reference: Floats, vectors: Floats, k: int) -> float:
    k = min(k, len(reference) - 1)
    if k < 1:
        return 1.0
    ranked = []
    for matrix in (reference, vectors):
        scores = matrix @ matrix.T
        np.fill_diagonal(scores, -np.inf)
        ranked.append(np.argsort(-scores, axis=1, kind="stable")[:, :k])
    return float(np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(*ranked, strict=True)]))
