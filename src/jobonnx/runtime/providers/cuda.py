"""NVIDIA GPUs through ONNX Runtime's CUDA provider."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobonnx.arrays import Ints
from jobonnx.bundle.manifest import Model
from jobonnx.errors import ProviderUnavailableError
from jobonnx.runtime.providers.base import Provider
from jobonnx.runtime.providers.io_binding import BoundSession, SmallAndLarge
from jobonnx.runtime.providers.shape_buckets import LAUNCH_TOKENS, aligned_bucket, batch_by_bucket
from jobonnx.runtime.session import Session, Settings

_CUTLASS = "2"  # AttentionBackend::EFFICIENT_ATTENTION
_COMPUTE_OPS = {"Gemm", "MatMul", "FusedMatMul", "Attention", "MultiHeadAttention"}  # where these run is where the graph runs


class Cuda(Provider):
    """Batches in few shapes, buffers that stay on the GPU, CUDA graphs on request."""

    name = "cuda"
    ort_name = "CUDAExecutionProvider"
    target = "cuda"
    install = 'pip install "jobonnx[gpu]"'
    missing_library = True
    token_budget = 8 * LAUNCH_TOKENS
    parallel = False  # a session runs batches side by side by itself, see BoundSession
    block = 8192  # four batches of usual titles: few enough that the first is soon tokenised, enough to sort by length
    captures = True
    untested = False
    device = "cuda"  # ONNX Runtime's name of where buffers lie

    def configure(self, options: Any, graph: Path, model: Model | None, settings: Settings) -> list[Any] | None:
        """Compute in the precision of the variant's name."""
        # TF32 would round fp32 inputs to 10 bits. Strict: a LayerNorm fused with the sum before it adds up in float32.
        # Attention by CUTLASS: cuDNN's kernel takes longer on titles, and plans each new shape for up to 1.7 s.
        own = {"use_tf32": "0", "enable_skip_layer_norm_strict_mode": "1", "sdpa_kernel": _CUTLASS}
        if settings.capture:
            own["enable_cuda_graph"] = "1"
            options.enable_mem_pattern = False  # it allocates anew in a shape's second run, the one that is captured
        return [(self.ort_name, own), "CPUExecutionProvider"]

    def batches(self, lengths: Sequence[int], token_budget: int, max_rows: int | None = None) -> list[Ints]:
        """Group rows into batches padded to a small set of shapes, so that kernels and CUDA graphs are reused."""
        return batch_by_bucket(lengths, token_budget, max_rows)

    def wrap(self, session: Any, graph: Path, model: Model | None, settings: Settings) -> Session:
        """Bind the session to the GPU; refuse one that computes on the CPU."""
        if model is None:
            raise ValueError(f"provider {self.name!r} needs the model, as bundle.model")
        if strayed := self.nodes_on_other_providers(session):
            fix = "export the bundle again with this jobonnx"
            raise ProviderUnavailableError(f"provider {self.name!r} left {', '.join(strayed)} of {graph} to the CPU; {fix}")
        opened = BoundSession(
            session,
            settings,
            device=self.device,
            pad_id=model.pad_id,
            max_rows=self.max_rows(model),
            shape_of=self.shape_of,
        )
        if not settings.capture:
            return opened
        return SmallAndLarge(opened, lambda: self.open_session(graph, model, replace(settings, capture=False)))

    def shape_of(self, rows: int, length: int) -> tuple[int, int]:
        """Return the shape that a batch is padded to."""
        return aligned_bucket(rows, length)

    def max_rows(self, model: Model) -> int | None:
        """Return the most rows of one run; None for as many as fit."""
        return None

    def nodes_on_other_providers(self, session: Any) -> list[str]:
        """Kinds of heavy nodes that another provider took: a fallback that ONNX Runtime does not report."""
        parts = [part for part in session.get_provider_graph_assignment_info() if part.ep_name != self.ort_name]
        return sorted({node.op_type for part in parts for node in part.get_nodes()} & _COMPUTE_OPS)
