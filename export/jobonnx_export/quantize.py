"""The int8 recipe: S8 weights with one scale a column, U8 activations with one step for all rows or one a row, channels smoothed
beforehand.

Smoothing (SmoothQuant, Xiao et al. 2022, arXiv:2211.10438, equation 4): input channel j of a linear layer is divided by
s_j = max|x_j|^alpha / max|w_j|^(1 - alpha) and its weights are multiplied by it, which changes nothing but how evenly both fill
their eight bits. Here s_j is rounded to a power of two: the division is then exact. Steps are rounded up to eight bits. So the
recipe hardly hangs on the last digits of a calibration, which differ between machines.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jobonnx_export.checkpoint import Architecture, Checkpoint
from jobonnx_export.graph.builder import Int8Input, Int8Linear
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
_QKV, _ATTENDED, _WIDEN, _NARROW = _SAME_INPUT
# A LayerNorm gives all rows one length, so one step may fit them all. It saves the passes over memory that find and apply a
# step a row, and is taken where the layers' error stays within this factor of what a step a row leaves.
_AFTER_NORM = (_QKV, _WIDEN)
_WORSE = 2.0
# GELU's output is left as it is: smoothing it cost a pass over the widest rows and made its error larger (docs/decisions.md).
_SMOOTHED = (_QKV, _ATTENDED, _WIDEN)
_TINY = float(np.finfo(np.float32).tiny)
Floats = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class LinearStatistics:
    """What calibration saw of one linear layer's input."""

    highest: Floats  # of each channel, [in]
    lowest: Floats  # of each channel, [in]
    sample: Floats  # some of its rows, [rows, in]

    @property
    def largest(self) -> Floats:
        """max|x_j| of each channel, [in]."""
        seen: Floats = np.maximum(self.highest, -self.lowest)
        return seen


@dataclass(frozen=True)
class Int8Recipe:
    """All a graph needs to run in int8."""

    linears: dict[str, Int8Linear]
    scaled_values: dict[int, Floats]  # layer -> factors that its attention values are divided by
    errors: dict[str, float]  # each linear layer's relative output error in int8, on the calibration titles

    def inputs_sha256(self) -> str:
        """Names how every layer's input becomes bytes."""
        inputs = [f"{name} {x.input.zero_point} {x.input.step or 'row'}" for name, x in sorted(self.linears.items())]
        return hashlib.sha256("\n".join(inputs).encode()).hexdigest()

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
    highest: dict[str, Floats] = {}
    lowest: dict[str, Floats] = {}
    sample: dict[str, list[Floats]] = {name: [] for name in names}
    every = max(1, sum(map(len, rows)) // _SAMPLE_ROWS)

    def hook(name: str) -> Any:
        def look(module: Any, inputs: tuple[Any, ...], output: Any) -> None:
            x = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).numpy()
            high, low = x.max(axis=0), x.min(axis=0)
            highest[name] = np.maximum(highest.get(name, high), high)
            lowest[name] = np.minimum(lowest.get(name, low), low)
            sample[name].append(x[::every].copy())

        return look

    modules = dict(reference.model.named_modules())
    handles = [modules[name].register_forward_hook(hook(name)) for name in names]
    try:
        reference.encode(rows)
    finally:
        for handle in handles:
            handle.remove()
    return {name: LinearStatistics(highest[name], lowest[name], np.concatenate(sample[name])) for name in names}


def make_recipe(
    checkpoint: Checkpoint, statistics: dict[str, LinearStatistics], alpha: float | None = ALPHA, *, static: bool = False
) -> Int8Recipe:
    """Quantise every linear layer.

    Args:
        checkpoint: where the weights come from.
        statistics: what calibration saw, by layer.
        alpha: of smoothing; None leaves it out (for comparisons).
        static: one step for all rows everywhere, for providers that know no other way (QuantizeLinear, DequantizeLinear).
    """
    linears: dict[str, Int8Linear] = {}
    errors: dict[str, float] = {}
    scaled_values: dict[int, Floats] = {}
    for i in range(checkpoint.architecture.layers):
        for group in _SAME_INPUT:
            names = [f"encoder.layer.{i}.{part}" for part in group]
            weights = {name: checkpoint.tensor(f"{name}.weight").T for name in names}  # [in, out]
            seen = statistics[names[0]]
            factors = np.ones_like(seen.highest)
            if alpha is not None and group in _SMOOTHED:
                factors = _smoothing(seen.largest, np.concatenate(list(weights.values()), axis=1), alpha)
            smooth = None if (factors == 1).all() else np.reciprocal(factors)
            if group == _ATTENDED and smooth is not None:  # its input is divided beforehand, with the attention values
                scaled_values[i], smooth = factors, None
            weights = {name: weight * factors[:, None] for name, weight in weights.items()}
            sample = seen.sample / factors
            sources = [] if static else [_a_step_a_row(sample, smooth)]
            if static or group in _AFTER_NORM:
                sources.append(_one_step(seen.lowest / factors, seen.highest / factors, smooth))
            (made, wrong), *others = (_quantize_group(weights, source, sample) for source in sources)
            for other, other_wrong in others:
                if sum(other_wrong.values()) <= _WORSE * sum(wrong.values()):
                    made, wrong = other, other_wrong
            linears |= made
            errors |= wrong
    return Int8Recipe(linears, scaled_values, errors)


def _one_step(lowest: Floats, highest: Floats, smooth: Floats | None) -> Int8Input:
    """One step and zero point for all rows, from each channel's extremes."""
    zero_point = _zero_point(float(lowest.min()), float(highest.max()))
    step = max(float(highest.max()) / (255 - zero_point), -float(lowest.min()) / zero_point, _TINY)
    mantissa, exponent = np.frexp(step)
    return Int8Input(zero_point, float(np.ldexp(np.ceil(mantissa * 256) / 256, exponent)), smooth)


def _a_step_a_row(sample: Floats, smooth: Floats | None) -> Int8Input:
    """The zero point of the middle row; each row finds its step at run time."""
    return Int8Input(_zero_point(float(np.median(sample.min(axis=1))), float(np.median(sample.max(axis=1)))), None, smooth)


def _zero_point(low: float, high: float) -> int:
    """Where zero lies among the 256 bytes when they span low to high: GELU's output has a long side and a short one."""
    low, high = min(low, 0.0), max(high, 0.0)
    return int(np.clip(round(255 * -low / max(high - low, _TINY)), 1, 254))


def _smoothing(largest: Floats, weight: Floats, alpha: float) -> Floats:
    """Powers of two nearest to SmoothQuant's factors, float32 [in]; 1 where a channel or its weights are all zero."""
    weight_largest = np.abs(weight).max(axis=1)
    usable = (largest > 0) & (weight_largest > 0)
    x, w = (np.where(usable, v, 1).astype(np.float64) for v in (largest, weight_largest))
    factors = np.exp2(np.round(np.log2(x**alpha / w ** (1 - alpha))))
    return np.where(usable, factors, 1).astype(np.float32)


def _quantize_group(
    weights: dict[str, Floats], source: Int8Input, sample: Floats
) -> tuple[dict[str, Int8Linear], dict[str, float]]:
    """Layers that read one input, and each one's error on sample rows of it."""
    made = {name: _quantize(weight, source) for name, weight in weights.items()}
    return made, {name: _error(sample, weight, made[name]) for name, weight in weights.items()}


def _quantize(weight: Floats, source: Int8Input) -> Int8Linear:
    scale = np.maximum(np.abs(weight).max(axis=0) / 127, _TINY).astype(np.float32)
    return Int8Linear(np.clip(np.rint(weight / scale), -127, 127).astype(np.int8), scale, source)


def _error(x: Floats, weight: Floats, linear: Int8Linear) -> float:
    """Relative error of the layer's output on sample rows: |xW - int8(x)int8(W)| / |xW|, Frobenius norms."""
    zero = linear.input.zero_point
    step: Any = linear.input.step
    if step is None:
        high, low = x.max(axis=1, keepdims=True), x.min(axis=1, keepdims=True)
        step = np.maximum(np.maximum(high / (255 - zero), low / -zero), _TINY)
    whole = np.clip(np.rint(x / step), -zero, 255 - zero)
    approximate = (whole @ linear.weight.astype(np.float32)) * step * linear.scale
    exact = x @ weight
    return float(np.linalg.norm(exact - approximate) / max(float(np.linalg.norm(exact)), 1e-30))
