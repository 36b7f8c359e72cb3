"""What the bare peers share: texts sorted by length, padded in batches, pooled and normalised as the checkpoint says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float32]]
Inputs = dict[str, np.ndarray[Any, np.dtype[np.int64]]]
Run = Callable[[Inputs], Floats]


class Padded:
    """A system around `run`: padded int64 inputs [batch, sequence] -> hidden states [batch, sequence, dimension]."""

    def __init__(self, checkpoint: str, run: Run, batch_size: int) -> None:
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        pooling = json.loads((Path(checkpoint) / "1_Pooling" / "config.json").read_text())
        self._cls = pooling["pooling_mode_cls_token"]
        limits = json.loads((Path(checkpoint) / "sentence_bert_config.json").read_text())
        self._max_tokens = limits["max_seq_length"]
        self._run = run
        self._batch_size = batch_size
        self.computed_tokens = 0
        self.details: dict[str, Any] = {"batch_size": batch_size}

    def encode(self, texts: list[str]) -> Floats:
        rows = self._tokenizer(texts, truncation=True, max_length=self._max_tokens)["input_ids"]
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        batches = [order[i : i + self._batch_size] for i in range(0, len(order), self._batch_size)]
        vectors = np.concatenate(self.encode_batches([[rows[i] for i in batch] for batch in batches]))
        result = np.empty_like(vectors)
        result[order] = vectors
        return result

    def encode_batches(self, batches: list[list[list[int]]]) -> list[Floats]:
        return [self.pool(self._run(inputs), inputs["attention_mask"]) for inputs in map(self.pad, batches)]

    def pad(self, rows: list[list[int]]) -> Inputs:
        padded = self._tokenizer.pad({"input_ids": rows}, return_tensors="np")
        self.computed_tokens += padded["input_ids"].size
        return {name: padded[name].astype(np.int64) for name in ("input_ids", "attention_mask")}

    def pool(self, states: Floats, mask: Any) -> Floats:
        if self._cls:
            vectors = states[:, 0]
        else:
            weights = mask[:, :, None].astype(np.float32)
            vectors = (states * weights).sum(axis=1) / weights.sum(axis=1)
        unit: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return unit
