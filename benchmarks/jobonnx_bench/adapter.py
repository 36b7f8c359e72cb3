"""The adapter of jobonnx itself; see worker.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jobonnx import Encoder

_DTYPES = {"fp32": "fp32", "fp16": "fp16", "bf16": "bf16"}  # every other variant is a kind of int8

_NO_BUDGET = 1 << 40  # tokens: everything is one batch


class _System:
    """An encoder. Engine graphs compute real tokens only, and repeats once: there is nothing to count."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.details = {
            "dtype": _DTYPES.get(encoder.variant, "int8"),
            "variant": encoder.variant,
            "provider": encoder.provider,
            "threads": encoder.engine.session.threads,
            "nodes": encoder.engine.session.nodes,
            "fingerprint": encoder.fingerprint,
            # With CLS pooling the last layer computes one row a title.
            "last_layer_rows": "titles" if encoder.bundle.model.pooling == "cls" else "tokens",
        }

    def encode(self, texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        return self._encoder.encode(texts, show_progress_bar=False)

    def encode_whole(self, texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        return self._encoder.encode(texts, show_progress_bar=False, token_budget=_NO_BUDGET)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return self._encoder.tokenize(texts)


def load(folder: str, *, bundle: str | None, variant: str, provider: str) -> _System:
    """Load a variant of a bundle on a provider; `folder` is not needed."""
    return _System(Encoder(bundle, variant=variant, provider=provider))
