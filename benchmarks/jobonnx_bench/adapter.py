"""The adapter of jobonnx itself; see worker.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jobonnx import Encoder
from jobonnx.arrays import Floats
from jobonnx.runtime.providers import find_provider

_FLOAT_VARIANTS = ("fp32", "fp16", "bf16")  # every other variant is a kind of int8
_NO_BUDGET = 1 << 40  # tokens: everything is one batch


class _System:
    """An encoder. Its graphs compute real tokens only, and repeated titles once, so there are no computed tokens to count."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.details = _details(encoder)

    def encode(self, texts: Sequence[str]) -> Floats:
        return self._encoder.encode(texts, show_progress_bar=False)

    def encode_as_one_batch(self, texts: Sequence[str]) -> Floats:
        return self._encoder.encode(texts, show_progress_bar=False, token_budget=_NO_BUDGET)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return self._encoder.tokenize(texts)


def _details(encoder: Encoder) -> dict[str, Any]:
    provider, session = find_provider(encoder.provider), encoder.engine.session
    nodes = session.nodes
    return {
        "dtype": encoder.variant if encoder.variant in _FLOAT_VARIANTS else "int8",
        "provider": encoder.provider,
        "device": provider.device,
        "threads": session.threads,
        "nodes_elsewhere": sum(count for name, count in nodes.items() if name != provider.ort_name),
        # With CLS pooling the last layer computes one row per title.
        "last_layer_rows": "titles" if encoder.bundle.model.pooling == "cls" else "tokens",
        "variant": encoder.variant,
        "nodes": sum(nodes.values()),
        "fingerprint": encoder.fingerprint,
    }


def load(folder: str, *, bundle: str | None, variant: str, provider: str) -> _System:
    """Load a variant of a bundle on a provider; `folder` is not needed."""
    return _System(Encoder(bundle, variant=variant, provider=provider))
