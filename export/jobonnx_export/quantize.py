"""The int8 recipe: int8 weights with per-channel scales, uint8 activations with per-token or per-tensor scales, after smoothing.

Where one static scale has to hold GELU's output, the few channels that stick out of it are split (see `Split`).

Smoothing (SmoothQuant, Xiao et al. 2022, arXiv:2211.10438, equation 4): input channel j of a linear layer is divided by
s_j = max|x_j|^alpha / max|w_j|^(1 - alpha), and its weights are multiplied by s_j. That changes no result in exact arithmetic, but
lets activations and weights fill their eight bits more evenly. Here s_j is rounded to a power of two, so that the division is
exact, and per-tensor scales are rounded up to eight bits. The last digits of a calibration differ between machines; the recipe
hardly depends on them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jobonnx.arrays import Floats, Ints
from jobonnx_export.checkpoint import Architecture, Checkpoint
from jobonnx_export.reference import Reference

ALPHA = 0.65  # of .5, .65 and .8; no checkpoint is worse than with .5, see docs/decisions/0021-channels-that-stick-out-are-split.md
TINY = float(np.finfo(np.float32).tiny)  # the smallest scale: no division by zero
_SAMPLE_TOKENS = 512  # that a layer's error is measured on
_ROWS = 1 << 14  # of an embedding table that are quantised at once
_MOST_COPIES = 64  # a split adds at most one of so many channels
_WHOLE = 16  # channels that kernels compute at once: a split adds a multiple of them
# Linear layers of one encoder layer, grouped by the input that they read.
_SAME_INPUT = (
    ("attention.self.query", "attention.self.key", "attention.self.value"),
    ("attention.output.dense",),
    ("intermediate.dense",),
    ("output.dense",),
)
_QKV, _ATTENDED, _WIDEN, _NARROW = _SAME_INPUT
# After a LayerNorm all tokens have a similar range, so one static scale can serve all of them. That avoids the two passes over
# memory that find and apply per-token scales. It is used if the error is at most `_MOST_WORSE` times that of per-token scales.
_AFTER_NORM = (_QKV, _WIDEN)
_MOST_WORSE = 2.0
_WORTH_A_SPLIT = 0.75  # a split, or a larger one, is used if it takes a quarter off the error
_SMALLEST_OUTPUT = 0.01  # of the median token's; a shorter one's error counts as if it had this length
# GELU's output is not smoothed: that cost a pass over the widest rows and made its error larger
# (docs/decisions/0006-static-scale-after-layernorm.md).
_SMOOTHED = (_QKV, _ATTENDED, _WIDEN)


@dataclass(frozen=True, eq=False)
class InputQuantization:
    """How the input of linear layers is quantised to uint8: round(x * inverse_smoothing / scale) + zero_point, clipped to 0..255.

    No token's values depend on another token. Layers that read the same input share one object, and are equal only then.
    """

    zero_point: int
    scale: float | None  # per-tensor; None for per-token: the smallest that fits the token, found at run time
    inverse_smoothing: Floats | None = None  # 1 / s_j, [in]; None where nothing has to be multiplied at run time


@dataclass(frozen=True)
class QuantizedLinear:
    """One linear layer in int8: y = scale * (quantised x - zero_point) @ weight * weight_scale + bias."""

    weight: np.ndarray[Any, np.dtype[np.int8]]  # [in, out], symmetric: its zero point is 0
    weight_scale: Floats  # per-channel, [out]
    input: InputQuantization


@dataclass(frozen=True, eq=False)
class Split:
    """Copies of channels that are too large for one static scale, each with an offset of its own.

    Trained encoders have a few such channels in GELU's output: at `<s>` one is ten times as large as all others, and so would be
    the scale. Quantising clips at some limit. So copy m of a channel is GELU(z - m * limit), and the clipped copies add up to
    GELU(z), within .17 near multiples of the limit and almost exactly elsewhere. It costs no operator, only these channels. Zhao et
    al. 2019 (arXiv:1901.09504) halve such a channel; before GELU it cannot be halved, but it can be moved.
    """

    channels: Ints  # of the widening layer's output, one per copy
    offsets: Floats  # subtracted before GELU, [copies]

    def columns(self, count: int) -> Ints:
        """Return which of `count` channels stands at each place: all of them in order, then the copies."""
        columns: Ints = np.concatenate([np.arange(count), self.channels])
        return columns

    def applied(self, x: Floats) -> Floats:
        """Add the copies to GELU's output [tokens, channels]. Where it is large enough to matter, GELU is the identity."""
        copied: Floats = np.concatenate([x, _gelu(x[:, self.channels] - self.offsets)], axis=1)
        return copied


@dataclass(frozen=True)
class LinearStatistics:
    """What calibration saw of one linear layer's input."""

    highest: Floats  # of each channel, [in]
    lowest: Floats  # of each channel, [in]
    sample: Floats  # the inputs of some tokens, [tokens, in]

    @property
    def largest(self) -> Floats:
        """max|x_j| of each channel, [in]."""
        seen: Floats = np.maximum(self.highest, -self.lowest)
        return seen


@dataclass(frozen=True)
class Int8Recipe:
    """All that a graph needs to run in int8."""

    linears: dict[str, QuantizedLinear]  # by module name
    # Module name of a value projection -> smoothing factors [hidden] that its output is divided by. Attention is linear in its
    # values, so this smooths the input of the attention output layer at no cost.
    value_smoothing: dict[str, Floats]
    errors: dict[str, float]  # module name -> relative output error in int8, on the calibration titles
    # Module name of a widening layer -> the copies added to its output. The layer after GELU has their rows too.
    splits: dict[str, Split] = field(default_factory=dict)

    def inputs_sha256(self) -> str:
        """Hash how every layer's input is quantised. Enters the fingerprint, so its text stays: "row" means per-token."""
        inputs = [f"{name} {x.input.zero_point} {x.input.scale or 'row'}" for name, x in sorted(self.linears.items())]
        inputs += [f"{name} {x.channels.tolist()} {x.offsets.tolist()}" for name, x in sorted(self.splits.items())]
        return hashlib.sha256("\n".join(inputs).encode()).hexdigest()

    def without(self, names: Sequence[str]) -> Int8Recipe:
        """Return the same recipe with the layers `names` left in float."""
        kept = {name: linear for name, linear in self.linears.items() if name not in names}
        smoothing = {name: factors for name, factors in self.value_smoothing.items() if _output_of(name) in kept}
        splits = {name: split for name, split in self.splits.items() if _narrow_of(name) in kept}
        return Int8Recipe(kept, smoothing, self.errors, splits)


def linear_names(a: Architecture) -> list[str]:
    """Every linear layer of the encoder, by module name."""
    return [f"encoder.layer.{i}.{part}" for i in range(a.layers) for group in _SAME_INPUT for part in group]


def calibrate(reference: Reference, rows: Sequence[Sequence[int]], names: Sequence[str]) -> dict[str, LinearStatistics]:
    """Run token ids through the reference and look at every linear layer's input.

    Args:
        reference: the checkpoint in PyTorch.
        rows: token ids of the calibration titles.
        names: the linear layers to look at, by module name.
    """
    highest: dict[str, Floats] = {}
    lowest: dict[str, Floats] = {}
    sample: dict[str, list[Floats]] = {name: [] for name in names}
    every = max(1, sum(map(len, rows)) // _SAMPLE_TOKENS)

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
        statistics: what calibration saw, by module name.
        alpha: of smoothing; None leaves it out (for comparisons).
        static: use per-tensor scales everywhere, for compilers that know no others (QuantizeLinear, DequantizeLinear).
    """
    recipe = Int8Recipe({}, {}, {})
    for i in range(checkpoint.architecture.layers):
        for group in _SAME_INPUT:
            names = [f"encoder.layer.{i}.{part}" for part in group]
            weights = {name: checkpoint.tensor(f"{name}.weight").T for name in names}  # [in, out]
            seen = statistics[names[0]]
            factors = np.ones_like(seen.highest)
            if alpha is not None and group in _SMOOTHED:
                factors = _smoothing_factors(seen.largest, np.concatenate(list(weights.values()), axis=1), alpha)
            inverse = None if (factors == 1).all() else np.reciprocal(factors)
            if group == _ATTENDED and inverse is not None:  # its input is divided beforehand, with the attention values
                recipe.value_smoothing[_values_of(names[0])], inverse = factors, None
            weights = {name: weight * factors[:, None] for name, weight in weights.items()}
            seen = LinearStatistics(seen.highest / factors, seen.lowest / factors, seen.sample / factors)
            attempts = [_attempt(weights, seen.sample, how, split) for how, split in _ways(group, seen, inverse, static)]
            chosen = attempts[0]
            for attempt in attempts[1:]:
                if attempt.total <= chosen.total * (_MOST_WORSE if attempt.split is None else _WORTH_A_SPLIT):
                    chosen = attempt
            recipe.linears.update(chosen.linears)
            recipe.errors.update(chosen.errors)
            if chosen.split is not None:
                recipe.splits[_widening_of(names[0])] = chosen.split
    return recipe


def quantize_rows(table: Floats) -> tuple[np.ndarray[Any, np.dtype[np.int8]], Floats]:
    """Quantise an embedding table [rows, hidden], symmetric, with a scale per row: int8, and float32 [rows, 1]."""
    values = np.empty(table.shape, np.int8)
    scales = np.maximum(np.maximum(table.max(axis=1), -table.min(axis=1)) / 127, TINY).astype(np.float32)[:, None]
    for start in range(0, len(table), _ROWS):  # a large checkpoint's table is a gigabyte in float32
        rows = slice(start, start + _ROWS)
        values[rows] = np.rint(table[rows] / scales[rows])
    return values, scales


def _values_of(output: str) -> str:
    """Return the value projection whose attention an output layer reads, by module name."""
    return output.replace("attention.output.dense", "attention.self.value")


def _output_of(values: str) -> str:
    return values.replace("attention.self.value", "attention.output.dense")


def _widening_of(narrow: str) -> str:
    """Return the layer before GELU, by the module name of the layer after it."""
    return narrow.replace("output.dense", "intermediate.dense")


def _narrow_of(widening: str) -> str:
    return widening.replace("intermediate.dense", "output.dense")


def _ways(
    group: tuple[str, ...], seen: LinearStatistics, inverse_smoothing: Floats | None, static: bool
) -> Iterator[tuple[InputQuantization, Split | None]]:
    """Say how the input of a group of layers can be quantised, the most usual way first."""
    if not static:
        yield _per_token(seen.sample, inverse_smoothing), None
    if static or group in _AFTER_NORM:
        yield _per_tensor(seen.lowest, seen.highest, inverse_smoothing), None
    if static and group == _NARROW:
        yield from _splits(seen)


def _splits(seen: LinearStatistics) -> Iterator[tuple[InputQuantization, Split]]:
    """Clip GELU's output at its second, third, fifth, ... largest channel, and copy the channels that are larger."""
    falling = np.sort(seen.highest)[::-1]
    most = max(_WHOLE, len(falling) // _MOST_COPIES)
    for place in 2 ** np.arange(int(np.log2(len(falling)))):
        how = _per_tensor(seen.lowest, np.minimum(seen.highest, falling[place]), None)
        assert how.scale is not None
        limit = (255 - how.zero_point) * how.scale
        copies = np.maximum(np.ceil(seen.highest / limit).astype(np.int64) - 1, 0)
        if copies.sum() > most:
            return
        if copies.any():
            copies[seen.highest.argmax()] += -copies.sum() % _WHOLE  # more room above what calibration saw
            channels = np.repeat(np.arange(len(copies)), copies)
            numbers = np.concatenate([np.arange(1, count + 1) for count in copies])
            yield how, Split(channels, (numbers * limit).astype(np.float32))


def _per_tensor(lowest: Floats, highest: Floats, inverse_smoothing: Floats | None) -> InputQuantization:
    """One scale and zero point for all tokens, from the extremes of each channel."""
    low, high = float(lowest.min()), float(highest.max())
    zero_point = _zero_point(low, high)
    mantissa, exponent = np.frexp(max(high / (255 - zero_point), -low / zero_point, TINY))
    return InputQuantization(zero_point, float(np.ldexp(np.ceil(mantissa * 256) / 256, exponent)), inverse_smoothing)


def _per_token(sample: Floats, inverse_smoothing: Floats | None) -> InputQuantization:
    """Return a scale per token, found at run time, and the zero point of the median token."""
    low, high = float(np.median(sample.min(axis=1))), float(np.median(sample.max(axis=1)))
    return InputQuantization(_zero_point(low, high), None, inverse_smoothing)


def _zero_point(low: float, high: float) -> int:
    """Where zero lies in 0..255 when low to high fills that range: GELU's output has a long side and a short one."""
    low, high = min(low, 0.0), max(high, 0.0)
    return int(np.clip(round(255 * -low / max(high - low, TINY)), 1, 254))


def _smoothing_factors(largest: Floats, weight: Floats, alpha: float) -> Floats:
    """Powers of two nearest to SmoothQuant's factors, float32 [in]; 1 where a channel or its weights are all zero."""
    weight_largest = np.abs(weight).max(axis=1)
    usable = (largest > 0) & (weight_largest > 0)
    x, w = (np.where(usable, v, 1).astype(np.float64) for v in (largest, weight_largest))
    factors = np.exp2(np.round(np.log2(x**alpha / w ** (1 - alpha))))
    return np.where(usable, factors, 1).astype(np.float32)


@dataclass(frozen=True)
class _Attempt:
    """Layers that read one input, quantised one way."""

    linears: dict[str, QuantizedLinear]
    errors: dict[str, float]
    split: Split | None

    @property
    def total(self) -> float:
        return sum(self.errors.values())


@np.errstate(over="ignore", invalid="ignore")  # of weights that no training made
def _attempt(weights: dict[str, Floats], sample: Floats, how: InputQuantization, split: Split | None) -> _Attempt:
    """Quantise layers that read one input, and measure each one's error on a sample of it."""
    exact = {name: sample @ weight for name, weight in weights.items()}
    if split is not None:
        sample = split.applied(sample)
        weights = {name: weight[split.columns(len(weight))] for name, weight in weights.items()}
    linears = {name: _quantize(weight, how) for name, weight in weights.items()}
    return _Attempt(linears, {name: _error(sample, exact[name], linears[name]) for name in linears}, split)


def _quantize(weight: Floats, how: InputQuantization) -> QuantizedLinear:
    """Quantise a weight [in, out], symmetric, with a scale per output channel."""
    scale = np.maximum(np.abs(weight).max(axis=0) / 127, TINY).astype(np.float32)
    return QuantizedLinear(np.clip(np.rint(weight / scale), -127, 127).astype(np.int8), scale, how)


def _error(x: Floats, exact: Floats, linear: QuantizedLinear) -> float:
    """Relative error of a layer's output on a sample of its input: the root mean square over tokens of |y - int8(y)| / |y|.

    Each token counts alike. In a Frobenius norm one token, as large as trained encoders make `<s>`, would hide all others. What is
    no number counts as infinite.
    """
    zero_point = linear.input.zero_point
    scale: Any = linear.input.scale
    if scale is None:
        high, low = x.max(axis=1, keepdims=True), x.min(axis=1, keepdims=True)
        scale = np.maximum(np.maximum(high / (255 - zero_point), low / -zero_point), TINY)
    quantised = np.clip(np.rint(x / scale), -zero_point, 255 - zero_point)
    approximate = (quantised @ linear.weight.astype(np.float32)) * scale * linear.weight_scale
    lengths = np.linalg.norm(exact, axis=1)
    floor = max(_SMALLEST_OUTPUT * float(np.median(lengths)), TINY)
    error = float(np.sqrt(np.mean((np.linalg.norm(exact - approximate, axis=1) / np.maximum(lengths, floor)) ** 2)))
    return error if np.isfinite(error) else np.inf


def _gelu(z: Floats) -> Floats:
    """GELU, the exact one, with erf."""
    import torch

    found: Floats = torch.nn.functional.gelu(torch.from_numpy(z)).numpy()
    return found
