"""A session with inputs and output bound on its device: buffers that stay there, few shapes, and threads of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from jobonnx.arrays import Floats, Ints
from jobonnx.runtime.providers.shape_buckets import LAUNCH_TOKENS, bucket, pad_to_shape
from jobonnx.runtime.providers.wheel import import_onnxruntime
from jobonnx.runtime.session import Session, Settings


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

    Threads of its own make every call: ONNX Runtime keeps captured graphs and plans of kernels per thread, so a caller in a new one
    would wait for them to be made once more. There are two, each with buffers of its own, so that one batch computes while another
    is padded or copied. Where batches are captured there is one: ONNX Runtime forbids other runs of the session meanwhile.
    """

    def __init__(
        self,
        session: Any,
        settings: Settings,
        *,
        device: str,
        pad_id: int,
        max_rows: int | None = None,
        shape_of: Callable[[int, int], tuple[int, int]] = bucket,
    ) -> None:
        """Bind nothing yet.

        Args:
            session: an InferenceSession of an engine graph.
            settings: how the session was opened; if it captures, every shape runs as a CUDA graph.
            device: ONNX Runtime's name of the device, "cuda"; "cpu" for tests.
            pad_id: the padding token's id; it gets no position.
            max_rows: a larger batch runs in parts of this many rows, a power of two.
            shape_of: which shape a batch of [rows, length] is padded to.
        """
        super().__init__(session, settings.provider, settings.threads)
        self._device, self._pad_id, self._max_rows, self._captures = device, pad_id, max_rows, settings.capture
        self._shape_of = shape_of
        self._dimension: int = session.get_outputs()[0].shape[1]
        self._buffers: dict[tuple[int, int, int], _Buffers] = {}  # by thread and shape
        self._threads = ThreadPoolExecutor(1 if settings.capture else 2, "jobonnx-device")

    def _run(self, input_ids: Ints, attention_mask: Ints) -> Floats:
        """int64 [batch, sequence] ids and mask -> float32 [batch, dimension], computed in one of few shapes."""
        return self._threads.submit(self._run_in_parts, input_ids, attention_mask).result()

    def close(self) -> None:
        """End the device's threads."""
        self._threads.shutdown()

    def _run_in_parts(self, ids: Ints, mask: Ints) -> Floats:
        if self._max_rows is None or len(ids) <= self._max_rows:
            return self._run_part(ids, mask)
        starts = range(0, len(ids), self._max_rows)
        return np.concatenate([self._run_part(ids[i : i + self._max_rows], mask[i : i + self._max_rows]) for i in starts])

    def _run_part(self, ids: Ints, mask: Ints) -> Floats:
        shape = self._shape_of(*ids.shape)
        mine = (threading.get_ident(), *shape)
        if (buffers := self._buffers.get(mine)) is None:
            buffers = self._buffers[mine] = self._allocate(shape)
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
            # reserves number 0.
            options = ort.RunOptions()
            options.add_run_config_entry("gpu_graph_id", str(len(self._buffers) + 1))
        return _Buffers(ids, mask, vectors, binding, options)


class SmallAndLarge(Session):
    """Captured runs of small batches, and a second session for the large ones, which is opened when the first of them comes.

    Capture saves launching kernels one by one, which takes longer than a small batch's arithmetic; a large one hides it.
    """

    def __init__(self, small: Session, open_large: Callable[[], Session]) -> None:
        """Take an opened session that captures, and how to open one that does not."""
        super().__init__(small._session, small.provider, small.threads)
        self._small, self._open_large = small, open_large
        self._large: Session | None = None

    def _run(self, input_ids: Ints, attention_mask: Ints) -> Floats:
        rows, length = bucket(*input_ids.shape)
        if rows * length <= LAUNCH_TOKENS:
            return self._small._run(input_ids, attention_mask)
        with self._opening:
            if self._large is None:
                self._large = self._open_large()
        return self._large._run(input_ids, attention_mask)

    def close(self) -> None:
        """End the threads of both."""
        self._small.close()
        if self._large is not None:
            self._large.close()
