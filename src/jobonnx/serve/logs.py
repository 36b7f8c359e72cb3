"""Structured logs: one JSON object per line on stderr, written by a thread, so that a slow or full disk holds nobody up."""

from __future__ import annotations

import logging
import os
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any

import orjson

_MOST_LINES = 10_000  # that wait to be written; more are dropped and counted
_PAUSE = 0.05  # seconds between writes, so that the thread does not wake for every request


class Log:
    """Lines that a thread writes. Lines that cannot be written are dropped and counted, never waited for."""

    def __init__(self, write: Callable[[bytes], object] = lambda lines: os.write(2, lines)) -> None:
        self._write = write
        self._lines: deque[bytes] = deque()
        self._closed = threading.Event()
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="jobonnx-log", daemon=True)
        self._thread.start()

    def line(self, message: str, level: str = "info", **fields: Any) -> None:
        """Say something."""
        if len(self._lines) >= _MOST_LINES:
            self.dropped += 1
            return
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now := time.time())) + f".{int(now % 1 * 1000):03}Z"
        self._lines.append(orjson.dumps({"time": stamp, "level": level, "message": message, **fields}, default=str))

    def error(self, message: str, error: BaseException, **fields: Any) -> None:
        """Say that something failed: the type and the frames, without the exception's message, which may hold a title."""
        frames = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
        self.line(message, "error", error=type(error).__name__, frames=frames[-20:], **fields)

    def close(self) -> None:
        """Write what waits; not for longer than a second."""
        self._closed.set()
        self._thread.join(1)

    def _run(self) -> None:
        while not self._closed.wait(_PAUSE):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        while self._lines:
            lines = [self._lines.popleft() for _ in range(min(len(self._lines), 100))]
            try:
                self._write(b"\n".join(lines) + b"\n")
            except OSError:  # a full disk, a closed pipe
                self.dropped += len(lines)


class Handler(logging.Handler):
    """What libraries log, as lines of the same log."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; of an exception the type and frames only."""
        if record.exc_info and record.exc_info[1] is not None:
            self._log.error(record.getMessage(), record.exc_info[1], logger=record.name)
        else:
            self._log.line(record.getMessage(), record.levelname.lower(), logger=record.name)
