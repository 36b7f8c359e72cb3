"""jobonnx's own adapter (see jobonnx_bench/worker.py), in a rehearsal with the CPU provider in the GPU's place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobonnx.runtime.providers import PROVIDERS
from jobonnx.runtime.providers.cuda import Cuda
from jobonnx_bench import adapter


class Rehearsed(Cuda):
    """CUDA's batches, shapes, buffers and threads, with the CPU's kernels."""

    ort_name = "CPUExecutionProvider"
    device = "cpu"
    captures = False

    def is_here(self) -> bool:
        return True

    def configure(self, options: Any, graph: Path, model: Any, settings: Any) -> list[Any]:
        return [self.ort_name]


def rehearse() -> None:
    """From here on "cuda" is the CPU provider."""
    PROVIDERS[Rehearsed.name] = Rehearsed()


def load(folder: str, *, rehearse: bool, **options: Any) -> Any:
    if rehearse:
        globals()["rehearse"]()
    return adapter.load(folder, **options)
