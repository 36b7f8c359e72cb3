"""NVIDIA's TensorRT: told the shapes to come before it compiles, and what took minutes to compile is kept. It has never run yet."""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

from jobonnx.bundle.manifest import Model
from jobonnx.files import cache_folder
from jobonnx.runtime.providers.cuda import Cuda
from jobonnx.runtime.providers.shape_buckets import bucket
from jobonnx.runtime.providers.wheel import import_onnxruntime
from jobonnx.runtime.session import Settings

# Padded tokens that an engine reserves memory for: 1 GB for the widest layer of a large model. ONNX Runtime uses only the first
# optimisation profile, so one profile must cover every shape, and its memory is reserved for most rows x greatest length.
_TOKENS = 1 << 17
_USUAL = (128, 8)  # rows and length that kernels are chosen for
_log = logging.getLogger(__name__)


class TensorRt(Cuda):
    """Standard operators in fp16, compiled once per graph, model and version."""

    name = "tensorrt"
    ort_name = "TensorrtExecutionProvider"
    target = "tensorrt"
    install = 'pip install "jobonnx[gpu]" "tensorrt-cu13<11"'
    captures = False
    untested = True

    def configure(self, options: Any, graph: Path, model: Model | None, settings: Settings) -> list[Any] | None:
        """Name the shapes and the engine cache."""
        if model is None:
            raise ValueError(f"provider {self.name!r} needs the model, as bundle.model")
        load_libraries()
        return [(self.ort_name, engine_options(graph, model, import_onnxruntime().__version__)), "CPUExecutionProvider"]

    def shape_of(self, rows: int, length: int) -> tuple[int, int]:
        """Return the shape that a batch is padded to, which the profile covers."""
        return bucket(rows, length)

    def max_rows(self, model: Model) -> int | None:
        """Return the most rows that the engine's profile holds."""
        return largest_shape(model.max_tokens)[0]


def largest_shape(max_tokens: int) -> tuple[int, int]:
    """Return the most rows, a power of two, and the greatest length of a batch."""
    length = bucket(1, max_tokens)[1]
    return 1 << (max(1, _TOKENS // length).bit_length() - 1), length


def engine_options(graph: Path, model: Model, onnxruntime_version: str) -> dict[str, str]:
    """Options of ONNX Runtime's TensorRT provider, whose truth values are "True" and "False".

    The graph asks for LayerNorms in float32 by their stash_type; the fallback option forces it on those that were taken apart.

    Args:
        graph: the graph file.
        model: what it was made of; two models of one architecture differ in their data files alone, so the engine's folder
            carries the hash of the tensors.
        onnxruntime_version: engines do not outlive it.
    """
    most = largest_shape(model.max_tokens)
    profile = {"min": bucket(1, 1), "opt": tuple(map(min, _USUAL, most)), "max": most}
    options = {"trt_fp16_enable": "True", "trt_layer_norm_fp32_fallback": "True"}
    for name, (rows, length) in profile.items():
        options[f"trt_profile_{name}_shapes"] = f"input_ids:{rows}x{length},attention_mask:{rows}x{length}"
    parts = [model.tensors_sha256, onnxruntime_version, _installed_version(), options]
    key = hashlib.sha256(graph.read_bytes() + json.dumps(parts).encode()).hexdigest()
    if folder := _engine_folder(key):
        for kind in ("engine", "timing"):
            options |= {f"trt_{kind}_cache_enable": "True", f"trt_{kind}_cache_path": str(folder)}
    return options


def load_libraries() -> None:
    """Load TensorRT's libraries where pip installed them; onnxruntime loads CUDA's alone. A system's own are found anyway."""
    with suppress(ImportError, OSError):
        importlib.import_module("tensorrt")


def _engine_folder(key: str) -> Path | None:
    """Return a folder that only this user reads, because an engine is code; None, and a warning, where there cannot be one."""
    try:
        folder = cache_folder() / "tensorrt" / key
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except (OSError, RuntimeError) as error:  # RuntimeError: no home
        _log.warning("TensorRT compiles anew in each process (%s); set XDG_CACHE_HOME to a folder of your own", error)
        return None
    return folder


def _installed_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    for package in ("tensorrt-cu13", "tensorrt"):
        with suppress(PackageNotFoundError):
            return version(package)
    return "the system's"
