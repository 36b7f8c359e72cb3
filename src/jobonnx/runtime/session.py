"""A loaded graph, and the settings it is loaded with."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from jobonnx.arrays import Floats, Ints
from jobonnx.errors import JobonnxError, native
from jobonnx.runtime.forks import keep_for_ever, watch

MOST_THREADS = 1024  # more than any machine has; onnxruntime hangs or dies of some larger numbers
_MOST_TOKENS = 1 << 40  # of a batch: everything is one batch


@dataclass(frozen=True)
class Settings:
    """How a graph runs. Nothing here changes what is computed."""

    provider: str
    threads: int  # in all
    streams: int = 1  # batches side by side in bulk, each on threads / streams threads
    token_budget: int = 2048  # of one batch, padding included
    # Threads that are out of work look for more in a loop before they sleep: faster, and busy for a while after each call.
    spin: bool = True  # False: they sleep at once; docs/decisions/0023-spinning.md chooses the default
    capture: bool = False  # whether small batches are recorded once and replayed, where the provider can

    def __post_init__(self) -> None:
        for name, most in {"threads": MOST_THREADS, "streams": self.threads, "token_budget": _MOST_TOKENS}.items():
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= most:
                raise ValueError(f"{name} {value!r} has to be a whole number from 1 to {most:,}")

    def one_stream(self) -> Settings:
        """Return the settings of each of the streams that run side by side."""
        return replace(self, threads=self.threads // self.streams, streams=1)


class Session:
    """A loaded graph on one provider. `run` may be called from many threads at once."""

    def __init__(self, session: Any, provider: str, threads: int) -> None:
        self._session = session
        self._outputs = [output.name for output in session.get_outputs()][:1]
        self.provider = provider
        self.graph = "the graph"  # what errors call it
        self.threads = threads
        self.block = 0  # titles that are best prepared and encoded at a time; 0 for all at once
        self.open_again: Callable[[], Any] | None = None  # for a forked child; None where a library does not survive that either
        self._inherited, self._opening = False, threading.Lock()
        watch(self)

    def run(self, input_ids: Ints, attention_mask: Ints) -> Floats:
        """Run a batch.

        Args:
            input_ids: int64 [batch, sequence].
            attention_mask: int64 [batch, sequence], 1 for real tokens.

        Returns:
            The graph's first output, float32; [batch, dimension] for engine graphs.

        Raises:
            JobonnxError: it fails in the provider's code, for want of memory, say; or it cannot be used after `fork`.
        """
        if self._inherited:
            self._reopen()
        with native(f"{self.graph} failed on provider {self.provider!r}", "free some memory, or give a smaller token budget"):
            return self._run(input_ids, attention_mask)

    def _run(self, input_ids: Ints, attention_mask: Ints) -> Floats:
        result: Floats = self._session.run(self._outputs, {"input_ids": input_ids, "attention_mask": attention_mask})[0]
        return result

    def feed(self, **inputs: Any) -> Any:
        """Run any graph: named inputs -> its first output."""
        with native(f"onnxruntime failed on provider {self.provider!r}", "try smaller batches, or another provider"):
            return self._session.run(self._outputs, inputs)[0]

    def close(self) -> None:
        """End what the session started; it cannot run any more."""

    def leave_behind(self) -> None:
        """Keep what the parent opened, untouched; see `jobonnx.runtime.forks`."""
        keep_for_ever(self._session)
        keep_for_ever(vars(self).copy())  # buffers, threads
        self._inherited, self._opening = True, threading.Lock()

    def _reopen(self) -> None:
        if self.open_again is None:
            fix = "open it in the child, or start processes by spawn"
            raise JobonnxError(
                f"{self.graph} was opened before this process was forked, and provider {self.provider!r} forbids that; {fix}"
            )
        with self._opening, native(f"{self.graph} does not load again in this forked process", "open it in the child itself"):
            if self._inherited:
                self._session = self.open_again()
                self._inherited = False

    @property
    def nodes(self) -> dict[str, int]:
        """How many graph nodes each provider took, after optimisation, by ONNX Runtime's names."""
        counts: dict[str, int] = {}
        for part in self._session.get_provider_graph_assignment_info():
            counts[part.ep_name] = counts.get(part.ep_name, 0) + len(part.get_nodes())
        return counts
