"""The int8 recipe: S8 weights with one scale a column, U8 activations with one scale a row, channels smoothed beforehand.

Smoothing (SmoothQuant, Xiao et al. 2022, arXiv:2211.10438, equation 4): input channel j of a linear layer is divided by
s_j = max|x_j|^alpha / max|w_j|^(1 - alpha) and its weights are multiplied by it, which changes nothing but how evenly both fill
their eight bits. Here s_j is rounded to a power of two: the division is then exact, and the recipe does not hang on the last
digits of a calibration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jobonnx_export.checkpoint import Architecture, Checkpoint
from jobonnx_export.graph import Int8Linear
from jobonnx_export.reference import Reference

ALPHA = 0.5  # SmoothQuant's own choice; .3 and .85 measured within .002 of it, see docs/decisions.md
_SAMPLE_ROWS = 512  # activation rows a layer's error is measured on
# Linear layers of one encoder layer, grouped by what they read.
_SAME_INPUT = (
    ("attention.self.query", "attention.self.key", "attention.self.value"),
    ("attention.output.dense",),
    ("intermediate.dense",),
    ("output.dense",),
)
Floats = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class LinearStatistics:
    """What calibration saw of one linear layer's input."""

    largest: Floats  # max|x_j| of each channel, [in]
    sample: Floats  # some of its rows, [rows, in]


@dataclass(frozen=True)
class Int8Recipe:
    """All a graph needs to run in int8."""

    linears: dict[str, Int8Linear]
    scaled_values: dict[int, Floats]  # layer -> factors that its attention values are divided by
    errors: dict[str, float]  # each linear layer's relative output error in int8, on the calibration titles

    def without(self, names: Sequence[str]) -> Int8Recipe:
        """The same recipe with some layers left in float."""
        kept = {name: linear for name, linear in self.linears.items() if name not in names}
        values = {i: f for i, f in self.scaled_values.items() if f"encoder.layer.{i}.attention.output.dense" in kept}
        return Int8Recipe(kept, values, self.errors)


def linear_names(a: Architecture) -> list[str]:
    """Every linear layer of the encoder, by module name."""
    return [f"encoder.layer.{i}.{part}" for i in range(a.layers) for group in _SAME_INPUT for part in group]


def calibrate(reference: Reference, rows: Sequence[Sequence[int]], names: Sequence[str]) -> dict[str, LinearStatistics]:
    """Run token ids through the reference and look at every linear layer's input."""
    largest: dict[str, Floats] = {}
    sample: dict[str, list[Floats]] = {name: [] for name in names}

    def hook(name: str) -> Any:
        def look(module: Any, inputs: tuple[Any, ...], output: Any) -> None:
            x = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).numpy()
            seen = np.abs(x).max(axis=0)
            largest[name] = np.maximum(largest[name], seen) if name in largest else seen
            taken = sum(map(len, sample[name]))
            if taken < _SAMPLE_ROWS:
                sample[name].append(x[: _SAMPLE_ROWS - taken].copy())

        return look

    modules = dict(reference.model.named_modules())
    handles = [modules[name].register_forward_hook(hook(name)) for name in names]
    try:
        reference.encode(rows)
    finally:
        for handle in handles:
            handle.remove()
    return {name: LinearStatistics(largest[name], np.concatenate(sample[name])) for name in names}


def make_recipe(checkpoint: Checkpoint, statistics: dict[str, LinearStatistics], alpha: float | None = ALPHA) -> Int8Recipe:
    """Quantise every linear layer; `alpha` None leaves smoothing out (for comparisons)."""
    linears: dict[str, Int8Linear] = {}
    errors: dict[str, float] = {}
    scaled_values: dict[int, Floats] = {}
    for i in range(checkpoint.architecture.layers):
        for group in _SAME_INPUT:
            names = [f"encoder.layer.{i}.{part}" for part in group]
            weights = {name: checkpoint.tensor(f"{name}.weight").T for name in names}  # [in, out]
            seen = statistics[names[0]]
            factors = np.ones_like(seen.largest)
            if alpha is not None:
                factors = _smoothing(seen.largest, np.concatenate(list(weights.values()), axis=1), alpha)
            divided_before = group == ("attention.output.dense",)
            if divided_before and alpha is not None:
                scaled_values[i] = factors
            multiply = None if divided_before or (factors == 1).all() else np.reciprocal(factors)
            for name, weight in weights.items():
                smoothed = weight * factors[:, None]
                linears[name] = _quantize(smoothed, multiply)
                errors[name] = _error(seen.sample / factors, smoothed, linears[name])
    return Int8Recipe(linears, scaled_values, errors)


def _smoothing(largest: Floats, weight: Floats, alpha: float) -> Floats:
    """Powers of two nearest to SmoothQuant's factors, float32 [in]; 1 where a channel or its weights are all zero."""
    weight_largest = np.abs(weight).max(axis=1)
    usable = (largest > 0) & (weight_largest > 0)
    x, w = (np.where(usable, v, 1).astype(np.float64) for v in (largest, weight_largest))
    factors = np.exp2(np.round(np.log2(x**alpha / w ** (1 - alpha))))
    return np.where(usable, factors, 1).astype(np.float32)


def _quantize(weight: Floats, smooth: Floats | None) -> Int8Linear:
    scale = np.maximum(np.abs(weight).max(axis=0) / 127, np.finfo(np.float32).tiny).astype(np.float32)
    return Int8Linear(np.clip(np.rint(weight / scale), -127, 127).astype(np.int8), scale, smooth)


def _error(x: Floats, weight: Floats, linear: Int8Linear) -> float:
    """Relative error of the layer's output on sample rows: |xW - int8(x)int8(W)| / |xW|, Frobenius norms."""
    row_scale = np.maximum(np.abs(x).max(axis=1, keepdims=True) / 127, np.finfo(np.float32).tiny)
    approximate = (np.rint(x / row_scale) @ linear.weight.astype(np.float32)) * row_scale * linear.scale
    exact = x @ weight
    return float(np.linalg.norm(exact - approximate) / max(float(np.linalg.norm(exact)), 1e-30))
