"""What providers share that run the graphs of standard operators: they compute in whatever precision they like, so it is tried."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from jobonnx.runtime.probes import qdq_overflows, rounds_floats
from jobonnx.runtime.providers.base import Provider
from jobonnx.runtime.session import Session, Settings


class StandardProvider(Provider):
    """A provider without graphs of its own. A variant that it would compute in another precision is refused."""

    title: str  # its maker's spelling
    bf16: str  # why it does not run variant bf16 where it computes in fp32

    def unavailable_reason(self, variant: str | None = None) -> str | None:
        """Try what it computes, once per process, before it is believed."""
        if missing := super().unavailable_reason(variant):
            return missing
        if variant == "bf16" and not self.rounds:
            return self.bf16
        if variant == "fp32" and self.rounds:
            return f"{self.title} computes variant 'fp32' in a shorter type here; use provider cpu, or variant bf16"
        if variant == "int8-static" and self.overflows:
            return f"{self.title}'s int8 products overflow on this machine; use provider cpu, whose products are exact"
        return None

    @cached_property
    def rounds(self) -> bool:
        """Tell whether it computes fp32 graphs in a shorter type."""
        return rounds_floats(self._open_probe)

    @cached_property
    def overflows(self) -> bool:
        """Tell whether its int8 products overflow."""
        return qdq_overflows(self._open_probe)

    def _open_probe(self, graph: Path) -> Session:
        return self.open_session(graph, None, Settings(self.name, 1))
