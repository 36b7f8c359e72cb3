"""A session with inputs and output bound on its device: buffers that stay there, few shapes, and one thread for every call."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from jobonnx.arrays import Floats, Ints
from jobonnx.runtime.providers.shape_buckets import LAUNCH_TOKENS, bucket, pad_to_shape
from jobonnx.runtime.providers.wheel import import_onnxruntime
from jobonnx.runtime.session import Session


@dataclass(frozen=True)
class _Buffers:
    """What one shape keeps on the device. A captured CUDA graph reads and writes these addresses, so they never change."""

    ids: Any  # int64 [rows, length]
    mask: Any  # the same
    vectors: Any  # float32 [rows, dimension]
    binding: Any  # of all three
    options: Any  # which recording is this shape's; None where none are made


class BoundSession(Session):
    """A session on a GPU. `run` may be called from many threads at once.

    One thread of its own makes every call. Callers would have to take turns anyway: a shape has one set of buffers, and ONNX
    Runtime captures with a lock on the whole device. It also keeps captured graphs and cuDNN's plans per thread, so a caller in a
    new thread would wait for them to be made once more.
    """

    def __init__(
        self,
        session: Any,
        provider: str,
        threads: int,
        *,
        device: str,
        pad_id: int,
        max_rows: int | None = None,
        captures: bool = False,
    ) -> None:
        """Bind nothing yet.

        Args:
            session: an InferenceSession of an engine graph.
            provider: our name of the provider.
            threads: of the session.
            device: ONNX Runtime's name of the device, "cuda"; "cpu" for tests.
            pad_id: the padding token's id; it gets no position.
            max_rows: a larger batch runs in parts of this many rows, a power of two.
            captures: whether small shapes run as CUDA graphs; the session has to have been opened with enable_cuda_graph.
        """
        super().__init__(session, provider, threads)
        self._device, self._pad_id, self._max_rows, self._captures = device, pad_id, max_rows, captures
        self._dimension: int = session.get_outputs()[0].shape[1]
        self._buffers: dict[tuple[int, int], _Buffers] = {}
        self._thread = ThreadPoolExecutor(1, "jobonnx-device")

    def _run(self, input_ids: Ints, attention_mask: Ints) -> Floats:
        """int64 [batch, sequence] ids and mask -> float32 [batch, dimension], computed in the shape of their bucket."""
        return self._thread.submit(self._run_in_parts, input_ids, attention_mask).result()

    def close(self) -> None:
        """End the device's thread."""
        self._thread.shutdown()

    def _run_in_parts(self, ids: Ints, mask: Ints) -> Floats:
        if self._max_rows is None or len(ids) <= self._max_rows:
            return self._run_part(ids, mask)
        starts = range(0, len(ids), self._max_rows)
        return np.concatenate([self._run_part(ids[i : i + self._max_rows], mask[i : i + self._max_rows]) for i in starts])

    def _run_part(self, ids: Ints, mask: Ints) -> Floats:
        shape = bucket(*ids.shape)
        buffers = self._buffers.get(shape) or self._allocate(shape)
        more_ids, more_mask = pad_to_shape(ids, mask, *shape, self._pad_id)
        buffers.ids.update_inplace(more_ids)
        buffers.mask.update_inplace(more_mask)
        self._session.run_with_iobinding(buffers.binding, buffers.options)
        vectors: Floats = buffers.vectors.numpy()[: len(ids)]
        return vectors.copy() if self._device == "cpu" else vectors  # there it is the buffer itself, which the next run overwrites

    def _allocate(self, shape: tuple[int, int]) -> _Buffers:
        ort = import_onnxruntime()

        def empty(dimensions: tuple[int, int], kind: Any) -> Any:
            return ort.OrtValue.ortvalue_from_shape_and_type(dimensions, kind, self._device)

        ids, mask, vectors = empty(shape, np.int64), empty(shape, np.int64), empty((shape[0], self._dimension), np.float32)
        binding = self._session.io_binding()
        binding.bind_ortvalue_input("input_ids", ids)
        binding.bind_ortvalue_input("attention_mask", mask)
        binding.bind_ortvalue_output(self._outputs[0], vectors)
        options = None
        if self._captures:
            # ONNX Runtime replays what it captured under a number without a look at the shape, so each shape has its own. It
            # reserves number 0. Number -1 disables capture; large batches do not need it, because it only saves launch time.
            small = shape[0] * shape[1] <= LAUNCH_TOKENS
            options = ort.RunOptions()
            options.add_run_config_entry("gpu_graph_id", str(len(self._buffers) + 1 if small else -1))
        self._buffers[shape] = _Buffers(ids, mask, vectors, binding, options)
        return self._buffers[shape]
