"""Many systems, measured round by round in turn, so that a busy moment of the machine slows all of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jobonnx.arrays import Floats
from jobonnx.bundle.manifest import Parity
from jobonnx.parity.measure import measure
from jobonnx.progress import Progress
from jobonnx.runtime.machine import available_bytes
from jobonnx_bench.process import PATIENCE, Process, System, WorkerLostError, larger
from jobonnx_bench.report import Batch, Details, Requested, Round, SystemResult
from jobonnx_bench.workload import Workload

_log = logging.getLogger("jobonnx")
_SETTLE = 0.3  # seconds after each turn: threads that spin for a while after their work have stopped by then
_WARM_UP = 64  # titles of the warm-up's bulk call
_SWEEP_TOKENS = 4096  # of one size of the sweep, over all its runs ...
_SWEEP_RUNS = (3, 20)  # ... but no fewer and no more runs than these, beside the first
_BULK, _ONE, _THIRTY_TWO, _REFERENCE = "bulk", "one", "thirty_two", "reference"  # names of files of vectors


@dataclass(frozen=True)
class Schedule:
    """How long, and with how much memory to spare, systems are measured."""

    rounds: int = 3  # at most
    minutes: float | None = None  # no round begins that would end later, going by the one before; the first one always runs
    timeout: float = PATIENCE  # seconds for one command of a worker
    reserve_bytes: int = 0  # memory that has to be available before a process starts; idle ones are closed for it


@dataclass(frozen=True)
class Reference:
    """Texts and their reference vectors, float32 [texts, dimension]: what a bundle carries from PyTorch."""

    texts: tuple[str, ...]
    vectors: Floats


@dataclass
class Record:
    """What one system has measured so far."""

    reason: str | None  # why it does not go on
    details: Details = field(default_factory=Details)
    versions: dict[str, str] = field(default_factory=dict)
    loads: list[float] = field(default_factory=list)
    first_calls: list[float] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)
    sweep: tuple[Batch, ...] = ()
    peak_bytes: int | None = None
    anonymous_peak_bytes: int | None = None
    gpu_peak_bytes: int | None = None
    idle_cpu: float | None = None


def run(
    systems: Sequence[System],
    workload: Workload,
    folder: Path,
    schedule: Schedule,
    *,
    reference: Reference | str | None = None,
    before_round: Callable[[], None] = lambda: None,
    progress: Progress = lambda step: None,
) -> list[SystemResult]:
    """Measure systems round by round, each in a process of its own.

    A system that fails keeps the rounds it finished, and the others go on.

    Args:
        systems: what to measure.
        workload: the titles.
        folder: for vectors and logs.
        schedule: how long.
        reference: what parity is measured against: texts with their vectors, or the name of the system whose vectors of the bulk
            titles are the reference. None, or a system that finishes no round, leaves parity out.
        before_round: called before each round, for what has to be measured in the same run.
        progress: is told each turn as it begins.

    Returns:
        One result per system, in order.
    """
    runs = [_SystemRun(system, folder, schedule.timeout) for system in systems]
    texts = reference.texts if isinstance(reference, Reference) else ()
    with ExitStack() as stack:
        for one in runs:
            stack.callback(one.stop)
        _take_turns(runs, workload, texts, schedule, before_round, progress)
        for one in runs if workload.sweep else ():
            if not one.record.reason:
                progress(f"sweep over batch sizes: {one.system.name}")
                one.sweep(workload)
    if isinstance(reference, Reference):
        return [one.result(workload, reference.vectors, _REFERENCE) for one in runs]
    vectors = next((one.vectors(_BULK) for one in runs if one.system.name == reference), None)
    return [one.result(workload, vectors, _BULK) for one in runs]


def _take_turns(
    runs: Sequence[_SystemRun],
    workload: Workload,
    reference_texts: Sequence[str],
    schedule: Schedule,
    before_round: Callable[[], None],
    progress: Progress,
) -> None:
    began = time.monotonic()
    for number in range(schedule.rounds):
        round_began = time.monotonic()
        if all(one.record.reason for one in runs):
            return
        _make_room(runs, schedule.reserve_bytes)
        before_round()
        for place, one in enumerate(runs):
            if one.record.reason:
                continue
            if one.process is None:  # the one that has just had its turn will wait longest for the next
                _make_room([*runs[place + 1 :], *runs[:place]], schedule.reserve_bytes)
            progress(f"round {number + 1} of {schedule.rounds}: {one.system.name}")
            one.take_turn(workload, reference_texts)
        now = time.monotonic()
        if schedule.minutes is not None and now + (now - round_began) > began + 60 * schedule.minutes:
            return


def _make_room(waiting: Sequence[_SystemRun], reserve_bytes: int) -> None:
    """Close processes until enough memory is available, the one that waits longest for its turn first."""
    for one in reversed(waiting):
        available = available_bytes()
        if available is None or available >= reserve_bytes:
            return
        one.stop()


class _SystemRun:
    """One system over all rounds: its process, which may be stopped and started again, and its record."""

    def __init__(self, system: System, folder: Path, timeout: float) -> None:
        self.system = system
        self.record = Record(reason=system.absent)
        self.process: Process | None = None
        self._folder = folder
        self._timeout = timeout
        self._file("").mkdir(parents=True, exist_ok=True)

    def take_turn(self, workload: Workload, reference_texts: Sequence[str]) -> None:
        """Measure one round. A system whose process is lost takes no further turns."""
        record = self.record
        try:
            process = self._started(workload)
            first = not record.rounds  # its vectors are kept
            if reference_texts and first:
                encode(process, reference_texts, vectors=self._file(_REFERENCE))
            record.rounds.append(measure_round(process, workload, self._file if first else None))
            record.peak_bytes = larger(record.peak_bytes, process.ask("memory")["peak_bytes"])
            self._keep_peaks(process)
        except WorkerLostError as lost:
            if self.process is not None:
                self._keep_peaks(self.process)
            self._fail(str(lost))
        else:
            time.sleep(_SETTLE)
            process.rest()

    def sweep(self, workload: Workload) -> None:
        """Measure all sizes of the sweep, after the last turn: its batches are larger than usual, and so is their memory."""
        try:
            self.record.sweep = measure_sweep(self._started(workload), workload)
        except WorkerLostError as lost:
            self._fail(f"in the sweep over batch sizes: {lost}")

    def stop(self) -> None:
        """End the process, if there is one."""
        process, self.process = self.process, None
        if process is not None:
            process.close()
            if process.idle_cpu_seconds is not None:
                self.record.idle_cpu = (self.record.idle_cpu or 0.0) + process.idle_cpu_seconds

    def vectors(self, name: str) -> Floats | None:
        """Load vectors of its first round."""
        return _load(self._file(name)) if self.record.rounds else None

    def result(self, workload: Workload, reference: Floats | None, name: str) -> SystemResult:
        """Sum up; parity is of the vectors `name`. To be called when it has stopped."""
        system, record = self.system, self.record
        options = system.options
        return SystemResult(
            name=system.name,
            family="jobonnx" if system.family == "jobonnx" else "peer",
            status="absent" if system.absent else "failed" if record.reason else "measured",
            reason=record.reason,
            details=record.details,
            versions=record.versions,
            loads=tuple(record.loads),
            first_calls=tuple(record.first_calls),
            rounds=tuple(record.rounds),
            peak_bytes=record.peak_bytes,
            anonymous_peak_bytes=record.anonymous_peak_bytes,
            idle_cpu=record.idle_cpu,
            parity=_parity(reference, self.vectors(name)),
            batch_cosine=_batch_cosine(workload, *map(self.vectors, (_BULK, _ONE, _THIRTY_TWO))),
            requested=Requested(options["variant"], options["provider"]) if "variant" in options else None,
            sweep=record.sweep,
            gpu_peak_bytes=record.gpu_peak_bytes,
        )

    def _started(self, workload: Workload) -> Process:
        """Take the running process, or start one, load and warm it up."""
        if self.process is None:
            self.process = Process(self.system, self._folder / "logs" / f"{self.system.name}.log", self._timeout)
            system, record = self.system, self.record
            loaded = self.process.ask("load", folder=system.folder, options=system.options, files=system.files)
            record.details, record.versions = Details.of(loaded["details"]), loaded["versions"]
            record.loads.append(loaded["seconds"])
            record.first_calls.append(warm_up(self.process, workload))
        return self.process

    def _keep_peaks(self, process: Process) -> None:
        self.record.anonymous_peak_bytes = larger(self.record.anonymous_peak_bytes, process.anonymous_peak_bytes)
        self.record.gpu_peak_bytes = larger(self.record.gpu_peak_bytes, process.gpu_peak_bytes)

    def _fail(self, reason: str) -> None:
        self.record.reason = reason
        _log.warning("%s: %s", self.system.name, reason)
        self.stop()

    def _file(self, name: str) -> Path:
        folder = self._folder / "vectors" / self.system.name
        return folder / f"{name}.npy" if name else folder


def encode(process: Process, *batches: Sequence[str], vectors: Path | None = None) -> tuple[float, ...]:
    """Encode batches, one call each; the vectors go to a file if one is named.

    Returns:
        Seconds of each call.
    """
    return tuple(process.ask("time", batches=batches, vectors=vectors)["seconds"])


def warm_up(process: Process, workload: Workload) -> float:
    """Show a system that has just loaded every length of title and every kind of call.

    Returns:
        Seconds of its very first call.
    """
    (first,) = encode(process, [workload.singles[0]])
    of_length = {workload.tokens[title]: title for title in workload.singles}
    encode(process, *([title] for title in of_length.values()))
    encode(process, workload.bulk[:_WARM_UP], workload.groups8[0], workload.groups32[0], workload.equal32[0])
    return first


def measure_round(process: Process, workload: Workload, file: Callable[[str], Path] | None) -> Round:
    """Measure one round of a loaded system.

    Args:
        process: its worker.
        workload: the titles.
        file: where to keep vectors, by name; None if they are not wanted.
    """

    def kept(name: str) -> Path | None:
        return file(name) if file else None

    bulk = process.ask("time", batches=[workload.bulk], vectors=kept(_BULK))
    return Round(
        bulk=bulk["seconds"][0],
        bulk_cpu=bulk["cpu_seconds"],
        bulk_computed_tokens=bulk["computed_tokens"],
        repeated=encode(process, workload.repeated)[0],
        one=encode(process, *([title] for title in workload.singles), vectors=kept(_ONE)),
        eight=encode(process, *workload.groups8),
        thirty_two=encode(process, *workload.groups32, vectors=kept(_THIRTY_TWO)),
        thirty_two_equal=encode(process, *workload.equal32),
        tokenize=process.ask("tokenize", texts=workload.bulk)["seconds"],
    )


def measure_sweep(process: Process, workload: Workload) -> tuple[Batch, ...]:
    """Measure every size of the sweep, smallest first."""
    batches = []
    for group in workload.sweep:
        tokens = workload.count(group)
        fewest, most = _SWEEP_RUNS
        times = 1 + max(fewest, min(most, _SWEEP_TOKENS // tokens))
        seconds = process.ask("sweep", texts=group, times=times)["seconds"]
        batches.append(Batch(len(group), tokens, tuple(seconds[1:])))
    return tuple(batches)


def _parity(reference: Floats | None, vectors: Floats | None) -> Parity | None:
    """Compare with the reference vectors; None where there is nothing to compare."""
    if reference is None or vectors is None or reference.shape != vectors.shape or not np.isfinite(vectors).all():
        return None
    return measure(reference, vectors)


def _batch_cosine(workload: Workload, bulk: Floats | None, *others: Floats | None) -> float | None:
    """Find the lowest cosine between a title's vector in bulk and alone or among 32."""
    parts = [part for part in others if part is not None]
    if bulk is None or not parts:
        return None
    places = {title: i for i, title in enumerate(workload.bulk)}
    titles = [*workload.singles, *(title for group in workload.groups32 for title in group)]
    found: Any = np.concatenate(parts)
    if len(found) != len(titles) or not np.isfinite(found).all() or not np.isfinite(bulk).all():
        return None
    return measure(bulk[[places[title] for title in titles]], found).min_cosine


def _load(path: Path) -> Floats | None:
    try:
        vectors: Floats = np.load(path, allow_pickle=False)
    except (OSError, ValueError):
        return None
    return vectors
