"""A request and its reply, as the routes see them: ASGI on one side, bytes and statuses on the other."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from jobonnx.serve.settings import BODY_SECONDS, MOST_BODIES_BYTES, MOST_BODY_BYTES

_REQUEST_ID = re.compile(rb"[!-~]{1,128}")
_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class HttpError(Exception):
    """A reply that is an error, in OpenAI's shape.

    Attributes:
        status: of HTTP.
        code: a word for programs.
        param: the field that is wrong.
        headers: more of them.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.headers = status, code, param, dict(headers or {})

    def reply(self) -> Reply:
        """Make the reply."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        body = {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}
        return json_reply(body, self.status, self.headers)


class ClientLeftError(Exception):
    """Nobody waits for the reply any more."""


@dataclass
class Reply:
    """What goes back.

    Attributes:
        body: all of it; or parts, made one by one, so that a large reply neither holds the event loop nor fills the memory.
    """

    body: bytes | Iterator[bytes]
    status: int = 200
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


def json_reply(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """Make a reply of JSON."""
    return Reply(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), status, headers=dict(headers or {}))


class Bodies:
    """How many bytes of requests are arriving at once."""

    def __init__(self) -> None:
        self.bytes = 0


class Call:
    """A request under way, and what will be said about it in logs, metrics and headers.

    Attributes:
        id: the client's, or one of ours.
        route: the path as it stands in the list of routes, for metrics; never what the client sent.
        titles, tokens, hits: what it was about.
        stages: when each stage began, on `time.monotonic`'s clock, and its seconds, for Server-Timing and traces.
    """

    def __init__(self, scope: Any, receive: Any, bodies: Bodies) -> None:
        self.scope, self.receive, self._bodies = scope, receive, bodies
        self.started = time.monotonic()
        self.route = "other"
        self.titles = self.tokens = self.hits = 0
        self.stages: dict[str, tuple[float, float]] = {}
        given = self.header(b"x-request-id")
        self.id = given.decode() if given and _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)

    def header(self, name: bytes) -> bytes | None:
        """Return a header by its name in small letters; None if it is not there."""
        for key, value in self.scope["headers"]:
            if key == name:
                return bytes(value)
        return None

    async def body(self) -> bytes:
        """Read the body.

        Raises:
            HttpError: it is too large, too slow, or too many are arriving at once.
            ClientLeftError: the client has left.
        """
        length = self.header(b"content-length")
        if length is not None and length.isdigit() and int(length[:20]) > MOST_BODY_BYTES:
            raise _too_large()
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while True:
                    message = await self.receive()
                    if message["type"] == "http.disconnect":
                        raise ClientLeftError
                    part = message.get("body", b"")
                    parts.append(part)
                    size += len(part)
                    self._bodies.bytes += len(part)
                    if size > MOST_BODY_BYTES:
                        raise _too_large()
                    if not message.get("more_body", False):
                        return parts[0] if len(parts) == 1 else b"".join(parts)
                    if self._bodies.bytes > MOST_BODIES_BYTES:
                        message = "too many large requests are arriving at once; try again later"
                        raise HttpError(429, message, code="overloaded", headers={"Retry-After": "1", "Connection": "close"})
        except TimeoutError:
            message = f"the body did not arrive within {BODY_SECONDS:.0f} s; send it at once"
            raise HttpError(408, message, headers={"Connection": "close"}) from None
        finally:
            self._bodies.bytes -= size

    def server_timing(self) -> str:
        """Make the header: stages in milliseconds, and the total."""
        stages = [*((name, seconds) for name, (_, seconds) in self.stages.items()), ("total", time.monotonic() - self.started)]
        return ", ".join(f"{name};dur={1000 * seconds:.2f}" for name, seconds in stages)


def _too_large() -> HttpError:
    message = f"the body has more than {MOST_BODY_BYTES:,} bytes; send fewer titles at once"
    return HttpError(413, message, code="too_large", headers={"Connection": "close"})
