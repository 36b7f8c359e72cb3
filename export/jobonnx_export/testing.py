"""Synthetic checkpoints: the names, shapes and tokenizer of a real one, filled with deterministic random tensors.

    python -m jobonnx_export.testing SOURCE OUTPUT [--outliers 15]

SOURCE holds a checkpoint's small files and config.json, no weights. Random weights prove plumbing, speed and precision, never
quality. What makes them fit to judge precision by:

- Linear weights have standard deviation 1/sqrt(fan-in), so that signals neither die nor explode over 24 layers.
- The embedding of <s>, its position and the token type are zero: the CLS row starts from nothing. So texts differ by what
  attention brings, and a row of zeros reaches the first linear layer.
- With outliers, three channels carry a constant offset that is nearly the same for every token, as trained XLM-R has. It comes
  from the LayerNorms (gain 0.05; bias X, -0.6 X, 0.4 X), and columns that read these channels are divided by the offset. The last
  LayerNorm is left alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jobonnx.arrays import Floats, Ints
from jobonnx.files import new_folder
from jobonnx.strict_json import read_json
from jobonnx_export.checkpoint import Architecture, read_architecture, tensor_shapes

_OFFSETS = (1.0, -0.6, 0.4)  # of the outlier channels, times `outliers`
_GAIN = 0.05
_LEFT_OUT = (".safetensors", ".header.json", ".md")


def synthetic_checkpoint(
    source: Path, output: Path, *, outliers: float = 0.0, seed: int = 0, changes: Mapping[str, Any] | None = None
) -> Architecture:
    """Write a checkpoint of random tensors.

    Args:
        source: a checkpoint's folder; its small files are copied.
        output: the folder to make, which must not exist yet.
        outliers: offset of the outlier channels (15 suits a full-size checkpoint); 0 for none.
        seed: of the random numbers; the same seed gives the same bytes.
        changes: made to config.json, such as `{"num_hidden_layers": 1}`.

    Returns:
        What was made.

    Raises:
        JobonnxError: `source` holds no XLM-R configuration, or `output` cannot be made.
    """
    config = read_json(source / "config.json", dict[str, Any], "give the folder of an XLM-R checkpoint") | dict(changes or {})
    with new_folder(output) as folder:
        shutil.copytree(
            source, folder, dirs_exist_ok=True, ignore=lambda _, names: [name for name in names if name.endswith(_LEFT_OUT)]
        )
        for path in (folder, *folder.rglob("*")):
            path.chmod(path.stat().st_mode | 0o200)  # the source may be read-only
        (folder / "config.json").write_text(json.dumps(config, indent=2))
        architecture = read_architecture(folder / "config.json")
        _write_tensors(folder / "model.safetensors", architecture, outliers, seed)
    return architecture


def _write_tensors(path: Path, architecture: Architecture, outliers: float, seed: int) -> None:
    """Write a safetensors file with one tensor in memory at a time."""
    shapes = tensor_shapes(architecture)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    channels = np.random.default_rng(seed).choice(architecture.hidden, len(_OFFSETS), replace=False)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for i, (name, shape) in enumerate(shapes.items()):
            rng = np.random.default_rng((seed, i))
            file.write(_tensor(name, shape, architecture, channels, outliers, rng).astype("<f4").tobytes())


def _tensor(
    name: str, shape: tuple[int, ...], a: Architecture, channels: Ints, outliers: float, rng: np.random.Generator
) -> Floats:
    offsets = np.array(_OFFSETS) * outliers
    x: Floats
    if "LayerNorm" in name:
        x = np.full(shape, 1.0 if name.endswith("weight") else 0.0, dtype=np.float32)
        last = name.startswith(f"encoder.layer.{a.layers - 1}.output.")
        if outliers and not last:
            x[channels] = _GAIN if name.endswith("weight") else offsets
        return x
    x = rng.standard_normal(shape, dtype=np.float32)
    if name.endswith("bias"):
        return np.float32(0.02) * x
    if "token_type" in name:
        x[:] = 0
    elif "word" in name:
        x[0] = 0  # <s>
    elif "position" in name:
        x *= 0.2  # positions matter less than words
        x[a.pad_id + 1] = 0  # the first position
    else:
        x = x / np.float32(np.sqrt(shape[1]))
        if outliers and _reads_norm(name):
            x[:, channels] /= offsets
    return x


def _reads_norm(name: str) -> bool:
    """Whether a linear layer's input comes from a LayerNorm: queries, keys, values and the first of the feed-forward."""
    return ".attention.self." in name or ".intermediate." in name


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m jobonnx_export.testing", description=str(__doc__).splitlines()[0])
    parser.add_argument("source", type=Path, help="folder with a checkpoint's config.json and tokenizer")
    parser.add_argument("output", type=Path, help="folder to make")
    parser.add_argument("--outliers", type=float, default=0.0, metavar="X", help="offset of the outlier channels; 15 at full size")
    options = parser.parse_args()
    made = synthetic_checkpoint(options.source, options.output, outliers=options.outliers)
    parameters = sum(int(np.prod(shape)) for shape in tensor_shapes(made).values())
    outliers = f"outlier channels of offset {options.outliers:g}" if options.outliers else "no outlier channels"
    shape = f"{parameters:,} random weights, depth {made.layers}, hidden size {made.hidden}"
    print(f"{options.output}: {shape}, {outliers}")


if __name__ == "__main__":
    _main()
