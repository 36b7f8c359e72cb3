"""`jobonnx serve` as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

PATIENCE = 60.0
CLIENT = httpx.Client(timeout=PATIENCE)  # one for all: httpx's functions make a TLS context at each call, which takes 50 ms


class Running:
    """A service that runs, and what it has logged."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self.other: list[str] = []  # what is no JSON
        self.url = ""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            try:
                self.lines.append(json.loads(line))
            except ValueError:
                self.other.append(line.decode(errors="replace"))

    def logged(self, message: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["message"] == message]

    def until(self, condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, f"it ended with {self.process.returncode}: {self.other}"
            assert time.monotonic() < end, (self.lines[-5:], self.other)
            time.sleep(0.02)

    def status(self, path: str) -> int:
        try:
            return CLIENT.get(self.url + path, timeout=5).status_code
        except httpx.HTTPError:
            return 0

    def post(self, path: str, content: Any, **options: Any) -> httpx.Response:
        return CLIENT.post(self.url + path, json=content, **options)

    def metric(self, name: str) -> float:
        """The sum of a metric's series; labels may be given in braces."""
        lines = CLIENT.get(self.url + "/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split(" ")[0] == name or line.startswith(name + "{"))

    def stop(self, number: int = signal.SIGTERM, seconds: float = PATIENCE) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(seconds)


def command(*options: str, prelude: str = "") -> list[str]:
    """The command line, after some Python that may break things first."""
    return [sys.executable, "-c", f"{prelude}\nfrom jobonnx.cli import main\nmain()", "serve", *options]


@contextmanager
def running(
    *options: str,
    prelude: str = "",
    env: dict[str, str] | None = None,
    ready: bool = True,
    stderr: Any = subprocess.PIPE,
    url: str | None = None,
    cwd: Path | None = None,
) -> Iterator[Running]:
    """Start a service on a free port, and kill it afterwards.

    Args:
        options: of `jobonnx serve`.
        prelude: Python that runs before.
        env: more of the environment.
        ready: whether to wait until it is ready.
        stderr: where its log goes; without a pipe `url` has to say where it listens.
        url: where it listens.
        cwd: its working folder.
    """
    where = () if "--port" in options or "--uds" in options or (env and "JOBONNX_PORT" in env) else ("--port", "0")
    process = subprocess.Popen(
        command(*options, *where, prelude=prelude),
        env={**os.environ, "JOBONNX_THREADS": "1", **(env or {})},  # spinning threads of several tests would wait for each other
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        cwd=cwd,
    )
    try:
        if url is not None:
            service = Running.__new__(Running)
            service.process, service.lines, service.other, service.url = process, [], [], url
        else:
            service = Running(process)
            service.until(lambda: bool(service.logged("listening")))
            service.url = service.logged("listening")[0]["address"]
        if ready and not service.url.startswith("unix:"):
            service.until(lambda: service.status("/ready") == 200)
        yield service
    finally:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


def refused(*options: str, env: dict[str, str] | None = None) -> str:
    """Start a service that must not start; return what it says."""
    done = subprocess.run(
        command(*options),
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, **(env or {})},
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode not in (0, None), done
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.stderr
