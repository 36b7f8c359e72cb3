"""What an operator decides about the service, and the limits that nobody has to decide about."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MOST_TEXTS = 10_000  # of a request
MOST_CHARACTERS = 8192  # of a text; the model's own limit in tokens cuts far earlier
MOST_BODY_BYTES = 8 << 20  # of a request
MOST_BODIES_BYTES = 64 << 20  # of all requests that are arriving at once
MOST_QUERIES = 256  # of a /match request
MOST_MATCHES = 100  # per title
MOST_WAITING_SEARCHES = 256
BODY_SECONDS = 10.0  # within which a body has to arrive
HEADER_SECONDS = 10.0  # within which a connection has to send a request's headers
MOST_HEADER_BYTES = 64 << 10
KEEP_ALIVE_SECONDS = 75.0  # longer than the 60 s of most proxies, so that it is they who close idle connections
STALLED_SECONDS = 30.0  # work and no progress for so long: /health says so


@dataclass(frozen=True)
class ServeSettings:
    """How the service runs.

    Attributes:
        host, port: where it listens; port 0 takes a free one.
        uds: a Unix socket instead.
        api_key: what clients have to send; None lets everybody in.
        index: a folder made by `jobonnx index`, for /match; None for the built-in titles.
        max_queue_tokens: tokens that may wait or run.
        deadline_ms: a request that is not done after so many milliseconds gets 503; 0 for no deadline.
        cache_mb: megabytes of vectors that are kept.
        accept_token_ids: whether clients may send token ids in place of texts.
        cors_origins: origins whose pages may call the service.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    uds: Path | None = None
    api_key: str | None = None
    index: Path | None = None
    max_queue_tokens: int = 131_072
    deadline_ms: int = 30_000
    cache_mb: int = 64
    accept_token_ids: bool = False
    cors_origins: tuple[str, ...] = ()

    @property
    def deadline_seconds(self) -> float:
        """The deadline in seconds; infinity for none."""
        return self.deadline_ms / 1000 if self.deadline_ms else float("inf")
