"""A stand-in for a trained checkpoint: its real names, shapes and tokenizer, filled with deterministic random tensors.

    python -m jobonnx_export.testing ../shared/data/jobbge-m3 OUTPUT [--outliers 15]

The source folder holds the checkpoint's small files and config.json, no weights. Random weights prove plumbing, speed and
numerics, never quality. What makes this one fit to judge numerics by:

- Linear weights have standard deviation 1/sqrt(fan-in), so that signals neither die nor explode over 24 layers.
- The embedding of <s>, its position and the token type are zero: the CLS row starts from nothing, so that texts differ by what
  attention brings, and an all-zero row reaches the first linear layer.
- With --outliers, three channels carry a constant offset (LayerNorm gain 0.05, bias X, -0.6 X, 0.4 X), nearly the same for every
  token, as trained XLM-R has; columns that read them are divided by the offset. The last LayerNorm is left alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np

from jobonnx_export.checkpoint import Architecture, tensor_shapes

_OFFSETS = (1.0, -0.6, 0.4)
_GAIN = 0.05


def make_standin(source: Path, folder: Path, outliers: float = 0.0, seed: int = 0, changes: dict[str, Any] | None = None) -> None:
    """Write a checkpoint to `folder`: the small files of `source`, `changes` to its config.json, and random tensors."""
    shutil.copytree(
        source, folder, ignore=lambda _, names: [n for n in names if n.endswith((".safetensors", ".header.json", ".md"))]
    )
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode | 0o200)  # the source may be read-only
    config = json.loads((source / "config.json").read_text()) | (changes or {})
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    architecture = Architecture(
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        heads=config["num_attention_heads"],
        intermediate=config["intermediate_size"],
        vocabulary=config["vocab_size"],
        positions=config["max_position_embeddings"],
        pad_id=config["pad_token_id"],
        epsilon=config["layer_norm_eps"],
    )
    shapes = tensor_shapes(architecture)
    channels = np.random.default_rng(seed).choice(architecture.hidden, len(_OFFSETS), replace=False)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with open(folder / "model.safetensors", "wb") as file:  # streamed: one tensor in memory at a time
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for i, (name, shape) in enumerate(shapes.items()):
            rng = np.random.default_rng((seed, i))
            file.write(_tensor(name, shape, architecture, channels, outliers, rng).astype("<f4").tobytes())


def _tensor(name: str, shape: tuple[int, ...], a: Architecture, channels: Any, outliers: float, rng: np.random.Generator) -> Any:
    offset = np.array(_OFFSETS) * outliers
    if "LayerNorm" in name:
        x = np.full(shape, 1.0 if name.endswith("weight") else 0.0, dtype=np.float32)
        last = name.startswith(f"encoder.layer.{a.layers - 1}.output.")
        if outliers and not last:
            x[channels] = _GAIN if name.endswith("weight") else offset
        return x
    if name.endswith("bias"):
        return 0.02 * rng.standard_normal(shape, dtype=np.float32)
    if "embeddings" in name:
        x = rng.standard_normal(shape, dtype=np.float32)
        if "token_type" in name:
            x[:] = 0
        elif "word" in name:
            x[0] = 0  # <s>
        else:
            x *= 0.2  # positions matter less than words
            x[a.pad_id + 1] = 0
        return x
    x = rng.standard_normal(shape, dtype=np.float32) / np.float32(np.sqrt(shape[1]))
    if outliers and _reads_norm(name):
        x[:, channels] /= offset
    return x


def _reads_norm(name: str) -> bool:
    """Whether a linear layer's input comes from a LayerNorm: queries, keys, values and the feed-forward's first."""
    return ".attention.self." in name or ".intermediate." in name


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--outliers", type=float, default=0.0, metavar="X", help="offset of the outlier channels; 15 at full size")
    arguments = parser.parse_args()
    make_standin(arguments.source, arguments.output, arguments.outliers)
