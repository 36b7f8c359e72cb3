"""Figures of a parity that are known to be finite."""

from __future__ import annotations

from jobonnx.bundle.manifest import Parity


def figure(parity: Parity, name: str) -> float:
    """Return one of its figures, which must not be None."""
    value = getattr(parity, name)
    assert value is not None
    return float(value)
