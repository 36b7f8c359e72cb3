"""One method of one path: what the router calls, and what /docs says about it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from jobonnx.serve.http import Call, Reply


@dataclass(frozen=True)
class Operation:
    """One method of one path.

    Attributes:
        handler: makes the reply.
        summary: what it is for, for /docs.
        request: what the body holds; None for none.
        response: what the reply holds; None for what is no JSON schema of ours.
        open: whether it needs no API key.
    """

    method: str
    path: str
    handler: Callable[[Call], Awaitable[Reply]]
    summary: str
    request: type | None = None
    response: Any = None
    open: bool = False
