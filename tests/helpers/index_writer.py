"""A process that writes to indexes, and is killed or runs out of disk while it does.

It is told one writer per line of stdin (JSON, the fields of `Writer`), forks it, and answers with its wait status and what it
reported: one line per write that came back, before the next one began.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from helpers.indexes import DIMENSION, FINGERPRINT, add
from helpers.system_calls import intercept
from jobonnx.errors import JobonnxError
from jobonnx.search.index import Index

DONE = "done"  # what a write that came back is reported as; the sentence of the error otherwise


@dataclass(frozen=True)
class Write:
    """One call.

    Attributes:
        kind: "create", "open", "add", "remove", "remove ids" or "build".
        titles: to add or to remove; ids with "remove ids".
        ids: with "add": an id per title, or None.
    """

    kind: str
    titles: tuple[str, ...] = ()
    ids: tuple[str, ...] | None = None

    def __call__(self, folder: Path) -> None:
        if self.kind == "create":
            Index.create(folder, FINGERPRINT, DIMENSION)
            return
        index = Index.open(folder)
        match self.kind:
            case "add":
                add(index, self.titles, self.ids)
            case "remove":
                index.remove(self.titles)
            case "remove ids":
                index.remove(ids=self.titles)
            case "build":
                index.build_approximate()


@dataclass(frozen=True)
class Writer:
    """A process that writes.

    Attributes:
        folder: the index.
        writes: what it does.
        fault: "kill": SIGKILL at step `step`; "clock": ended by a signal after `step` microseconds; "full": the disk takes nothing
            from step `step` on; "hiccup": it refuses that step alone; "none".
        step: a step is a change of a file, or half a write; see `helpers.system_calls`.
    """

    folder: str
    writes: tuple[Write, ...]
    fault: str
    step: int


@dataclass(frozen=True)
class Ended:
    """How a writer ended.

    Attributes:
        signal: that ended it, or 0.
        status: its exit status.
        said: a report per write that came back.
    """

    signal: int
    status: int
    said: list[str]


def main() -> None:
    """Serve until stdin ends."""
    with suppress(ImportError):
        import faiss  # noqa: F401 - once, not in every writer

    for line in sys.stdin:
        told = json.loads(line)
        writes = tuple(Write(w["kind"], tuple(w["titles"]), None if w["ids"] is None else tuple(w["ids"])) for w in told["writes"])
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            status = 1
            try:
                _write(Writer(told["folder"], writes, told["fault"], told["step"]), writing)
                status = 0
            finally:
                os._exit(status)
        os.close(writing)
        with os.fdopen(reading, "rb") as reports:
            said = reports.read().decode().splitlines()
        status = os.waitpid(child, 0)[1]
        sys.stdout.write(json.dumps({"signal": os.WTERMSIG(status), "status": os.WEXITSTATUS(status), "said": said}) + "\n")
        sys.stdout.flush()


def _write(writer: Writer, reports: int) -> None:
    _FAULTS[writer.fault](writer.step)
    for write in writer.writes:
        try:
            write(Path(writer.folder))
            said = DONE
        except JobonnxError as error:
            said = str(error)
        os.write(reports, f"{said}\n".encode())


def _steps(refused: Callable[[int], bool]) -> Callable[[], bool]:
    count = 0

    def step() -> bool:
        nonlocal count
        count += 1
        return refused(count)

    return step


def _kill(at: int) -> None:
    def struck(count: int) -> bool:
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    intercept(_steps(struck))


def _clock(microseconds: int) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # which ends the process wherever it is, as SIGKILL does
    signal.setitimer(signal.ITIMER_REAL, microseconds / 1e6)


def _full(at: int) -> None:
    intercept(_steps(lambda count: count >= at))


def _hiccup(at: int) -> None:
    intercept(_steps(lambda count: count == at))


_FAULTS: dict[str, Callable[[int], None]] = {
    "kill": _kill,
    "clock": _clock,
    "full": _full,
    "hiccup": _hiccup,
    "none": lambda step: None,
}


class Writers:
    """The process that forks them; a context manager."""

    def __init__(self) -> None:
        import subprocess

        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-m", "helpers.index_writer"]
        self._process: Any = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, encoding="utf-8"
        )

    def __enter__(self) -> Writers:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def run(self, writer: Writer) -> Ended:
        """Run a writer to its end."""
        self._process.stdin.write(json.dumps(asdict(writer)) + "\n")
        self._process.stdin.flush()
        told = json.loads(self._process.stdout.readline())
        return Ended(**told)


if __name__ == "__main__":
    main()
