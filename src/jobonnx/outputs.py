"""What `encode` hands out beside float32 arrays: vectors quantised as sentence-transformers does it, and torch tensors."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from jobonnx.arrays import Floats

PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")
SENTENCES = "sentence_embedding"  # the only `output_value` here
_FEW = 100  # vectors that are too few for ranges worth anything, by sentence-transformers' own warning
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Output:
    """What a call asked for, checked before anything is computed."""

    value: str | None = SENTENCES
    precision: str | None = "float32"
    convert_to_numpy: bool = True
    convert_to_tensor: bool = False

    def __post_init__(self) -> None:
        if self.value != SENTENCES:
            fix = "run the bundle's portable graph, or the checkpoint in sentence-transformers, for token vectors"
            raise ValueError(f"output_value={self.value!r} is not in a graph that ends with the pooled vector; {fix}")
        if self.precision not in (None, *PRECISIONS):
            raise ValueError(f"precision={self.precision!r} is unknown; it is one of {', '.join(PRECISIONS)}")
        if self._torch:
            _import_torch(self)

    @property
    def _torch(self) -> bool:
        return self.convert_to_tensor or not self.convert_to_numpy

    def of(self, vectors: Floats, single: bool) -> Floats:
        """Bring vectors into this form.

        Args:
            vectors: float32 [texts, dimension].
            single: whether the caller gave one string, who gets one vector.

        Returns:
            An array, a tensor (`convert_to_tensor`), or a list of tensors (neither); without its first axis for a single string.
        """
        if self.precision not in (None, "float32"):
            vectors = quantize(vectors, str(self.precision))
        found: Any = vectors
        if self._torch:
            torch = _import_torch(self)
            found = torch.from_numpy(np.ascontiguousarray(vectors))
            if not self.convert_to_tensor:
                found = list(found)
        return cast(Floats, found[0] if single else found)  # what is asked for by default


def quantize(vectors: Floats, precision: str) -> Any:
    """Quantise vectors as `sentence_transformers.quantize_embeddings` does it without ranges of the caller's.

    It is that function of sentence-transformers 5.7; older ones round "int8" towards zero.

    Args:
        vectors: float32 [rows, dimension].
        precision: "int8" and "uint8" spread each component's own range, over these rows, on 256 steps, so that vectors of different
            calls do not compare; "binary" and "ubinary" keep the signs, eight to a byte.

    Returns:
        int8 or uint8 [rows, dimension], or [rows, dimension / 8] of signs.
    """
    if precision.endswith("binary"):
        bits = np.packbits(vectors > 0, axis=-1)
        return bits if precision == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8)
    if 0 < len(vectors) < _FEW:
        _log.warning(
            "precision=%r takes its ranges from %d vectors; give more at once, or quantise float32 vectors with ranges of your own",
            precision,
            len(vectors),
        )
    starts, ends = (vectors.min(axis=0), vectors.max(axis=0)) if len(vectors) else (np.float32(0), np.float32(0))
    steps = (ends - starts) / 255
    steps = np.where(steps == 0, 1, steps)
    levels = np.clip(np.floor((vectors - starts) / steps), 0, 255)
    return levels.astype(np.uint8) if precision == "uint8" else (levels - 128).astype(np.int8)


def _import_torch(output: Output) -> Any:
    try:
        import torch
    except ImportError:
        asked = "convert_to_tensor=True" if output.convert_to_tensor else "convert_to_numpy=False"
        raise ValueError(
            f"{asked} asks for torch tensors, and torch is not installed; take the array, or: pip install torch"
        ) from None
    return torch
