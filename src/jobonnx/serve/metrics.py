"""What Prometheus reads, through its own client. Help texts say the unit; a label never holds what a client sent."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from jobonnx.serve.job import Job
from jobonnx.serve.scheduler import Batch

_SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1, 2, 4, 8, 16, 32)
_COUNTS = tuple(1 << power for power in range(13))


class Metrics:
    """The counters of one service, in a registry of their own."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series per counter, which nobody reads
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter("jobonnx_requests", "Requests by route and status", ["route", "status"], registry=registry)
        self.request_seconds = Histogram(
            "jobonnx_request_seconds", "From the headers to the end of the reply", ["route"], buckets=_SECONDS, registry=registry
        )
        self._stages = {
            name: Histogram(f"jobonnx_{name}_seconds", meaning, buckets=_SECONDS, registry=registry)
            for name, meaning in {
                "tokenize": "From a request's arrival to its token ids",
                "queue": "From there to the first batch that it is part of",
                "compute": "From there to its last vector",
                "search": "Nearest titles of a /match request",
            }.items()
        }
        self.batch_tokens = Histogram("jobonnx_batch_tokens", "Real tokens of a batch", buckets=_COUNTS, registry=registry)
        self.batch_titles = Histogram("jobonnx_batch_titles", "Titles of a batch", buckets=_COUNTS, registry=registry)
        self.batch_seconds = Histogram("jobonnx_batch_seconds", "One call of the engine", buckets=_SECONDS, registry=registry)
        self.tokens = Counter("jobonnx_tokens", "Tokens computed: real, and with padding", ["kind"], registry=registry)
        self.failures = Counter("jobonnx_batch_failures", "Calls of the engine that failed", registry=registry)
        self.titles = Counter("jobonnx_titles", "Titles asked for, repeats counted", registry=registry)
        self.hits = Counter("jobonnx_cache_hits", "Titles whose vector was in the cache, repeats counted", registry=registry)
        self.left = Counter("jobonnx_clients_left", "Requests whose client left before the reply", registry=registry)
        self.reopened = Counter("jobonnx_index_reopened", "Replaced indexes by outcome", ["outcome"], registry=registry)
        self._real, self._padded = self.tokens.labels("real"), self.tokens.labels("padded")

    def gauge(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        """Add a gauge that is asked for its value when Prometheus reads."""
        Gauge(f"jobonnx_{name}", meaning, registry=self.registry).set_function(value)

    def information(self, **labels: str) -> None:
        """Add the gauge `jobonnx_info`, always 1, with what runs as labels."""
        Gauge("jobonnx_info", "What runs", list(labels), registry=self.registry).labels(**labels).set(1)

    def batch(self, batch: Batch) -> None:
        """Count a batch; on the compute thread."""
        if batch.failed:
            self.failures.inc()
            return
        self.batch_tokens.observe(batch.tokens)
        self.batch_titles.observe(batch.titles)
        self.batch_seconds.observe(batch.seconds)
        self._real.inc(batch.tokens)
        self._padded.inc(batch.padded_tokens)

    def job(self, job: Job) -> dict[str, tuple[float, float]]:
        """Count a job that has its vectors; return when each of its stages began, and their seconds."""
        if job.hits:
            self.hits.inc(job.hits)
        self.titles.inc(len(job))
        if not job.finished or job.ready == 0.0:  # all of it was in the cache
            return {}
        ready = job.ready or job.submitted
        started = max(job.started or ready, ready)
        stages = {
            "tokenize": (job.submitted, ready - job.submitted),
            "queue": (ready, started - ready),
            "compute": (started, job.finished - started),
        }
        for name, (_, seconds) in stages.items():
            self.stage(name, seconds)
        return stages

    def stage(self, name: str, seconds: float) -> None:
        """Count the seconds of a stage."""
        self._stages[name].observe(max(0.0, seconds))

    def text(self) -> bytes:
        """Return everything in Prometheus's format."""
        return generate_latest(self.registry)
