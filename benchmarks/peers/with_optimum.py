"""optimum's ORTModel on the ONNX file of sentence-transformers' export, with transformers' tokenizer."""

from __future__ import annotations

from padded import Floats, Inputs, Padded


def load(folder: str, *, checkpoint: str) -> Padded:
    """Load folder/onnx/model.onnx, which with_sentence_transformers.py built."""
    from optimum.onnxruntime import ORTModelForFeatureExtraction

    model = ORTModelForFeatureExtraction.from_pretrained(
        folder, subfolder="onnx", file_name="model.onnx", provider="CPUExecutionProvider"
    )

    def run(inputs: Inputs) -> Floats:
        states: Floats = model(**inputs).last_hidden_state
        return states

    system = Padded(checkpoint, run, batch_size=32)
    system.details |= {"dtype": "fp32", "provider": "CPUExecutionProvider"}
    return system
