"""One worker process: started, asked, timed out, closed, and watched for memory and for processor time while it should be idle."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from jobonnx_bench import worker
from jobonnx_bench.environment import gpu_bytes

PATIENCE = 600.0  # seconds for one command
_SAMPLING = 0.05  # seconds between readings of a busy worker's memory
_GRACE = 2.0  # seconds that a worker has to end by itself


@dataclass(frozen=True)
class System:
    """Something to measure: an adapter (see worker.py), its options, and the Python that has its packages."""

    name: str
    adapter: Path
    options: dict[str, Any] = field(default_factory=dict)
    family: str = "peer"
    python: Path = Path(sys.executable)
    folder: Path = Path()  # the files that its adapter's `build` made
    files: tuple[Path, ...] = ()  # what loading reads; brought into the page cache first
    absent: str | None = None  # why it cannot run here, and what to install
    on_gpu: bool = False  # whether to watch its memory on NVIDIA GPUs


class WorkerLostError(Exception):
    """A worker ended, raised, or did not answer in time; the message is the reason."""


class Process:
    """A worker and the pipe to it. As a context manager it closes the worker on leaving.

    Attributes:
        anonymous_peak_bytes: most memory without mapped files, of a reading every 50 ms; None where the system does not say.
        gpu_peak_bytes: most memory on NVIDIA GPUs, of a reading after each command; None if it is not known.
        idle_cpu_seconds: processor time it took between its turns; None if it is not known.
    """

    def __init__(self, system: System, log: Path, timeout: float = PATIENCE) -> None:
        """Start the worker.

        Args:
            system: what it will run.
            log: the file that its stderr is appended to; the folder is made.
            timeout: seconds for one command.
        """
        self.anonymous_peak_bytes: int | None = None
        self.gpu_peak_bytes: int | None = None
        self.idle_cpu_seconds: float | None = None
        self._system = system
        self._log = log
        self._timeout = timeout
        self._rest_began: float | None = None  # its processor seconds then
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as errors:
            self._process = subprocess.Popen(
                [str(system.python), "-P", worker.__file__, str(system.adapter)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                encoding="utf-8",
                # Checkpoints and titles are local; a worker that asks the Hub would wait for it.
                env={**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true", "PYTHONUTF8": "1"},
                start_new_session=True,  # a group of its own, so that what it starts can be ended with it
            )
        self._answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read_stdout, daemon=True)
        self._reader.start()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Send a command and wait for the answer.

        Raises:
            WorkerLostError: the worker died, the command raised, or it took longer than the timeout.
        """
        self._count_idle_cpu()
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps({"command": command, **arguments}, default=str) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise WorkerLostError(self._exit_reason(command)) from None
        try:
            answer: dict[str, Any] = json.loads(self._wait(command))
        except ValueError:  # it died while it wrote
            raise WorkerLostError(self._exit_reason(command)) from None
        self._sample_memory()
        if self._system.on_gpu:  # between commands: nvidia-smi takes a core, and ONNX Runtime gives no memory back that it took
            self.gpu_peak_bytes = larger(self.gpu_peak_bytes, gpu_bytes(self._process.pid))
        if "error" in answer:
            raise WorkerLostError(f"{command}: {answer['error']}")
        return answer

    def rest(self) -> None:
        """Note that its turn is over: until the next command its processor time counts as idle."""
        self._rest_began = self._cpu_seconds()

    def close(self) -> None:
        """End the worker, and what it started; kill it if it does not end by itself within 2 s.

        OpenVINO's telemetry leaves a copy of the process behind, which would hold its memory until the campaign's end.
        """
        self._count_idle_cpu()
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()  # the worker's loop ends
        try:
            self._process.wait(timeout=_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if hasattr(os, "killpg"):
            with suppress(ProcessLookupError, PermissionError):  # macOS answers the latter where nothing is left
                os.killpg(self._process.pid, signal.SIGKILL)
        self._reader.join(_GRACE)  # elsewhere a process that the worker started may still hold the pipe
        if not self._reader.is_alive() and self._process.stdout is not None:
            self._process.stdout.close()

    def _wait(self, command: str) -> str:
        """Wait for a line of its stdout, sampling memory meanwhile."""
        end = time.monotonic() + self._timeout
        while True:
            try:
                line = self._answers.get(timeout=_SAMPLING)
            except queue.Empty:
                self._sample_memory()
            else:
                if line is None:
                    raise WorkerLostError(self._exit_reason(command))
                return line
            if time.monotonic() > end:
                self.close()
                raise WorkerLostError(f"no answer to {command!r} within {self._timeout:g} s")

    def _read_stdout(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put(None)

    def _sample_memory(self) -> None:
        try:
            found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{self._process.pid}/status").read_text())
        except OSError:
            return
        if found:
            self.anonymous_peak_bytes = larger(self.anonymous_peak_bytes, int(found[1]) * 1024)

    def _count_idle_cpu(self) -> None:
        now = self._cpu_seconds()
        if now is not None and self._rest_began is not None:
            self.idle_cpu_seconds = (self.idle_cpu_seconds or 0.0) + now - self._rest_began
        self._rest_began = None

    def _cpu_seconds(self) -> float | None:
        """Processor time so far; None where the system does not say."""
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime and stime

    def _exit_reason(self, command: str) -> str:
        """Say how it ended, with the last line of its stderr."""
        try:
            status = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return f"closed its output during {command!r}"
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        last = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        return f"{how} during {command!r}" + (f"; the last line of its output: {last[0][:200]}" if last else "")


def build(system: System, log: Path, timeout: float = 3600.0) -> float:
    """Let a system's adapter write its files into `system.folder`, in a process that ends afterwards.

    Returns:
        The seconds it took.

    Raises:
        WorkerLostError: it failed; the message says how.
    """
    with Process(system, log, timeout) as process:
        seconds: float = process.ask("build", folder=system.folder, options=system.options)["seconds"]
    return seconds


def larger(a: int | None, b: int | None) -> int | None:
    """Take the larger of two sizes, of which either may be unknown."""
    return max((size for size in (a, b) if size is not None), default=None)
