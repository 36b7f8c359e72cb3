"""Open loop: requests at Poisson times, whatever the service does; a process of its own that says how late it was.

python -m load_kit.open_loop HOST PORT RATE SECONDS BODIES SEED

Latencies count from when a request was due, so that a service that stalls cannot hide it by slowing its clients down.
Linux only: the timers of event loops round to a millisecond, so a timerfd wakes this one.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import random
import resource
import struct
import sys
import time
from pathlib import Path
from typing import Any

import uvloop

_MOST_CONNECTIONS = 8000
_PATIENCE = 60.0  # seconds for the last replies


class Alarm:
    """Wakes the event loop at a moment of `time.monotonic`, to some 0.1 ms and without looking at the clock meanwhile."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._library = ctypes.CDLL(None, use_errno=True)
        self._file = self._library.timerfd_create(1, os.O_NONBLOCK)  # 1: CLOCK_MONOTONIC
        self._loop = loop
        self._future: asyncio.Future[None] | None = None
        loop.add_reader(self._file, self._rang)

    async def wait_until(self, moment: float) -> None:
        if moment <= time.monotonic():
            return
        self._future = self._loop.create_future()
        whole = int(moment)
        setting = struct.pack("llll", 0, 0, whole, max(1, int((moment - whole) * 1e9)))
        if self._library.timerfd_settime(self._file, 1, setting, None):  # 1: the moment is absolute
            raise OSError(ctypes.get_errno(), "timerfd_settime")
        await self._future

    def close(self) -> None:
        self._loop.remove_reader(self._file)
        os.close(self._file)

    def _rang(self) -> None:
        os.read(self._file, 8)
        if self._future is not None and not self._future.done():
            self._future.set_result(None)


class Connection(asyncio.Protocol):
    """A kept-alive connection that carries one request at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: Any = None
        self._answer: asyncio.Future[int] | None = None
        self._buffer = bytearray()
        self._length: int | None = None  # of head and body, once the head is there

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def ask(self, request: bytes) -> asyncio.Future[int]:
        """Send a request; the future is its status, 0 if the connection broke."""
        self._answer = self._loop.create_future()
        self._buffer.clear()
        self._length = None
        self._transport.write(request)
        return self._answer

    def close(self) -> None:
        self._transport.close()

    @property
    def is_open(self) -> bool:
        return not self._transport.is_closing()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._length is None:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._buffer[:end]).lower()
            place = head.find(b"content-length:")
            self._length = end + 4 + int(head[place + 15 :].split(b"\r\n", 1)[0]) if place >= 0 else -1
        whole = self._buffer.endswith(b"0\r\n\r\n") if self._length < 0 else len(self._buffer) >= self._length
        if whole and self._answer is not None and not self._answer.done():
            self._answer.set_result(int(self._buffer[9:12]))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(0)


def _poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """Draw the moments of so many arrivals per second."""
    chance, times, due = random.Random(seed), list[float](), 0.0
    while (due := due + chance.expovariate(rate)) < seconds:
        times.append(due)
    return times


async def measure(host: str, port: int, rate: float, seconds: float, bodies: list[bytes], seed: int) -> dict[str, Any]:
    """Send requests for so many seconds, and wait for the replies."""
    loop = asyncio.get_running_loop()
    head = f"POST /v1/embeddings HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: "
    requests = [head.encode() + b"%d\r\n\r\n" % len(body) + body for body in bodies]
    idle = [(await loop.create_connection(lambda: Connection(loop), host, port))[1] for _ in range(64)]
    opened, connections = len(idle), list(idle)
    rows: list[tuple[float, float, float, int]] = []
    waiting: set[asyncio.Task[None]] = set()
    alarm = Alarm(loop)
    cpu = time.process_time()
    start = time.monotonic() + 0.1

    async def one(due: float, request: bytes) -> None:
        nonlocal opened
        connection = idle.pop() if idle else None
        while connection is not None and not connection.is_open:
            opened -= 1
            connection = idle.pop() if idle else None
        if connection is None:
            try:
                if opened >= _MOST_CONNECTIONS:
                    raise OSError("too many connections")
                opened += 1
                connection = (await loop.create_connection(lambda: Connection(loop), host, port))[1]
                connections.append(connection)
            except OSError:
                rows.append((due, due, due, 0))
                return
        sent = time.monotonic()
        status = await connection.ask(request)
        rows.append((due, sent - start, time.monotonic() - start, status))
        if connection.is_open:
            idle.append(connection)
        else:
            opened -= 1

    for number, moment in enumerate(_poisson(rate, seconds, seed)):
        await alarm.wait_until(start + moment)
        task = loop.create_task(one(moment, requests[number % len(requests)]))
        waiting.add(task)
        task.add_done_callback(waiting.discard)
    if waiting:
        await asyncio.wait(waiting, timeout=_PATIENCE)
    unanswered = len(waiting)
    alarm.close()
    for connection in connections:
        connection.close()
    return {
        "due_sent_done_status": rows,
        "unanswered": unanswered,
        "generator_cpu_seconds": time.process_time() - cpu,
        "generator_real_time": os.sched_getscheduler(0) == os.SCHED_FIFO,
    }


def main() -> None:
    """Measure, and print the rows as JSON."""
    host, port, rate, seconds, path, seed = sys.argv[1:]
    bodies = Path(path).read_bytes().splitlines()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with contextlib.suppress(PermissionError):  # real clients have cores of their own; this one needs some 0.4 ms per request
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))  # a nice one of -10 was up to 4 ms late beside two busy cores
    print(json.dumps(uvloop.run(measure(host, int(port), float(rate), float(seconds), bodies, int(seed)))))


if __name__ == "__main__":
    main()
