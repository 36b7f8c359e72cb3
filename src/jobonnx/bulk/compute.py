"""Titles to records: in this process, or in several others, each with an encoder of its own."""

from __future__ import annotations

import multiprocessing
import queue
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from jobonnx.arrays import Bools
from jobonnx.bulk.records import Bytes, Records
from jobonnx.errors import JobonnxError, reason

if TYPE_CHECKING:
    from jobonnx.encoder import Encoder

Advance = Callable[[int], object]


@dataclass(frozen=True)
class Computed:
    """Records of titles, in their order, uint8 [n, width]; and the CPU seconds that another process took for them."""

    records: Bytes
    cpu_seconds: float = 0.0


class Compute(Protocol):
    """What computes."""

    depth: int  # calls that have to be under way for it to be busy

    def submit(self, texts: list[str], advance: Advance) -> Future[Computed]:
        """Begin to compute the records of texts; `advance` is told how many more are done, if anybody knows."""

    def close(self) -> None:
        """Stop, without waiting for what is under way."""


class Embedder:
    """An encoder that gives records."""

    def __init__(self, encoder: Encoder, dtype: str) -> None:
        self.encoder = encoder
        self.layout = Records(dtype, encoder.dimension)

    def tokenize(self, texts: Sequence[str]) -> tuple[list[list[int]], Bools]:
        """Return the token ids of texts, and which of these were truncated, bool [texts]."""
        rows = self.encoder.tokenize(texts)
        most = self.encoder.max_seq_length
        truncated = np.fromiter((len(row) >= most for row in rows), bool, len(rows))
        if full := np.flatnonzero(truncated).tolist():  # as long as the limit, or longer: one token more tells
            longer = self.encoder.tokenizer.with_limit(most + 1).encode([texts[place] for place in full])
            truncated[full] = [len(row) > most for row in longer]
        return rows, truncated

    def compute(self, rows: Sequence[Sequence[int]], truncated: Bools, advance: Advance = lambda rows: None) -> Bytes:
        """Return the records of rows of token ids, uint8 [rows, width]."""
        return self.layout.pack(self.encoder.engine.encode(rows, advance=advance), truncated)

    def __call__(self, texts: Sequence[str]) -> Computed:
        """Return the records of texts."""
        start = time.process_time()
        records = self.compute(*self.tokenize(texts))
        return Computed(records, time.process_time() - start)


class Here:
    """Compute in this process: texts are tokenised while those before them are computed."""

    depth = 1

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._pool = ThreadPoolExecutor(1, "jobonnx-compute")

    def submit(self, texts: list[str], advance: Advance) -> Future[Computed]:
        """Tokenise, and begin to compute."""
        rows, truncated = self._embedder.tokenize(texts)
        return self._pool.submit(lambda: Computed(self._embedder.compute(rows, truncated, advance)))

    def close(self) -> None:
        """Stop."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class Workers:
    """Compute in processes of their own. One that dies is replaced once for each call, so that a kill costs only its work."""

    def __init__(self, count: int, options: Mapping[str, Any], dtype: str) -> None:
        """Start the processes.

        Args:
            count: how many.
            options: `Encoder`'s arguments.
            dtype: of the vectors.
        """
        self.depth = count
        self._start = (dict(options), dtype)
        self._calls: queue.SimpleQueue[tuple[list[str], Advance, Future[Computed]] | None] = queue.SimpleQueue()
        self._closed = False
        self._processes: list[Any] = []
        for _ in range(count):
            threading.Thread(target=self._serve, name="jobonnx-worker", daemon=True).start()

    @property
    def pids(self) -> list[int]:
        """The ids of the processes that live."""
        return [process.pid for process in self._processes if process.is_alive()]

    def submit(self, texts: list[str], advance: Advance) -> Future[Computed]:
        """Give texts to the first process that is free."""
        future: Future[Computed] = Future()
        self._calls.put((texts, advance, future))
        return future

    def close(self) -> None:
        """End the processes."""
        self._closed = True
        for _ in range(self.depth):
            self._calls.put(None)
        for process in self._processes:
            process.kill()

    def _serve(self) -> None:
        """Keep one process alive, and give it one call after the other."""
        process, pipe = None, None
        while (call := self._calls.get()) is not None:
            texts, advance, future = call
            for attempt in (1, 2):
                if process is None or not process.is_alive():
                    process, pipe = self._launch()
                try:
                    assert pipe is not None
                    pipe.send(texts)
                    answer = pipe.recv()
                except (EOFError, OSError):
                    process.join()
                    if self._closed or attempt == 2:
                        code = process.exitcode
                        died = "was killed" if code == -9 else f"ended with status {code}"
                        future.set_exception(
                            JobonnxError(f"a worker {died} twice on the same titles; free some memory, or take fewer --workers")
                        )
                        break
                    process = None
                    continue
                if isinstance(answer, Computed):
                    advance(len(texts))
                    future.set_result(answer)
                else:
                    future.set_exception(JobonnxError(answer))
                break

    def _launch(self) -> tuple[Any, Any]:
        context = multiprocessing.get_context("spawn")  # onnxruntime's threads do not survive a fork
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, *self._start), daemon=True)
        process.start()
        theirs.close()
        self._processes.append(process)
        return process, ours


def _work(pipe: Any, options: dict[str, Any], dtype: str) -> None:
    """Be a worker: texts in, records out, until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches it too; it ends when its parent does
    from jobonnx.encoder import Encoder

    try:
        embedder: Embedder | str = Embedder(Encoder(**options), dtype)
    except Exception as error:  # told when the first texts come
        embedder = reason(error)
    while True:
        try:
            texts = pipe.recv()
        except EOFError:
            return
        try:
            answer = embedder if isinstance(embedder, str) else embedder(texts)
        except Exception as error:  # a failing batch is no reason to die
            answer = reason(error)
        try:
            pipe.send(answer)
        except OSError:
            return
