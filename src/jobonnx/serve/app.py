"""The ASGI application: who may call, what is said about a call, and how errors look. The routes do the rest.

One plain ASGI callable and no stack of middleware: a title takes about 1 ms with the small model, and each layer costs some.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.routing import Route, Router

from jobonnx.encoder import Encoder
from jobonnx.errors import Stopped
from jobonnx.serve.http import Bodies, Call, ClientLeftError, HttpError, Reply
from jobonnx.serve.logs import Log
from jobonnx.serve.metrics import Metrics
from jobonnx.serve.operation import Operation
from jobonnx.serve.routes import Routes
from jobonnx.serve.service import Service
from jobonnx.serve.settings import ServeSettings
from jobonnx.serve.tracing import Spans

_LEFT = 499  # nginx's status for a client that closed the connection
_QUIET = {"/health", "/ready", "/metrics"}  # probes, which would drown the log


class App:
    """The service over HTTP."""

    def __init__(self, encoder: Encoder, settings: ServeSettings, log: Log, spans: Spans | None = None) -> None:
        """Open the index; nothing is computed yet.

        Args:
            encoder: the model.
            settings: what an operator decides.
            log: for a line per request.
            spans: is told of every request but the probes'; None for no traces.

        Raises:
            JobonnxError: there is no index where the settings say, or its vectors are of another encoder.
        """
        self.settings, self._log, self._spans = settings, log, spans
        self.metrics = Metrics()
        self.service = Service(encoder, settings, self.metrics, log)
        self._bodies = Bodies()
        self._key = None if settings.api_key is None else _digest(settings.api_key.encode())
        operations = Routes(self.service).operations()
        self._router = Router([_route(operation) for operation in operations], redirect_slashes=False)
        self._open = {operation.path for operation in operations if operation.open}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request, or start and stop with the server."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"{scope['type']} is not served")
        call = Call(scope, receive, self._bodies)
        scope["app"], scope["jobonnx.call"] = self, call
        try:
            reply = await self._reply(call, scope, receive, send)
        except ClientLeftError:
            self.metrics.left.inc()
            self._done(call, _LEFT)
            return
        reply.headers["x-request-id"] = call.id
        self._allow_origin(call, reply)
        try:
            await _send(call, reply, send)
        finally:
            self._done(call, reply.status)

    async def _reply(self, call: Call, scope: Any, receive: Any, send: Any) -> Reply:
        """Call the route; every failure becomes a reply, and no trace of the stack leaves."""
        try:
            if scope["method"] == "OPTIONS" and self.settings.cors_origins:
                return Reply(b"", 204, headers={"Access-Control-Allow-Methods": "GET, POST", "Access-Control-Max-Age": "600"})
            self._check_key(call)
            await self._router(scope, receive, send)
            reply: Reply = scope["jobonnx.reply"]
            return reply
        except HttpError as error:
            return error.reply()
        except HTTPException as error:  # the router's
            headers = dict(error.headers or {})
            message = f"{scope['method']} {scope['path'][:200]}: {HTTPStatus(error.status_code).phrase}; /docs lists the routes"
            return HttpError(error.status_code, message, headers=headers).reply()
        except (ClientLeftError, asyncio.CancelledError):
            raise
        except BaseException as error:  # a panic of native code is no Exception
            if isinstance(error, SystemExit | KeyboardInterrupt | Stopped):
                raise
            self._log.error("a request failed", error, request=call.id)
            return HttpError(500, _internal(call)).reply()

    def _check_key(self, call: Call) -> None:
        if self._key is None or call.scope["path"] in self._open:
            return
        given = call.header(b"authorization") or b""
        scheme, _, key = given.partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(_digest(key.strip()), self._key):
            message = "the API key is missing or wrong; send it as Authorization: Bearer KEY"
            raise HttpError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})

    def _allow_origin(self, call: Call, reply: Reply) -> None:
        if not self.settings.cors_origins:
            return
        origin = (call.header(b"origin") or b"").decode("latin-1")
        if origin and (origin in self.settings.cors_origins or "*" in self.settings.cors_origins):
            reply.headers["Access-Control-Allow-Origin"] = origin
            reply.headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type, X-Request-Id"
            reply.headers["Access-Control-Expose-Headers"] = "Server-Timing, X-Request-Id, Retry-After"
            reply.headers["Vary"] = "Origin"

    def _done(self, call: Call, status: int) -> None:
        seconds = time.monotonic() - call.started
        self.metrics.requests.labels(call.route, str(status)).inc()
        self.metrics.request_seconds.labels(call.route).observe(seconds)
        if call.route not in _QUIET:
            if self._spans is not None:
                self._spans.record(call, status)
            self._log.line(
                "request",
                request=call.id,
                method=call.scope["method"],
                route=call.route,
                status=status,
                ms=round(1000 * seconds, 2),
                titles=call.titles,
                tokens=call.tokens,
                cache_hits=call.hits,
            )

    async def _lifespan(self, receive: Any, send: Any) -> None:
        await receive()
        self.service.start(asyncio.get_running_loop())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.service.stop()
        await send({"type": "lifespan.shutdown.complete"})


class _Endpoint:
    """A route's handler as the router calls it. The reply goes back through the scope, and is sent in one place."""

    def __init__(self, operation: Operation) -> None:
        self._operation = operation

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        call: Call = scope["jobonnx.call"]
        call.route = self._operation.path
        scope["jobonnx.reply"] = await self._operation.handler(call)


def _route(operation: Operation) -> Route:
    return Route(operation.path, _Endpoint(operation), methods=[operation.method], name=f"{operation.method} {operation.path}")


async def _send(call: Call, reply: Reply, send: Any) -> None:
    headers = [(name.lower().encode(), value.encode()) for name, value in reply.headers.items()]
    headers.append((b"content-type", reply.content_type.encode()))
    headers.append((b"server-timing", call.server_timing().encode()))
    if isinstance(reply.body, bytes):
        headers.append((b"content-length", b"%d" % len(reply.body)))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    if isinstance(reply.body, bytes):
        await send({"type": "http.response.body", "body": reply.body})
        return
    for part in reply.body:
        await send({"type": "http.response.body", "body": part, "more_body": True})
        await asyncio.sleep(0)  # others' turn
    await send({"type": "http.response.body", "body": b""})


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()  # of equal length, so that the comparison tells nothing, not even that


def _internal(call: Call) -> str:
    return f"the request failed; the service's log says why under request {call.id}"
