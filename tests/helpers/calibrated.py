"""A checkpoint with what an export learns of it before it writes graphs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jobonnx.text.tokenizer import Tokenizer
from jobonnx_export.checkpoint import Checkpoint, open_checkpoint
from jobonnx_export.quantize import LinearStatistics, calibrate, linear_names
from jobonnx_export.reference import Reference
from jobonnx_export.texts import calibration_titles


@dataclass(frozen=True)
class Calibrated:
    """The first thing a graph is written from."""

    folder: Path
    checkpoint: Checkpoint
    tokenizer: Tokenizer
    reference: Reference
    statistics: dict[str, LinearStatistics]


def calibrated_of(folder: Path) -> Calibrated:
    checkpoint = open_checkpoint(folder)
    tokenizer = Tokenizer(folder / "tokenizer.json", checkpoint.max_tokens)
    reference = Reference(checkpoint)
    statistics = calibrate(reference, tokenizer.encode(calibration_titles()[::5]), linear_names(checkpoint.architecture))
    return Calibrated(folder, checkpoint, tokenizer, reference, statistics)
