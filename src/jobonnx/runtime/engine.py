"""Batches of token ids to vectors: one graph on one provider, with its sessions, threads and streams."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jobonnx.arguments import Closing
from jobonnx.arrays import Floats
from jobonnx.bundle.manifest import Model
from jobonnx.errors import JobonnxError
from jobonnx.runtime.forks import StreamPool
from jobonnx.runtime.providers import find_provider
from jobonnx.runtime.session import Session, Settings
from jobonnx.runtime.token_ids import pad_checked


class Engine(Closing):
    """A loaded graph. Safe to share between threads; a context manager, or `close()` it."""

    def __init__(self, graph: Path, model: Model, settings: Settings, variant: str = "") -> None:
        """Load a graph.

        Args:
            graph: the graph file; its external data lies beside it.
            model: what it was made of.
            settings: the provider, and how it runs there.
            variant: its precision, where the graph does not say it: that of fp32 is bf16's too.

        Raises:
            JobonnxError: the provider is not here, or the graph does not load.
        """
        self.model, self.settings, self._closed = model, settings, False
        self._provider = find_provider(settings.provider).for_variant(variant)
        self.session = self._stream = self._provider.open_session(graph, model, settings)
        self._pool: StreamPool | None = None
        if settings.streams > 1:  # the second session shares the mapped file of the weights, not what is packed at load
            self._stream = self._provider.open_session(graph, model, settings.one_stream())
            self._pool = StreamPool(settings.streams)

    def encode(
        self,
        rows: Sequence[Sequence[int]],
        token_budget: int | None = None,
        max_rows: int | None = None,
        advance: Callable[[int], object] = lambda rows: None,
    ) -> Floats:
        """Compute the vectors of any number of rows of token ids, in batches of similar length. A single one has all threads.

        Args:
            rows: token ids, special ones included.
            token_budget: most tokens in a batch, padding included; None for the settings'.
            max_rows: most rows in a batch; None leaves it to the token budget.
            advance: is told how many rows each finished batch had.

        Returns:
            float32 [rows, model dimension], in the order of `rows`.
        """
        budget = self.settings.token_budget if token_budget is None else token_budget
        batches = self._provider.batches([len(row) for row in rows], budget, max_rows)
        vectors = np.empty((len(rows), self.model.dimension), dtype=np.float32)
        session, in_turn = (self.session, map) if self._pool is None or len(batches) == 1 else (self._stream, self._pool.map)
        results = in_turn(lambda batch: self._run(session, [rows[i] for i in batch]), batches)
        for batch, result in zip(batches, results, strict=True):
            vectors[batch] = result
            advance(len(batch))
        return vectors

    def run(self, rows: Sequence[Sequence[int]]) -> Floats:
        """Run one batch of token ids exactly as it is given, in one call of the session: float32 [rows, model dimension].

        Raises:
            ValueError: a row is empty, longer than the model takes, or holds an id that the model does not have.
        """
        return self._run(self.session, rows)

    def close(self) -> None:
        """End threads and sessions; the engine cannot run any more."""
        self._closed = True
        if self._pool is not None:
            self._pool.shutdown()
        self.session.close()
        self._stream.close()

    def _run(self, session: Session, rows: Sequence[Sequence[int]]) -> Floats:
        if self._closed:
            raise JobonnxError("this engine is closed; make a new one")
        if len(rows) == 0:
            return np.empty((0, self.model.dimension), dtype=np.float32)
        return session.run(*pad_checked(rows, self.model))
