"""The reference that every graph is measured against: the checkpoint in PyTorch, float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jobonnx.arrays import Floats
from jobonnx.errors import native
from jobonnx.text.batching import batch_by_length, pad
from jobonnx_export.checkpoint import Checkpoint

_TOKENS = 1024  # of a batch


class Reference:
    """The checkpoint as transformers runs it, pooled and normalised as sentence-transformers does."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Load the checkpoint.

        Raises:
            JobonnxError: transformers finds wrong what our own checks did not.
        """
        import torch
        from transformers import XLMRobertaModel
        from transformers.utils import logging

        logging.set_verbosity_error()
        self._checkpoint = checkpoint
        with native(f"{checkpoint.transformer}: transformers cannot load it", "download the checkpoint again"):
            self.model = XLMRobertaModel.from_pretrained(
                checkpoint.transformer, add_pooling_layer=False, dtype=torch.float32, attn_implementation="eager"
            ).eval()

    def encode(self, rows: Sequence[Sequence[int]], progress: Callable[[int], None] = lambda rows: None) -> Floats:
        """Run token ids through the model. Texts of one length share a batch, so nothing is padded.

        Args:
            rows: token ids of each text.
            progress: is told the number of texts of each batch that is done.

        Returns:
            Vectors, float32 [rows, hidden], in order.

        Raises:
            JobonnxError: PyTorch fails, for want of memory say.
        """
        vectors = np.empty((len(rows), self._checkpoint.architecture.hidden), dtype=np.float32)
        lengths = [len(row) for row in rows]
        for length in sorted(set(lengths), reverse=True):
            same = [i for i, n in enumerate(lengths) if n == length]
            for batch in batch_by_length([length] * len(same), _TOKENS):
                chosen = [same[i] for i in batch]
                with native(f"{self._checkpoint.transformer}: PyTorch cannot run it", "free some memory and try again"):
                    vectors[chosen] = self._run([rows[i] for i in chosen])
                progress(len(chosen))
        return vectors

    def round_to_bf16(self) -> None:
        """Compute as a CPU with bf16 does from now on; there is no way back.

        What linear layers and LayerNorms read and write, and their weights, has 8 significant bits; sums stay in float32.
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
        """Run texts of one length: vectors, float32 [rows, hidden]."""
        import torch

        ids, mask = (torch.from_numpy(x) for x in pad(rows, self._checkpoint.architecture.pad_id))
        with torch.inference_mode():
            states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
            x = states[:, 0] if self._checkpoint.pooling == "cls" else states.mean(dim=1)  # nothing is padded
            if self._checkpoint.normalize:
                x = torch.nn.functional.normalize(x, dim=1)
        vectors: Floats = x.numpy()
        return vectors
