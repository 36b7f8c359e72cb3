"""sentence-transformers as its documentation uses it, in torch, ONNX or OpenVINO; see jobonnx_bench/worker.py for adapters."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nncf_int8
import numpy as np

_WEIGHTS = ("*.safetensors", "*.bin")  # the checkpoint's: an ONNX or OpenVINO folder has its own


def build(folder: str, *, step: str, checkpoint: str, calibration: str | None = None) -> None:
    """One step of making a backend's files in `folder`.

    Args:
        folder: a sentence-transformers folder in the making.
        step: "onnx" or "openvino" exports the checkpoint; "onnx-qint8" or "openvino-int8" adds the int8 model to that.
        checkpoint: the folder with the weights.
        calibration: a file of titles, one a line; for "openvino-int8".
    """
    from sentence_transformers import SentenceTransformer, export_dynamic_quantized_onnx_model

    if step in ("onnx", "openvino"):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(checkpoint, folder, ignore=shutil.ignore_patterns(*_WEIGHTS))
        for path in (Path(folder), *Path(folder).rglob("*")):
            path.chmod(path.stat().st_mode | 0o200)  # the checkpoint may be read-only
        model = SentenceTransformer(checkpoint, backend=step, model_kwargs={"export": True}, local_files_only=True, device="cpu")
        model.save_pretrained(folder)
    elif step == "onnx-qint8":
        model = SentenceTransformer(folder, backend="onnx", local_files_only=True, device="cpu")
        export_dynamic_quantized_onnx_model(model, "avx512_vnni", folder)
    else:
        assert calibration is not None
        nncf_int8.quantize(Path(folder), Path(calibration))


def load(folder: str, *, backend: str, dtype: str = "float32", file_name: str | None = None, device: str = "cpu") -> _System:
    """Load a sentence-transformers folder.

    Args:
        folder: the checkpoint for backend "torch", what `build` made for the others.
        backend: "torch", "onnx" or "openvino".
        dtype: "float32", "float16" or "bfloat16", for torch.
        file_name: the model file in the folder, where there are several.
        device: PyTorch's name of where it runs, for torch: "cpu" or "cuda".
    """
    from sentence_transformers import SentenceTransformer

    settings = {"torch_dtype": dtype} if backend == "torch" else {"file_name": file_name} if file_name else {}
    if backend == "onnx":
        settings["provider"] = "CPUExecutionProvider"  # its own choice is the first of the list, which names one for the cloud
    model = SentenceTransformer(folder, backend=backend, model_kwargs=settings, local_files_only=True, device=device)
    details: dict[str, Any] = {
        "backend": backend,
        "dtype": {"bfloat16": "bf16", "float16": "fp16"}.get(dtype, "fp32"),
        "device": device,
    }
    if backend == "torch":
        import torch

        details["threads"] = torch.get_num_threads()
    elif backend == "onnx":
        details["provider"] = model[0].auto_model.providers[0]
    else:
        model[0].auto_model.compile()
        details |= nncf_int8.describe(model[0].auto_model.request)
    if file_name and "qint8" in file_name:
        details["dtype"] = "int8"
    return _System(model, details)


class _System:
    def __init__(self, model: Any, details: dict[str, Any]) -> None:
        self._model = model
        self.details = details
        self.computed_tokens = 0
        model[0].register_forward_pre_hook(self._count)  # sees each batch as it was padded

    def _count(self, module: Any, inputs: Any) -> None:
        self.computed_tokens += inputs[0]["input_ids"].numel()

    def encode(self, texts: list[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        vectors: np.ndarray[Any, np.dtype[np.float32]] = self._model.encode(texts, show_progress_bar=False, convert_to_numpy=True)
        return vectors
