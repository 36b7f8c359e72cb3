"""OpenVINO's own runtime on NNCF's static int8, without sentence-transformers around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nncf_int8
from padded import Floats, Inputs, Padded


def load(folder: str, *, checkpoint: str, streams: int, batch_size: int) -> Padded:
    """Load the int8 model that with_sentence_transformers.py built, with so many streams: batches that run side by side."""
    import openvino as ov

    hint = {"PERFORMANCE_HINT": "LATENCY"} if streams == 1 else {"NUM_STREAMS": str(streams)}
    compiled = ov.Core().compile_model(Path(folder) / "openvino" / nncf_int8.QUANTIZED, "CPU", hint)
    system = _Streams(checkpoint, compiled, batch_size) if streams > 1 else _one(checkpoint, compiled, batch_size)
    system.details |= nncf_int8.describe(compiled) | {"dtype": "int8"}
    return system


def _named(compiled: Any, inputs: Inputs) -> Inputs:
    names = {name for port in compiled.inputs for name in port.get_names()}
    return {name: array for name, array in inputs.items() if name in names}


def _one(checkpoint: str, compiled: Any, batch_size: int) -> Padded:
    request = compiled.create_infer_request()
    return Padded(checkpoint, lambda inputs: request.infer(_named(compiled, inputs))[0], batch_size)


def _not_run(inputs: Inputs) -> Floats:
    raise NotImplementedError("batches run in streams, in encode_batches")


class _Streams(Padded):
    def __init__(self, checkpoint: str, compiled: Any, batch_size: int) -> None:
        super().__init__(checkpoint, _not_run, batch_size)
        self._compiled = compiled

    def encode_batches(self, batches: list[list[list[int]]]) -> list[Floats]:
        import openvino as ov

        vectors: dict[int, Floats] = {}

        def take(request: Any, job: tuple[int, Any]) -> None:
            place, mask = job
            vectors[place] = self.pool(request.get_output_tensor(0).data, mask)

        jobs = ov.AsyncInferQueue(self._compiled)
        jobs.set_callback(take)
        for place, batch in enumerate(batches):
            inputs = self.pad(batch)
            jobs.start_async(_named(self._compiled, inputs), (place, inputs["attention_mask"]))
        jobs.wait_all()
        return [vectors[i] for i in range(len(batches))]
