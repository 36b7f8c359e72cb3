"""Traces: a span per request and stage, by OpenTelemetry's own SDK, and never a title in them."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from jobonnx import Encoder
from jobonnx.errors import JobonnxError
from jobonnx.serve import service as service_module
from jobonnx.serve.app import App
from jobonnx.serve.logs import Log
from jobonnx.serve.scheduler import Pace
from jobonnx.serve.settings import ServeSettings
from jobonnx.serve.tracing import Spans, spans_of_environment

TITLE = "Donaudampfschifffahrtsgesellschaftskapitänin"
TRACE = "0af7651916cd43dd8448eb211c80319c"


async def _post(app: App, path: str, body: bytes, *headers: tuple[bytes, bytes]) -> int:
    messages = [{"type": "http.request", "body": body}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": list(headers), "query_string": b"", "root_path": ""}
    await app(scope, receive, send)
    return int(sent[0]["status"])


async def _session(app: App, *requests: tuple[str, bytes, tuple[tuple[bytes, bytes], ...]]) -> list[int]:
    app.service.start(asyncio.get_running_loop())
    while app.service.scheduler is None:
        await asyncio.sleep(0.005)
    try:
        return [await _post(app, path, body, *headers) for path, body, headers in requests]
    finally:
        await app.service.stop()


@pytest.fixture(scope="module")
def spans(small: Encoder) -> tuple[ReadableSpan, ...]:
    """What two good requests, one of them twice, and a bad one leave."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    app = App(small, ServeSettings(), Log(lambda lines: None), Spans(provider))
    body = f'{{"input": ["{TITLE}", "nurse"]}}'.encode()
    parent = ((b"traceparent", f"00-{TRACE}-b7ad6b7169203331-01".encode()),)
    requests = [("/v1/embeddings", body, parent), ("/v1/embeddings", body, ()), (f"/{TITLE}", b"{", ()), ("/embed", b"{", ())]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(service_module, "warm_up", lambda *arguments: Pace(64))  # no rate, so the built-in titles are left alone
        assert asyncio.run(_session(app, *requests)) == [200, 200, 404, 400]
    return exporter.get_finished_spans()


def test_a_request_is_a_span_with_one_of_each_stage_in_it(spans: tuple[ReadableSpan, ...]) -> None:
    *stages, request, cached, lost, malformed = spans
    assert [stage.name for stage in stages] == ["tokenize", "queue", "compute"]
    assert [span.name for span in (request, cached, lost, malformed)] == [
        *["POST /v1/embeddings"] * 2,
        "POST other",
        "POST /embed",
    ]
    assert request.kind is SpanKind.SERVER
    assert request.context is not None
    assert request.parent is not None
    assert f"{request.context.trace_id:032x}" == TRACE, "the client's trace goes on"
    assert f"{request.parent.span_id:016x}" == "b7ad6b7169203331"
    times = [request.start_time, *(moment for stage in stages for moment in (stage.start_time, stage.end_time)), request.end_time]
    assert all(isinstance(moment, int) for moment in times)
    assert sorted(times, key=lambda moment: moment or 0) == times
    assert abs((request.end_time or 0) / 1e9 - time.time()) < 60
    assert all(stage.parent is not None and stage.parent.span_id == request.context.span_id for stage in stages)
    attributes = dict(request.attributes or {})
    assert attributes["http.route"] == "/v1/embeddings"
    assert attributes["http.response.status_code"] == 200
    assert attributes["jobonnx.titles"] == 2
    assert dict(cached.attributes or {})["jobonnx.cache_hits"] == 2


def test_no_title_and_nothing_else_that_a_client_sent_is_in_a_span(spans: tuple[ReadableSpan, ...]) -> None:
    text = "".join(span.to_json() for span in spans)
    assert "Donau" not in text
    assert "nurse" not in text
    assert all(span.status.status_code is StatusCode.UNSET for span in spans), "a client's mistake is no error of the service"


def test_only_the_standard_variables_turn_traces_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    assert spans_of_environment() is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    found = spans_of_environment()
    assert found is not None
    found.close()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier-pigeon")
    with pytest.raises(JobonnxError, match="otlp_proto_carrier-pigeon"):
        spans_of_environment()
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert spans_of_environment() is None
    monkeypatch.setenv("OTEL_SDK_DISABLED", "false")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    assert spans_of_environment() is None
