"""The PyTorch side of bf16: rounding as a CPU with bf16 rounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from helpers.figures import figure
from jobonnx.parity.measure import measure
from jobonnx_export.checkpoint import open_checkpoint
from jobonnx_export.reference import Reference


def test_rounding_to_bf16_is_as_far_off_as_pytorchs_own(checkpoint: Path) -> None:
    opened = open_checkpoint(checkpoint, None)
    rng = np.random.default_rng(0)
    rows = [[0, *map(int, rng.integers(4, opened.architecture.vocabulary, n)), 2] for n in rng.integers(2, 12, 200)]
    exact = Reference(opened).encode(rows)
    rounded = Reference(opened)
    rounded.round_to_bf16()
    ours = measure(exact, rounded.encode(rows))
    with torch.autocast("cpu", torch.bfloat16):  # PyTorch's own: products in bf16, LayerNorm in float32
        theirs = measure(exact, Reference(opened).encode(rows))
    assert 1 - figure(ours, "mean_centred") > 1e-6
    assert 0.25 < (1 - figure(ours, "mean_centred")) / (1 - figure(theirs, "mean_centred")) < 4
