"""Run a bundle's graph with ONNX Runtime and tokenizers alone, without jobonnx.

python examples/plain_onnxruntime.py BUNDLE TITLE...

Prompts are left out: a model that has them wants its prompt before each title (manifest.json, model, prompts).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer


def encode(bundle: Path, titles: Sequence[str]) -> Any:
    """Encode titles with the bundle's default variant on the CPU: float32 [titles, dimension]."""
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    variant, model = manifest["default_variant"], manifest["model"]
    path = next(graph["path"] for graph in manifest["graphs"] if (graph["variant"], graph["target"]) == (variant, "cpu"))
    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    tokenizer.enable_truncation(model["max_tokens"])
    tokenizer.enable_padding(pad_id=model["pad_id"])  # on the right
    encoded = tokenizer.encode_batch(list(titles))
    options = onnxruntime.SessionOptions()
    # int8 products overflow on x86 CPUs without VNNI otherwise. On CPUs with VNNI or AMX leave it out: it is slower there.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(str(bundle / path), options, providers=["CPUExecutionProvider"])
    inputs = {"input_ids": [row.ids for row in encoded], "attention_mask": [row.attention_mask for row in encoded]}
    return session.run(["sentence_embedding"], {name: np.array(rows, np.int64) for name, rows in inputs.items()})[0]


if __name__ == "__main__":
    vectors = encode(Path(sys.argv[1]), sys.argv[2:])
    print((vectors @ vectors.T).round(3))  # cosine, where the model normalises
