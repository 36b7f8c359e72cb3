"""The process: sockets, signals, and uvicorn between them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from jobonnx.encoder import Encoder
from jobonnx.errors import JobonnxError, reason
from jobonnx.serve.app import App
from jobonnx.serve.logs import Handler, Log
from jobonnx.serve.settings import HEADER_SECONDS, KEEP_ALIVE_SECONDS, MOST_HEADER_BYTES, ServeSettings
from jobonnx.serve.tracing import spans_of_environment

_BACKLOG = 2048
_SWITCH_SECONDS = (
    0.0005  # for which a thread may hold Python's lock while another waits: 5 ms by default, longer than most titles take
)
_GRACE_SECONDS = 5.0  # beyond the deadline, for replies to be sent


def bind(settings: ServeSettings) -> socket.socket:
    """Open the socket, before anything slow happens.

    Raises:
        JobonnxError: somebody else has it, or it may not be had.
    """
    where = str(settings.uds) if settings.uds is not None else f"{settings.host}:{settings.port}"
    try:
        if settings.uds is not None:
            return _bind_uds(settings.uds)
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        opened = socket.socket(family, kind, protocol)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind(address)
            opened.listen(_BACKLOG)
        except OSError:
            opened.close()
            raise
        return opened
    except OSError as error:
        raise JobonnxError(f"{where} cannot be listened on ({error.strerror or reason(error)}); name another address") from None


def run(encoder: Encoder, settings: ServeSettings, opened: socket.socket) -> None:
    """Serve until a signal says to stop, then finish what was accepted.

    Args:
        encoder: the model.
        settings: all else.
        opened: what `bind` gave.

    Raises:
        JobonnxError: there is no index where the settings say, or its vectors are of another encoder; or the OTEL_ variables ask
            for traces that no installed package can send.
    """
    spans = spans_of_environment()
    log = Log()
    with _logging_to(log):
        app = App(encoder, settings, log, spans)
        config = uvicorn.Config(
            app,
            http=_Protocol,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=_BACKLOG,
            timeout_keep_alive=int(KEEP_ALIVE_SECONDS),
            timeout_graceful_shutdown=None if settings.deadline_ms == 0 else int(settings.deadline_seconds + _GRACE_SECONDS),
        )
        sys.setswitchinterval(_SWITCH_SECONDS)
        gc.collect()
        gc.freeze()  # the model's objects stay; looking at them again and again would cost a pause now and then
        log.line("listening", address=_named(opened), model=encoder.bundle.model.source, variant=encoder.variant, pid=os.getpid())
        try:
            _Server(config, app).run(sockets=[opened])
        finally:
            if settings.uds is not None:
                settings.uds.unlink(missing_ok=True)
            if spans is not None:
                spans.close()
            log.line("stopped")
            log.close()


class _Server(uvicorn.Server):
    """uvicorn's server, which stops at a signal without raising it again afterwards: a drained service has ended well."""

    def __init__(self, config: uvicorn.Config, app: App) -> None:
        super().__init__(config)
        self._app = app

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
        before = {number: signal.getsignal(number) for number in numbers}
        for number in numbers:
            if before[number] is not signal.SIG_IGN:
                signal.signal(number, lambda number, frame: loop.call_soon_threadsafe(self._stop, number))
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int) -> None:
        logging.getLogger(__name__).info("signal %d: finishing what was accepted", number)
        self._app.service.draining = True
        self.force_exit = self.should_exit  # at the second signal nothing is waited for
        self.should_exit = True


class _Protocol(HttpToolsProtocol):
    """uvicorn's protocol with limits on headers: how long they may take and how large they may be."""

    _timer: Any = None
    _bytes = 0
    _complete = True

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._headers_are_there()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._complete:
            self._bytes += len(data)
            if self._bytes > MOST_HEADER_BYTES:
                self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._wait_for_headers()

    def on_headers_complete(self) -> None:
        self._headers_are_there()
        super().on_headers_complete()

    def _wait_for_headers(self) -> None:
        self._headers_are_there()
        self._complete, self._bytes = False, 0
        self._timer = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def _headers_are_there(self) -> None:
        self._complete = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _bind_uds(path: Path) -> socket.socket:
    """Open a Unix socket that only this user and group may use; one that a killed service left behind is replaced."""
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
            try:
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                    probe.connect(str(path))
            except OSError:
                path.unlink()
        before = os.umask(0o117)
        try:
            opened.bind(str(path))
        finally:
            os.umask(before)
        opened.listen(_BACKLOG)
    except OSError:
        opened.close()
        raise
    return opened


def _named(opened: socket.socket) -> str:
    name = opened.getsockname()
    if isinstance(name, str):
        return f"unix:{name}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"http://{host}:{name[1]}"


@contextlib.contextmanager
def _logging_to(log: Log) -> Iterator[None]:
    """Let what libraries log go to the service's log."""
    levels = {"jobonnx": logging.INFO, "uvicorn": logging.WARNING, "opentelemetry": logging.WARNING}
    before = {name: _state(logging.getLogger(name)) for name in levels}
    handler = Handler(log)
    for name, level in levels.items():
        _set_state(logging.getLogger(name), ([handler], level, False))
    try:
        yield
    finally:
        for name, state in before.items():
            _set_state(logging.getLogger(name), state)


def _state(logger: logging.Logger) -> tuple[list[logging.Handler], int, bool]:
    return logger.handlers[:], logger.level, logger.propagate


def _set_state(logger: logging.Logger, state: tuple[list[logging.Handler], int, bool]) -> None:
    logger.handlers, level, logger.propagate = state
    logger.setLevel(level)
