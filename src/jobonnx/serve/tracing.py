"""Spans of requests for OpenTelemetry, by its own SDK. The OTEL_* variables configure it; without them nothing is imported.

A request's span is made when the reply is sent, with the times that were taken on the way: on the way itself it costs nothing.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from jobonnx import __version__
from jobonnx.errors import JobonnxError
from jobonnx.serve.http import Call

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_ASKED = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_NANO = 1_000_000_000


class Spans:
    """Makes a span of every request, and one of each of its stages: tokenize, queue, compute, search. No title is in any."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry import propagate, trace

        self._provider = provider
        self._tracer = provider.get_tracer("jobonnx.serve", __version__)
        self._extract, self._trace = propagate.extract, trace

    def record(self, call: Call, status: int) -> None:
        """Make the spans of a request that has ended, under the client's trace if it sent one.

        Args:
            call: the request.
            status: of the reply.
        """
        kind = self._trace.SpanKind.SERVER
        carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in call.scope["headers"]}
        method = call.scope["method"]
        now, clock = time.time_ns(), time.monotonic()

        def moment(seconds: float) -> int:
            return now - int((clock - seconds) * _NANO)

        attributes = {
            "http.request.method": method,
            "http.route": call.route,
            "http.response.status_code": status,
            "jobonnx.request_id": call.id,
            "jobonnx.titles": call.titles,
            "jobonnx.tokens": call.tokens,
            "jobonnx.cache_hits": call.hits,
        }
        context, name, start = self._extract(carrier), f"{method} {call.route}", moment(call.started)
        span = self._tracer.start_span(name, context, kind, attributes, start_time=start)
        if status >= 500:
            span.set_status(self._trace.StatusCode.ERROR)
        inside = self._trace.set_span_in_context(span)
        for stage, (begin, seconds) in call.stages.items():
            child = self._tracer.start_span(stage, inside, start_time=moment(begin))
            child.end(moment(begin + seconds))
        span.end(now)

    def close(self) -> None:
        """Send what waits."""
        self._provider.shutdown()


def spans_of_environment() -> Spans | None:
    """Make what the OTEL_* variables ask for; None if they ask for no traces.

    Raises:
        JobonnxError: they ask for what is not installed.
    """
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or not any(os.environ.get(name) for name in _ASKED):
        return None
    exporter = os.environ.get("OTEL_TRACES_EXPORTER") or "otlp"
    if exporter == "none":
        return None
    try:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise JobonnxError(
            f'the OTEL_ variables ask for traces, and {error.name} is not here; install it: pip install "jobonnx[serve-otel]", '
            "or set OTEL_SDK_DISABLED=true"
        ) from None
    there = trace.get_tracer_provider()
    if isinstance(there, TracerProvider):  # opentelemetry-instrument has made one
        return Spans(there)
    name = os.environ.get("OTEL_SERVICE_NAME")
    provider = TracerProvider(resource=Resource.create({} if name else {SERVICE_NAME: "jobonnx"}))
    provider.add_span_processor(BatchSpanProcessor(_exporter(exporter)))
    return Spans(provider)


def _exporter(name: str) -> Any:
    from importlib.metadata import entry_points  # here, as a start without traces need not wait for it

    protocol = (
        os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "http/protobuf"
    )
    entry = f"otlp_proto_{protocol.partition('/')[0]}" if name == "otlp" else name
    for found in entry_points(group="opentelemetry_traces_exporter", name=entry):
        return found.load()()
    raise JobonnxError(
        f"OTEL_TRACES_EXPORTER and OTEL_EXPORTER_OTLP_PROTOCOL ask for the exporter {entry!r}, which no installed package has; "
        "install it, or leave both out for OTLP over HTTP"
    )
