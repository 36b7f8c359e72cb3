"""The truth that every graph is held against: the checkpoint in PyTorch, float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jobonnx.errors import JobonnxError
from jobonnx.text.batching import batch_by_length, pad
from jobonnx_export.checkpoint import Checkpoint

Floats = np.ndarray[Any, np.dtype[np.float32]]


class Reference:
    """The checkpoint as transformers runs it, pooled and normalised as sentence-transformers does."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        import torch
        from transformers import XLMRobertaModel
        from transformers.utils import logging

        logging.set_verbosity_error()
        self._checkpoint = checkpoint
        try:
            self.model = XLMRobertaModel.from_pretrained(
                checkpoint.transformer, add_pooling_layer=False, dtype=torch.float32, attn_implementation="eager"
            ).eval()
        except Exception as error:  # whatever transformers finds wrong that our own checks did not
            reason = " ".join(str(error).split())[:300]
            raise JobonnxError(f"{checkpoint.transformer}: transformers cannot load it ({reason})") from None

    def encode(self, rows: Sequence[Sequence[int]], progress: Callable[[int], None] = lambda rows: None) -> Floats:
        """Token ids to vectors, float32 [rows, hidden], in order. Texts of one length share a batch, so nothing is padded."""
        vectors = np.empty((len(rows), self._checkpoint.architecture.hidden), dtype=np.float32)
        lengths = [len(row) for row in rows]
        for length in sorted(set(lengths), reverse=True):
            places = [i for i, n in enumerate(lengths) if n == length]
            for batch in batch_by_length([length] * len(places), 1024):
                chosen = [places[i] for i in batch]
                vectors[chosen] = self._run([rows[i] for i in chosen])
                progress(len(chosen))
        return vectors

    def round_to_bf16(self) -> None:
        """From now on, compute as a CPU with bf16 does: what linear layers and LayerNorms read and write, and their weights, has 8
        significant bits; sums stay in float32.
        """
        import torch

        def rounded(x: Any) -> Any:
            return x.to(torch.bfloat16).to(torch.float32)

        for module in self.model.modules():
            if isinstance(module, torch.nn.Linear | torch.nn.LayerNorm):
                module.weight.data = rounded(module.weight.data)
                module.register_forward_pre_hook(lambda module, inputs: (rounded(inputs[0]),))
                module.register_forward_hook(lambda module, inputs, output: rounded(output))

    def _run(self, rows: Sequence[Sequence[int]]) -> Floats:
        import torch

        ids, mask = (torch.from_numpy(x) for x in pad(rows, self._checkpoint.architecture.pad_id))
        with torch.inference_mode():
            states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
            x = states[:, 0] if self._checkpoint.pooling == "cls" else states.mean(dim=1)  # every cell is a real token
            if self._checkpoint.normalize:
                x = torch.nn.functional.normalize(x, dim=1)
        vectors: Floats = x.numpy()
        return vectors
