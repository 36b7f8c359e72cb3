"""The servers under load, each a process of its own, and the cheapest client that Python has."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_START_SECONDS = 600.0
_HEAD = b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


class Service:
    """`jobonnx serve`, warm."""

    def __init__(self, model: Sequence[str], *options: str) -> None:
        command = [sys.executable, "-c", "from jobonnx.cli import main; main()", "serve", "--port", "0", *model, *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.log: list[dict[str, Any]] = []
        threading.Thread(target=self._read, daemon=True).start()
        start = time.monotonic()
        while not (found := self._said("listening")):
            self._alive()
        self.port = int(found[0]["address"].rsplit(":", 1)[1])
        while not self._said("ready"):
            self._alive()
        self.ready_seconds = time.monotonic() - start

    def _said(self, message: str) -> list[dict[str, Any]]:
        return [line for line in self.log if line["message"] == message]

    def _alive(self) -> None:
        if self.process.poll() is not None:
            raise SystemExit(f"the service ended with {self.process.returncode}")
        time.sleep(0.05)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if not line.startswith("{"):
                print(line, end="", file=sys.stderr)
            elif '"message":"request"' not in line:
                self.log.append(json.loads(line))

    def memory_mb(self, name: str = "VmRSS") -> float:
        """Return its resident memory; its peak for VmHWM, what belongs to no file for RssAnon."""
        found = re.search(rf"{name}:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())
        return int(found[1]) / 1024 if found else 0.0

    def metric(self, name: str, labels: str = "") -> float:
        """Sum the series of a metric whose labels hold the given text."""
        text = ask(self.port, b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").decode()
        lines = [line for line in text.splitlines() if re.match(rf"{name}[{{ ]", line) and labels in line]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def status(self, path: str) -> int:
        """Ask with GET; 0 if nobody answers."""
        try:
            return int(ask(self.port, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())[9:12] or 0)
        except OSError:
            return 0

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def serving(model: Sequence[str], *options: str) -> Iterator[Service]:
    service = Service(model, *options)
    try:
        yield service
    finally:
        service.stop()


@contextmanager
def peer(command: Sequence[str], port: int, log: Path) -> Iterator[str | None]:
    """Start another server, and wait until it answers; None, or the end of what it said if it never does."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with log.open("w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=env | {"HF_HUB_OFFLINE": "1"}, cwd=log.parent)
    end = time.monotonic() + _START_SECONDS
    try:
        while process.poll() is None and time.monotonic() < end:
            try:
                Client(port).embed(body_of("nurse"))
                break
            except (OSError, RuntimeError):
                time.sleep(0.5)
        else:
            ended = f"it ended with {process.poll()}" if process.poll() is not None else "it never answered"
            yield f"{ended}: {' / '.join(log.read_text(errors='replace').strip().splitlines()[-3:])}"
            return
        yield None
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def ask(port: int, request: bytes) -> bytes:
    """Send a request on a connection of its own, and read until the service closes it."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as opened:
        opened.sendall(request)
        parts = []
        while part := opened.recv(1 << 20):
            parts.append(part)
    return b"".join(parts)


def body_of(title: str | list[str]) -> bytes:
    return json.dumps({"input": title, "encoding_format": "base64"}).encode()


def request_of(body: bytes) -> bytes:
    return _HEAD % len(body) + body


class Client:
    """One kept-alive connection."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def embed(self, body: bytes) -> float:
        """Ask for vectors; return the seconds it took.

        Raises:
            RuntimeError: the status is not 200, or the connection ended.
        """
        start = time.perf_counter()
        self._socket.sendall(request_of(body))
        got = b""
        while b"\r\n\r\n" not in got:
            if not (part := self._socket.recv(1 << 20)):
                raise RuntimeError("the connection ended")
            got += part
        head, _, rest = got.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"the service said {got[:300]!r}")
        lower = head.lower()
        if b"content-length: " not in lower:
            while not rest.endswith(b"0\r\n\r\n"):
                rest = rest[-5:] + self._socket.recv(1 << 20)
            return time.perf_counter() - start
        left = int(lower.split(b"content-length: ")[1].split(b"\r\n")[0]) - len(rest)
        while left > 0:
            left -= len(self._socket.recv(1 << 20))
        return time.perf_counter() - start

    def close(self) -> None:
        self._socket.close()
