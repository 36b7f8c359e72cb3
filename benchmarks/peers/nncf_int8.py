"""OpenVINO's static int8: NNCF's post-training quantisation of an OpenVINO model, and what a compiled model says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

QUANTIZED = "openvino_model_qint8_quantized.xml"  # the name sentence-transformers gives it
_SUBSET = 300  # NNCF's own default


def quantize(folder: Path, calibration: Path) -> None:
    """Quantise openvino/openvino_model.xml of a sentence-transformers folder, calibrated on a file's titles, into `QUANTIZED`."""
    import nncf
    import openvino as ov
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    titles = calibration.read_text(encoding="utf-8").splitlines()
    model = ov.Core().read_model(folder / "openvino" / "openvino_model.xml")
    names = {name for port in model.inputs for name in port.get_names()}

    def inputs(title: str) -> dict[str, Any]:
        encoded = tokenizer(title, return_tensors="np")
        return {name: encoded[name] for name in names if name in encoded}

    subset = titles[:: max(1, len(titles) // _SUBSET)]
    quantized = nncf.quantize(
        model, nncf.Dataset(subset, inputs), model_type=nncf.ModelType.TRANSFORMER, subset_size=min(_SUBSET, len(subset))
    )
    ov.save_model(quantized, folder / "openvino" / QUANTIZED, compress_to_fp16=False)


def describe(compiled: Any) -> dict[str, Any]:
    """Say what decides its speed, as the compiled model reports it."""
    precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    return {
        "provider": "OpenVINO",
        "dtype": {"bf16": "bf16", "f16": "fp16"}.get(precision, "fp32"),
        "threads": int(compiled.get_property("INFERENCE_NUM_THREADS")),
        "streams": int(compiled.get_property("NUM_STREAMS")),
    }
