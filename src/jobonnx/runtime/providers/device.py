"""A GPU and the way to it: buffers that stay there, few shapes, and one thread that makes every call."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from jobonnx.text.batching import LAUNCH_TOKENS, Integers, bucket, fill

Floats = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class _Buffers:
    """What one shape keeps on the device. A captured CUDA graph reads and writes these addresses, so they never change."""

    ids: Any  # int64 [rows, length]
    mask: Any  # the same
    vectors: Any  # float32 [rows, dimension]
    binding: Any  # of all three
    options: Any  # which CUDA graph is this shape's; None where none are captured


class Device:
    """An onnxruntime session with inputs and output bound on its device. `run` may be called from many threads at once.

    Every call is made by one thread of its own. Callers would have to take turns anyway, as a shape has one set of buffers and
    onnxruntime captures with a lock on the whole device; and it keeps captured graphs and cuDNN's plans for each thread, so a
    caller in a new thread would wait for them to be made once more.
    """

    def __init__(
        self, ort: Any, session: Any, device: str, pad_id: int, max_rows: int | None = None, captures: bool = False
    ) -> None:
        """Bind nothing yet.

        Args:
            ort: the onnxruntime module.
            session: an InferenceSession of an engine graph.
            device: onnxruntime's name of it: "cuda", or "cpu" for tests.
            pad_id: the token id that positions are not counted over.
            max_rows: a larger batch runs in parts of so many rows, a power of two.
            captures: whether small shapes run as CUDA graphs; the session has to have been opened with enable_cuda_graph.
        """
        self._ort, self._session, self._device = ort, session, device
        self._pad_id, self._max_rows, self._captures = pad_id, max_rows, captures
        self._output: str = session.get_outputs()[0].name
        self._dimension: int = session.get_outputs()[0].shape[1]
        self._buffers: dict[tuple[int, int], _Buffers] = {}
        self._thread = ThreadPoolExecutor(1, "jobonnx-device")

    def run(self, input_ids: Integers, attention_mask: Integers) -> Floats:
        """int64 [batch, sequence] ids and mask -> float32 [batch, dimension], computed in the shape of their bucket."""
        return self._thread.submit(self._run, input_ids, attention_mask).result()

    def _run(self, ids: Integers, mask: Integers) -> Floats:
        step = self._max_rows or max(1, len(ids))
        vectors = np.empty((len(ids), self._dimension), np.float32)
        for start in range(0, len(ids), step):
            part = slice(start, start + step)
            rows = len(vectors[part])
            shape = bucket(rows, ids.shape[1])
            buffers = self._buffers.get(shape) or self._allocate(shape)
            more_ids, more_mask = fill(ids[part], mask[part], *shape, self._pad_id)
            buffers.ids.update_inplace(more_ids)
            buffers.mask.update_inplace(more_mask)
            self._session.run_with_iobinding(buffers.binding, buffers.options)
            vectors[part] = buffers.vectors.numpy()[:rows]
        return vectors

    def _allocate(self, shape: tuple[int, int]) -> _Buffers:
        def empty(dimensions: tuple[int, int], kind: Any) -> Any:
            return self._ort.OrtValue.ortvalue_from_shape_and_type(dimensions, kind, self._device)

        ids, mask, vectors = empty(shape, np.int64), empty(shape, np.int64), empty((shape[0], self._dimension), np.float32)
        binding = self._session.io_binding()
        binding.bind_ortvalue_input("input_ids", ids)
        binding.bind_ortvalue_input("attention_mask", mask)
        binding.bind_ortvalue_output(self._output, vectors)
        options = None
        if self._captures:
            # onnxruntime replays what it captured under a number without a look at the shape, so each shape has its own. 0 is
            # taken, and -1 runs without: computing a larger batch hides the launching, which is all that a graph saves.
            small = shape[0] * shape[1] <= LAUNCH_TOKENS
            options = self._ort.RunOptions()
            options.add_run_config_entry("gpu_graph_id", str(len(self._buffers) + 1 if small else -1))
        self._buffers[shape] = _Buffers(ids, mask, vectors, binding, options)
        return self._buffers[shape]
