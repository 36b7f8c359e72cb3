"""How far vectors are from the PyTorch reference, and how far each variant may be."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Parity:
    """Agreement of vectors with reference vectors of the same texts.

    The centred cosines are taken after subtracting the reference's mean vector from both: embeddings crowd into a cone, where plain
    cosine hides ruin.
    """

    texts: int
    min_cosine: float
    mean_cosine: float
    min_centred: float
    mean_centred: float
    max_abs: float  # largest difference of any component
    top10_overlap: float  # mean share of each text's ten nearest texts that stay among its ten nearest

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON, which has no NaN: None stands for it."""
        return {name: value if np.isfinite(value) else None for name, value in asdict(self).items()}


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
    plain = _cosines(reference, vectors)
    mean = reference.mean(axis=0, dtype=np.float64)
    centred = _cosines(reference - mean, vectors - mean)
    return Parity(
        texts=len(reference),
        min_cosine=float(plain.min()),
        mean_cosine=float(plain.mean()),
        min_centred=float(centred.min()),
        mean_centred=float(centred.mean()),
        max_abs=float(np.abs(reference - vectors).max()),
        top10_overlap=_overlap(reference, vectors, 10),
    )


def shortfalls(variant: str, parity: Parity) -> list[str]:
    """What of a variant's tolerances was missed, a phrase each; empty if it passes. NaN never passes, nor a variant without any."""
    if variant not in TOLERANCES:
        return [f"no tolerance is known for variant {variant!r}"]
    missed = []
    for field, bound in TOLERANCES[variant].items():
        value = getattr(parity, field)
        passed = value is not None and (value <= bound if field == "max_abs" else value >= bound)
        if not passed:
            missed.append(
                f"{field} {float('nan') if value is None else value:.6g} (asked: {'<=' if field == 'max_abs' else '>='} {bound:g})"
            )
    return missed


def _cosines(a: Any, b: Any) -> Any:
    """Cosine of each pair of rows, float64 [rows]. Two zero rows agree; one zero row agrees with nothing."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    same = (a == b).all(axis=1)
    return np.where(same, 1.0, np.einsum("ij,ij->i", a, b) / np.where(lengths == 0, 1.0, lengths))


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
