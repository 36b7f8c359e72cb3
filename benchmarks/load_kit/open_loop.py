"""Open loop: requests at Poisson times, whatever the service does; a process of its own that says how late it was.

python -m load_kit.open_loop HOST PORT RATE SECONDS BODIES SEED

Latencies count from when a request was due, so that a service that stalls cannot hide it by slowing its clients down.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import uvloop

_MOST_CONNECTIONS = 4000


class Connection(asyncio.Protocol):
    """A kept-alive connection that carries one request at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: Any = None
        self._answer: asyncio.Future[int] | None = None
        self._buffer = bytearray()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def ask(self, request: bytes) -> asyncio.Future[int]:
        """Send a request; the future is its status, 0 if the connection broke."""
        self._answer = self._loop.create_future()
        self._buffer.clear()
        self._transport.write(request)
        return self._answer

    @property
    def is_open(self) -> bool:
        return not self._transport.is_closing()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, gap, body = self._buffer.partition(b"\r\n\r\n")
        if not gap:
            return
        lower = bytes(head).lower()
        place = lower.find(b"content-length:")
        whole = body.endswith(b"0\r\n\r\n") if place < 0 else len(body) >= int(lower[place + 15 :].split(b"\r\n", 1)[0])
        if whole and self._answer is not None and not self._answer.done():
            self._answer.set_result(int(head[9:12]))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(0)


async def measure(host: str, port: int, rate: float, seconds: float, bodies: list[bytes], seed: int) -> dict[str, Any]:
    """Send requests for so many seconds, and wait for the replies."""
    loop = asyncio.get_running_loop()
    chance = random.Random(seed)
    head = f"POST /v1/embeddings HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: "
    requests = [head.encode() + b"%d\r\n\r\n" % len(body) + body for body in bodies]
    times: list[float] = []
    due = 0.0
    while (due := due + chance.expovariate(rate)) < seconds:
        times.append(due)
    idle = [(await loop.create_connection(lambda: Connection(loop), host, port))[1] for _ in range(64)]
    opened = len(idle)
    rows: list[tuple[float, float, float, int]] = []
    waiting: set[asyncio.Task[None]] = set()
    cpu = time.process_time()
    start = loop.time() + 0.1

    async def one(due: float, request: bytes) -> None:
        nonlocal opened
        connection = idle.pop() if idle else None
        if connection is None or not connection.is_open:
            if opened >= _MOST_CONNECTIONS:
                rows.append((due, due, due, 0))
                return
            opened += 1
            try:
                connection = (await loop.create_connection(lambda: Connection(loop), host, port))[1]
            except OSError:
                rows.append((due, due, due, 0))
                return
        sent = loop.time()
        status = await connection.ask(request)
        rows.append((due, sent - start, loop.time() - start, status))
        if connection.is_open:
            idle.append(connection)

    for number, moment in enumerate(times):
        while (delay := start + moment - loop.time()) > 0:  # timers round to milliseconds, so the last one is spent looking
            await asyncio.sleep(max(0.0, delay - 0.0015))
        task = loop.create_task(one(moment, requests[number % len(requests)]))
        waiting.add(task)
        task.add_done_callback(waiting.discard)
    if waiting:
        await asyncio.wait(waiting, timeout=60)
    return {"due_sent_done_status": rows, "unanswered": len(waiting), "cpu_seconds": time.process_time() - cpu}


def main() -> None:
    """Measure, and print the rows as JSON."""
    host, port, rate, seconds, path, seed = sys.argv[1:]
    bodies = Path(path).read_bytes().splitlines()
    print(json.dumps(uvloop.run(measure(host, int(port), float(rate), float(seconds), bodies, int(seed)))))


if __name__ == "__main__":
    main()
