"""Compute on a Ray cluster: the process that was called reads, looks up and writes; actors of Ray Data compute.

So the journal, the map and the output are the same as on one machine, and only new titles and their vectors travel.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from typing import Any

import numpy as np

from jobonnx.bulk.compute import Advance, Computed, Embedder
from jobonnx.bulk.records import Records
from jobonnx.errors import JobonnxError, reason

_PATIENCE = 20  # seconds


class EmbedTitles:
    """For Ray jobs of your own: adds the column "vector" to batches that have a column of titles.

    Each actor loads the bundle once:

        ds.map_batches(EmbedTitles, fn_constructor_kwargs={"column": "title", "bundle": "..."}, concurrency=4, num_cpus=2)
    """

    def __init__(self, column: str, **options: Any) -> None:
        """Load a bundle.

        Args:
            column: of the titles.
            options: `Encoder`'s arguments; `threads` should be the actor's `num_cpus`.
        """
        from jobonnx.encoder import Encoder

        self._column, self._encoder = column, Encoder(**options)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Add the vectors, float32 [rows, dimension], to a batch of numpy arrays."""
        return {**batch, "vector": self._encoder.encode([str(title) for title in batch[self._column]])}


class _Actor:
    """What computes for `Cluster`: calls in, records out."""

    def __init__(self, options: dict[str, Any], dtype: str) -> None:
        from jobonnx.encoder import Encoder

        self._embedder = Embedder(Encoder(**options), dtype)

    def __call__(self, batch: Any) -> Any:
        """Turn a row of a call and its texts into one of the call and its records; rows, because Ray Data cuts and joins tables."""
        import pyarrow as pa

        computed = [self._embedder(texts) for texts in batch["texts"].to_pylist()]
        content = pa.array([one.records.tobytes() for one in computed], pa.large_binary())
        return pa.table({"call": batch["call"], "records": content, "seconds": [one.cpu_seconds for one in computed]})


class _Calls:
    """An actor beside the caller that holds calls until they are answered. Asking again for one gives it again."""

    def __init__(self) -> None:
        import asyncio

        self._texts: dict[int, list[str] | None] = {}
        self._changed = asyncio.Condition()

    async def put(self, call: int, texts: list[str] | None) -> None:
        """Add a call; None ends them."""
        async with self._changed:
            self._texts[call] = texts
            self._changed.notify_all()

    async def get(self, call: int) -> list[str] | None:
        """Wait for a call."""
        async with self._changed:
            await self._changed.wait_for(lambda: call in self._texts)
            return self._texts[call]

    async def forget(self, call: int) -> None:
        """Keep nothing of a call that was answered; if its task is run again, its answer is not needed."""
        self._texts[call] = []


class Cluster:
    """Compute on a Ray cluster."""

    def __init__(self, address: str, actors: int, options: Mapping[str, Any], layout: Records, gpus: float = 0.0) -> None:
        """Connect, and start the actors.

        Args:
            address: of the cluster, as `ray.init` takes it; "local" for one that ends with this process.
            actors: how many compute.
            options: `Encoder`'s arguments; each actor asks for `threads` CPUs.
            layout: of the records.
            gpus: that each actor asks for.

        Raises:
            JobonnxError: Ray is not installed, or there is no cluster.
        """
        try:
            import ray
            import ray.data
        except ImportError as error:
            raise JobonnxError(f'--ray needs Ray ({reason(error)}); install it: pip install "jobonnx[ray]"') from None
        self.depth = actors
        self._layout, self._ray = layout, ray
        self._waiting: dict[int, tuple[Future[Computed], Advance, int]] = {}
        self._lock = threading.Lock()
        self._count = 0
        self._error: JobonnxError | None = None
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", ignore_reinit_error=True)
        except Exception as error:  # what Ray raises here has no common base
            raise JobonnxError(f"no Ray cluster answers at {address} ({reason(error)}); start one: ray start --head") from None
        for name in ("ray", "ray.data"):  # it logs plans and warnings; what fails is raised
            logging.getLogger(name).setLevel(logging.CRITICAL)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.target_max_block_size = 1  # bytes: a call goes to an actor at once, and is not kept until there are more
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._calls: Any = ray.remote(_Calls).options(num_cpus=0, scheduling_strategy=here).remote()
        resources = {"num_gpus": gpus} if gpus else {"num_cpus": options["threads"]}
        source = ray.data.read_datasource(_source(self._calls, here), override_num_blocks=1, num_cpus=0)
        made = source.map_batches(
            _Actor,
            batch_size=1,
            batch_format="pyarrow",
            fn_constructor_args=(dict(options), layout.dtype),
            compute=ray.data.ActorPoolStrategy(size=actors),
            **resources,
        )
        self._thread = threading.Thread(target=self._collect, args=(made,), name="jobonnx-ray", daemon=True)
        self._thread.start()

    def submit(self, texts: list[str], advance: Advance) -> Future[Computed]:
        """Give texts to the cluster."""
        future: Future[Computed] = Future()
        with self._lock:
            if self._error is not None:
                future.set_exception(self._error)
                return future
            call, self._count = self._count, self._count + 1
            self._waiting[call] = (future, advance, len(texts))
        self._calls.put.remote(call, texts)
        return future

    def close(self) -> None:
        """Leave the cluster, whose actors end then."""
        self._calls.put.remote(self._count, None)
        self._thread.join(_PATIENCE)  # or Ray Data would complain of a cluster that is gone
        self._ray.shutdown()

    def _collect(self, made: Any) -> None:
        """Answer calls as their records come, in whatever order and pieces."""
        try:
            for bundle in made.iter_internal_ref_bundles():
                for reference in bundle.block_refs:
                    self._take(self._ray.get(reference))
            raise JobonnxError("the Ray cluster ended the job; give the same command again: it goes on where it stopped")
        except Exception as error:  # of any actor, or of Ray
            why = error if isinstance(error, JobonnxError) else JobonnxError(f"the Ray cluster failed ({reason(error)}); mend that")
            with self._lock:
                self._error = why
                for future, *_ in self._waiting.values():
                    future.set_exception(why)
                self._waiting.clear()

    def _take(self, block: Any) -> None:
        for row in block.to_pylist():
            with self._lock:
                answered = self._waiting.pop(row["call"], None)
            if answered is None:  # a task that was run again
                continue
            future, advance, titles = answered
            self._calls.forget.remote(row["call"])
            advance(titles)
            records = np.frombuffer(row["records"], np.uint8).reshape(titles, self._layout.width)
            future.set_result(Computed(records, row["seconds"]))


def _source(calls: Any, here: Any) -> Any:
    """Make a source of Ray Data that gives a block for each call, for as long as there are calls."""
    import pyarrow as pa
    from ray.data.block import BlockMetadata
    from ray.data.datasource import Datasource, ReadTask

    def blocks() -> Iterable[Any]:
        import ray

        call = 0
        while (texts := ray.get(calls.get.remote(call))) is not None:
            yield pa.table({"call": [call], "texts": pa.array([texts], pa.list_(pa.string()))})
            call += 1

    class Calls(Datasource):  # type: ignore[misc]  # to mypy, Ray is anything
        """The calls of one job."""

        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, parallelism: int, *args: Any, **options: Any) -> list[Any]:
            metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
            return [ReadTask(blocks, metadata)]

    return Calls()
