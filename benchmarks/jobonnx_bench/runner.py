"""The cell runner: one worker process a system, driven round by round in turn, so that a busy moment slows all of them."""

from __future__ import annotations

import json
import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jobonnx.arrays import Floats
from jobonnx.bundle.manifest import Bundle
from jobonnx.parity.measure import measure
from jobonnx.runtime.providers import PROVIDERS
from jobonnx_bench import adapter, worker
from jobonnx_bench.environment import available_bytes, gpu_bytes
from jobonnx_bench.result import ON_CUDA, Batch, Cell, Round
from jobonnx_bench.workload import Workload

_SAMPLING = 0.05  # seconds between readings of a busy worker's memory
_SETTLE = 0.3  # seconds after each turn: threads that spin for a while after their work have stopped by then
_PATIENCE = 600.0  # seconds for one command; see `Session.timeout`
_WARM_UP = 64  # titles of the warm-up's bulk call

_SWEEP_TOKENS = 4096  # of one size of the sweep, over all its calls ...
_SWEEP_TIMES = (3, 20)  # ... but no fewer and no more calls than these, beside the first

Report = Callable[[str], None]


@dataclass(frozen=True)
class System:
    """Something to measure: an adapter (see worker.py), its options, and the Python that has its packages."""

    name: str
    adapter: Path
    options: dict[str, Any] = field(default_factory=dict)
    family: str = "peer"
    python: Path = Path(sys.executable)
    folder: Path = Path()  # its own files, from the adapter's `build`
    files: tuple[Path, ...] = ()  # what loading reads; brought into the page cache first
    absent: str | None = None  # why it cannot run here, and what to install


@dataclass(frozen=True)
class Truth:
    """Texts and the vectors that are right for them, float32 [texts, dimension]: what a bundle carries from PyTorch."""

    texts: tuple[str, ...]
    vectors: Floats


class WorkerLost(Exception):
    """A worker ended, raised, or did not answer in time; the message is the reason."""


def bundle_systems(source: str | None = None) -> list[System]:
    """Every variant of a bundle on every provider that has a graph for it; those that are not here, as absent.

    Args:
        source: bundle folder or Hub id; None for the small model that comes with the package.
    """
    bundle = Bundle.open(source)
    systems = []
    for graph in bundle.graphs:
        for name, provider in PROVIDERS.items():
            if provider.target != graph.target:
                continue
            absent = provider.unavailable_reason(graph.variant)
            # Bundles from before graphs shared data files do not name theirs.
            files = (bundle.folder / graph.path, bundle.folder / (graph.data or f"{graph.path}.data"))
            systems.append(
                System(
                    name=f"jobonnx-{graph.variant}-{name}",
                    adapter=Path(adapter.__file__),
                    options={"bundle": source, "variant": graph.variant, "provider": name},
                    family="jobonnx",
                    files=tuple(file for file in files if file.is_file()),
                    absent=absent,
                )
            )
    return systems


class _Process:
    """A worker and the pipe to it."""

    def __init__(self, system: System, log: Path, timeout: float) -> None:
        self.anonymous_peak: int | None = None
        self.gpu_peak: int | None = None
        self._on_gpu = system.options.get("provider") in ON_CUDA
        self._log = log
        self._timeout = timeout
        with open(log, "ab") as errors:
            self._process = subprocess.Popen(
                [str(system.python), "-P", worker.__file__, str(system.adapter)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                encoding="utf-8",
                # Checkpoints and titles are local; a worker that asks the Hub would wait for it.
                env={**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true", "PYTHONUTF8": "1"},
            )
        self._answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Send a command and wait for the answer.

        Raises:
            WorkerLost: it died, the command raised, or it took longer than the time limit.
        """
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps({"command": command, **arguments}, default=str) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise WorkerLost(self._epitaph(command)) from None
        end = time.monotonic() + self._timeout
        while True:
            try:
                line = self._answers.get(timeout=_SAMPLING)
                break
            except queue.Empty:
                self._sample()
            if time.monotonic() > end:
                self.close()
                raise WorkerLost(f"no answer to {command!r} within {self._timeout:g} s")
        if line is None:
            raise WorkerLost(self._epitaph(command))
        self._sample()
        if self._on_gpu:  # between commands: nvidia-smi takes a core; and ONNX Runtime gives nothing back that it took
            self.gpu_peak = _larger(self.gpu_peak, gpu_bytes(self._process.pid))
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerLost(f"{command}: {answer['error']}")
        return answer

    def cpu(self) -> float | None:
        """Processor seconds so far; None where the system does not say."""
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime and stime

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()  # the worker's loop ends
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put(None)

    def _sample(self) -> None:
        try:
            found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{self._process.pid}/status").read_text())
        except OSError:
            return
        if found:
            self.anonymous_peak = max(self.anonymous_peak or 0, int(found[1]) * 1024)

    def _epitaph(self, command: str) -> str:
        try:
            status = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return f"closed its output during {command!r}"
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        last = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        return f"{how} during {command!r}" + (f"; its last words: {last[0][:200]}" if last else "")


class _Turns:
    """One system over all rounds: its process, which may be closed and started again, and what it measured so far."""

    def __init__(self, system: System, folder: Path, timeout: float) -> None:
        self.system = system
        self.reason = system.absent
        self.process: _Process | None = None
        self.vectors = folder / "vectors" / system.name
        self._log = folder / "logs" / f"{system.name}.log"
        self._timeout = timeout
        self._rest_began: float | None = None
        self._details: dict[str, Any] = {}
        self._versions: dict[str, str] = {}
        self._loads: list[float] = []
        self._first_calls: list[float] = []
        self._rounds: list[Round] = []
        self._peak: int | None = None
        self._anonymous_peak: int | None = None
        self._gpu_peak: int | None = None
        self._idle: float | None = None
        self._sweep: list[Batch] = []
        self._swept = False
        self.vectors.mkdir(parents=True, exist_ok=True)
        self._log.parent.mkdir(parents=True, exist_ok=True)

    def take(self, workload: Workload, truth: Truth | None) -> None:
        """One turn. A worker that is lost takes no further ones."""
        try:
            self._wake()
            process = self.process or self._start(workload)
            if truth and not self._rounds:
                _time(process, truth.texts, vectors=self.vectors / "truth.npy")
            self._rounds.append(self._round(process, workload))
            self._peak = _larger(self._peak, process.ask("memory")["peak_bytes"])
        except WorkerLost as lost:
            self.reason = str(lost)
            self.close()
        else:
            time.sleep(_SETTLE)
            self._rest_began = process.cpu()

    def sweep(self, workload: Workload) -> None:
        """All sizes of the sweep, after the last turn: larger batches than usual, which must not count as usual memory."""
        try:
            self._wake()
            process = self.process or self._start(workload)
            self._keep_peaks(process)
            self._swept = True
            for group in workload.sweep:
                tokens = workload.count(group)
                least, most = _SWEEP_TIMES
                times = 1 + max(least, min(most, _SWEEP_TOKENS // tokens))
                seconds = process.ask("sweep", texts=group, times=times)["seconds"]
                self._sweep.append(Batch(len(group), tokens, tuple(seconds[1:])))
        except WorkerLost as lost:
            self.reason = f"in the sweep over batch sizes: {lost}"
            self.close()

    def close(self) -> None:
        if self.process is not None:
            self._wake()
            if not self._swept:
                self._keep_peaks(self.process)
            self.process.close()
            self.process = None

    def cell(self, workload: Workload, reference: Floats | None, name: str) -> Cell:
        """All that was measured; parity is of the vectors of that name. Call it after `close`."""
        vectors = self.bulk_vectors()
        mine = self.kept(name)
        parity = None
        if mine is not None and reference is not None and mine.shape == reference.shape and np.isfinite(mine).all():
            parity = asdict(measure(reference, mine))
        return Cell(
            name=self.system.name,
            family=self.system.family,
            status="absent" if self.system.absent else "failed" if self.reason else "measured",
            reason=self.reason,
            details=self._details,
            versions=self._versions,
            loads=tuple(self._loads),
            first_calls=tuple(self._first_calls),
            rounds=tuple(self._rounds),
            peak_bytes=self._peak,
            anonymous_peak_bytes=self._anonymous_peak,
            idle_cpu=self._idle,
            parity=parity,
            batch_cosine=None if vectors is None else self._batch_cosine(workload, vectors),
            asked={key: self.system.options[key] for key in ("variant", "provider") if key in self.system.options},
            sweep=tuple(self._sweep),
            gpu_peak_bytes=self._gpu_peak,
        )

    def bulk_vectors(self) -> Floats | None:
        """What it gave for the bulk titles in its first round."""
        return self.kept("bulk")

    def kept(self, name: str) -> Floats | None:
        """Vectors of its first round."""
        return _load(self.vectors / f"{name}.npy") if self._rounds else None

    def _keep_peaks(self, process: _Process) -> None:
        self._anonymous_peak = _larger(self._anonymous_peak, process.anonymous_peak)
        self._gpu_peak = _larger(self._gpu_peak, process.gpu_peak)

    def _wake(self) -> None:
        """Count what the process took since its last turn."""
        cpu = self.process.cpu() if self.process else None
        if cpu is not None and self._rest_began is not None:
            self._idle = (self._idle or 0.0) + cpu - self._rest_began
        self._rest_began = None

    def _start(self, workload: Workload) -> _Process:
        process = self.process = _Process(self.system, self._log, self._timeout)
        system = self.system
        loaded = process.ask("load", folder=system.folder, options=system.options, files=system.files)
        self._details, self._versions = loaded["details"], loaded["versions"]
        self._loads.append(loaded["seconds"])
        self._first_calls.append(_time(process, [workload.singles[0]])[0])
        of_length = {workload.tokens[title]: title for title in workload.singles}
        _time(process, *([title] for title in of_length.values()))
        _time(process, workload.bulk[:_WARM_UP], workload.groups8[0], workload.groups32[0], workload.equal32[0])
        return process

    def _round(self, process: _Process, workload: Workload) -> Round:
        first = not self._rounds  # its vectors are kept

        def save(name: str) -> Path | None:
            return self.vectors / f"{name}.npy" if first else None

        bulk = process.ask("time", batches=[workload.bulk], vectors=save("bulk"))
        return Round(
            bulk=bulk["seconds"][0],
            bulk_cpu=bulk["cpu_seconds"],
            bulk_computed_tokens=bulk["computed_tokens"],
            repeated=_time(process, workload.repeated)[0],
            one=_time(process, *([title] for title in workload.singles), vectors=save("one")),
            eight=_time(process, *workload.groups8),
            thirty_two=_time(process, *workload.groups32, vectors=save("thirty_two")),
            thirty_two_equal=_time(process, *workload.equal32),
            tokenize=process.ask("tokenize", texts=workload.bulk)["seconds"],
        )

    def _batch_cosine(self, workload: Workload, bulk: Floats) -> float | None:
        places = {title: i for i, title in enumerate(workload.bulk)}
        titles = [*workload.singles, *(title for group in workload.groups32 for title in group)]
        parts = [_load(self.vectors / f"{name}.npy") for name in ("one", "thirty_two")]
        others = np.concatenate([part for part in parts if part is not None])
        if len(others) != len(titles) or not np.isfinite(others).all() or not np.isfinite(bulk).all():
            return None
        return measure(bulk[[places[title] for title in titles]], others).min_cosine


def build(system: System, log: Path, timeout: float = 3600.0) -> float:
    """Let a system's adapter write its files into `system.folder`, in a process of its own: the seconds it took.

    Raises:
        WorkerLost: it failed; the message says how.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    process = _Process(system, log, timeout)
    try:
        seconds: float = process.ask("build", folder=system.folder, options=system.options)["seconds"]
    finally:
        process.close()
    return seconds


def run(
    systems: Sequence[System],
    workload: Workload,
    folder: Path,
    *,
    rounds: int = 3,
    minutes: float | None = None,
    reference: str | None = None,
    reserve: int = 0,
    timeout: float = _PATIENCE,
    truth: Truth | None = None,
    each_round: Callable[[], None] = lambda: None,
    report: Report = lambda line: None,
) -> list[Cell]:
    """Measure systems round by round, each in a process of its own.

    Args:
        systems: what to measure; a system that fails keeps the rounds it finished, and the others go on.
        workload: the titles.
        folder: for vectors and logs.
        rounds: most rounds.
        minutes: no round begins that would end later than this, going by the one before; the first always runs.
        reference: name of the system whose vectors the others are held against; None, or one that fails at once, leaves parity out.
        reserve: bytes that have to be available before a process starts. While less is, idle ones are closed, to be started (and
            loaded) again in their next turn: first the one that has just had its turn, which will wait longest.
        timeout: seconds for one command of a worker.
        truth: texts with vectors that are right; parity is measured on them, in place of the reference system's.
        each_round: called before each round, for what has to be measured in the same run.
        report: is told each turn as it ends.

    Returns:
        A cell a system, in order.
    """
    turns = [_Turns(system, folder, timeout) for system in systems]
    began = time.monotonic()
    try:
        for number in range(rounds):
            round_began = time.monotonic()
            if all(turn.reason for turn in turns):
                break
            _make_room(turns, reserve)
            each_round()
            for place, turn in enumerate(turns):
                if turn.reason:
                    continue
                if turn.process is None:
                    _make_room(turns[place + 1 :] + turns[:place], reserve)
                start = time.monotonic()
                turn.take(workload, truth)
                outcome = turn.reason or f"{time.monotonic() - start:.1f} s"
                report(f"round {number + 1} of {rounds}: {turn.system.name}: {outcome}")
            now = time.monotonic()
            if minutes is not None and now + (now - round_began) > began + 60 * minutes:
                break
        for turn in turns if workload.sweep else ():
            if not turn.reason:
                turn.sweep(workload)
                report(f"sweep over batch sizes: {turn.system.name}: {turn.reason or 'done'}")
    finally:
        for turn in turns:
            turn.close()
    if truth:
        return [turn.cell(workload, truth.vectors, "truth") for turn in turns]
    vectors = next((turn.bulk_vectors() for turn in turns if turn.system.name == reference), None)
    return [turn.cell(workload, vectors, "bulk") for turn in turns]


def _make_room(waiting: list[_Turns], reserve: int) -> None:
    """Close processes, the last in the queue for a turn first, until `reserve` bytes are available."""
    for turn in reversed(waiting):
        available = available_bytes()
        if available is None or available >= reserve:
            return
        turn.close()


def _time(process: _Process, *batches: Sequence[str], vectors: Path | None = None) -> tuple[float, ...]:
    return tuple(process.ask("time", batches=batches, vectors=vectors)["seconds"])


def _larger(a: int | None, b: int | None) -> int | None:
    return max((x for x in (a, b) if x is not None), default=None)


def _load(path: Path) -> Floats | None:
    try:
        vectors: Floats = np.load(path, allow_pickle=False)
    except (OSError, ValueError):
        return None
    return vectors
