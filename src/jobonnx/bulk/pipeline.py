"""A job from its input to its output: ranges are read, looked up and tokenised while the one before is computed and written.

The titles that a range computes are those which no earlier range had, whatever is under way; a killed job goes on with a range that
nothing of was kept. So its batches are the same, and with them the bits of its vectors.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jobonnx.bulk.compute import Compute, Computed
from jobonnx.bulk.job import Job, Range, ranges
from jobonnx.bulk.journal import Counts, Journal, as_array, records_of
from jobonnx.bulk.parts import schema, write_part
from jobonnx.bulk.records import Records
from jobonnx.errors import JobonnxError

_AHEAD = 2  # ranges that wait while one is computed and one is written


@dataclass(frozen=True)
class Maker:
    """What makes the vectors: enters the schema of every part, and a job under the same output has to have the same.

    Attributes:
        fingerprint: of the encoder.
        model: where it came from.
        variant: its precision.
        layout: of the vectors.
    """

    fingerprint: str
    model: str
    variant: str
    layout: Records


@dataclass
class Standing:
    """How far a job is, for whoever shows it.

    Attributes:
        share: of the input, by bytes.
        counts: of what is written, earlier runs included.
        fresh: of what is written by this run.
        seconds: since this run began.
    """

    share: float = 0.0
    counts: Counts = field(default_factory=Counts)
    fresh: Counts = field(default_factory=Counts)
    seconds: float = 0.0


def embed(
    job: Job,
    output: Path,
    maker: Maker,
    start: Callable[[], Compute],
    *,
    cache: Path | None = None,
    show: Callable[[Standing], object] = lambda standing: None,
) -> dict[str, Any]:
    """Do a job, or what is left of it.

    Args:
        job: the job.
        output: the folder of the parts.
        maker: what makes the vectors.
        start: makes what computes; not called if nothing is left to do.
        cache: records of earlier jobs, used and added to.
        show: is told how far the job is.

    Returns:
        The report, ready for JSON; that of the run which finished the job, if it was finished before.

    Raises:
        JobonnxError: the output is another job's or cannot be written, or the input cannot be read; the parts before stay.
    """
    with Journal(output, identity(job, maker), cache) as journal:
        if journal.finished is not None:
            return journal.finished
        compute = start()
        try:
            return _Run(job, maker, journal, compute, show).report()
        finally:
            compute.close()


def identity(job: Job, maker: Maker) -> dict[str, Any]:
    """Return what decides an output, as the journal keeps it."""
    return {
        "fingerprint": maker.fingerprint,
        "dtype": maker.layout.dtype,
        "dimension": maker.layout.dimension,
        "prompt": job.prompt,
        "input": [[file.name, file.size, file.modified] for file in job.files],
        "column": job.column,
        "id_column": job.id_column,
        "on_bad_row": job.on_bad_row,
        "part_rows": job.part_rows,
    }


@dataclass(frozen=True)
class _Resolved:
    """A range whose titles were looked up.

    Attributes:
        range: the range.
        valid: which of its rows have a title, bool.
        codes: for each such row, the place of its title in `keys`.
        keys: of its distinct titles.
        new: of those that it computes.
        texts: of `new`.
        known: records by key that the map had.
        cached: records by key that only the cache had.
        earlier: ranges under way that compute, or found in the cache, a title of this one: by key.
    """

    range: Range
    valid: Any
    codes: Any
    keys: list[bytes]
    new: list[bytes]
    texts: list[str]
    known: dict[bytes, bytes]
    cached: dict[bytes, bytes]
    earlier: dict[bytes, _Fetched]


@dataclass
class _Fetched:
    """The records that a range adds to the map, once they are there."""

    records: dict[bytes, bytes] = field(default_factory=dict)


class _Run:
    """One run of a job."""

    def __init__(self, job: Job, maker: Maker, journal: Journal, compute: Compute, show: Callable[[Standing], object]) -> None:
        self._job, self._maker, self._journal, self._compute, self._show = job, maker, journal, compute, show
        self._done, counts = journal.counts()
        self._standing = Standing(counts=counts)
        self._pending: dict[bytes, _Fetched] = {}  # titles that a range under way adds to the map
        self._began, self._cpu = time.perf_counter(), time.process_time()
        self._cpu_elsewhere = 0.0
        self._schema: Any = None
        self._failed: BaseException | None = None  # no range is written after one that was not

    def report(self) -> dict[str, Any]:
        """Run to the end."""
        waiting: deque[Future[None]] = deque()
        writer = ThreadPoolExecutor(1, "jobonnx-write")
        try:
            try:
                for part in ranges(self._job, self._done):
                    resolved = self._resolve(part)
                    waiting.append(writer.submit(self._write, resolved, *self._submit(resolved)))
                    while len(waiting) > self._compute.depth + _AHEAD:
                        waiting.popleft().result()
            except JobonnxError:
                while waiting:  # what was read before is finished, and stays
                    waiting.popleft().result()
                raise
            while waiting:
                waiting.popleft().result()
        finally:
            writer.shutdown(wait=False, cancel_futures=True)
        report = self._summary()
        self._journal.finish(report)
        return report

    def _resolve(self, part: Range) -> _Resolved:
        """Find out which titles of a range are new."""
        valid = part.titles.is_valid().to_numpy(zero_copy_only=False)
        encoded = part.titles.drop_null().dictionary_encode()
        texts = [self._job.prompt + title for title in encoded.dictionary.to_pylist()]
        keys = [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts]
        # In this order: a range leaves `_pending` only after its commit, so each title of an earlier one is found here or there.
        earlier = {key: self._pending[key] for key in keys if key in self._pending}
        known, cached = self._journal.find([key for key in keys if key not in earlier])
        added = [place for place, key in enumerate(keys) if key not in known and key not in earlier and key not in cached]
        return _Resolved(
            range=part,
            valid=valid,
            codes=encoded.indices.to_numpy(),
            keys=keys,
            new=[keys[place] for place in added],
            texts=[texts[place] for place in added],
            known=known,
            cached=cached,
            earlier=earlier,
        )

    def _submit(self, resolved: _Resolved) -> tuple[Future[Computed] | None, _Fetched]:
        fetched = _Fetched()
        self._pending.update(dict.fromkeys([*resolved.new, *resolved.cached], fetched))
        share, last = resolved.range.read, self._standing
        if not resolved.texts:
            return None, fetched
        done = 0

        def advance(titles: int) -> None:
            nonlocal done
            done += titles
            last.seconds = time.perf_counter() - self._began
            self._show(
                Standing(last.share + (share - last.share) * done / len(resolved.texts), last.counts, last.fresh, last.seconds)
            )

        return self._compute.submit(resolved.texts, advance), fetched

    def _write(self, resolved: _Resolved, future: Future[Computed] | None, fetched: _Fetched) -> None:
        """Wait for a range's vectors, write its part and commit it. Ranges come here one by one, in order."""
        if self._failed is not None:
            raise self._failed
        try:
            self._write_next(resolved, future, fetched)
        except BaseException as error:
            self._failed = error
            raise

    def _write_next(self, resolved: _Resolved, future: Future[Computed] | None, fetched: _Fetched) -> None:
        layout, part = self._maker.layout, resolved.range
        new: dict[bytes, bytes] = {}
        if future is not None:
            computed = future.result()
            self._cpu_elsewhere += computed.cpu_seconds
            new = records_of(resolved.new, computed.records)
        fetched.records.update(new)
        fetched.records.update(resolved.cached)
        rows = [fetched.records.get(key) or resolved.known.get(key) or resolved.earlier[key].records[key] for key in resolved.keys]
        records = np.zeros((len(part.titles), layout.width), np.uint8)
        records[resolved.valid] = as_array(rows, layout.width)[resolved.codes]
        truncated = int(layout.truncated(records).sum())
        if self._schema is None:
            self._schema = schema(layout, part.ids.type, self._facts())
        partial = self._journal.partial(part.number)
        with self._journal.written():
            write_part(partial, self._schema, part.ids, part.titles, records, resolved.valid, layout)
        counts = Counts(
            read=part.rows,
            written=len(part.titles),
            distinct=len(resolved.new) + len(resolved.cached),
            computed=len(resolved.new),
            cached=len(resolved.cached),
            reused=int(resolved.valid.sum()) - len(resolved.new),
            truncated=truncated,
            null=part.null,
            refused=part.refused,
        )
        self._journal.commit(part.number, partial, counts, new, resolved.cached)
        for key in fetched.records:
            del self._pending[key]
        standing = self._standing
        standing.share, standing.counts, standing.fresh = part.read, standing.counts + counts, standing.fresh + counts
        standing.seconds = time.perf_counter() - self._began
        self._show(standing)

    def _facts(self) -> dict[str, str]:
        maker = self._maker
        return {
            "fingerprint": maker.fingerprint,
            "model": maker.model,
            "variant": maker.variant,
            "prompt": self._job.prompt,
            "dtype": maker.layout.dtype,
            "dimension": str(maker.layout.dimension),
        }

    def _summary(self) -> dict[str, Any]:
        seconds = max(time.perf_counter() - self._began, 1e-9)
        fresh = self._standing.fresh
        return {
            "output": str(self._journal.folder),
            **self._facts(),
            "parts": self._journal.counts()[0],
            **asdict(self._standing.counts),
            "this_run": {
                "read": fresh.read,
                "computed": fresh.computed,
                "seconds": round(seconds, 3),
                "cpu_seconds": round(time.process_time() - self._cpu + self._cpu_elsewhere, 3),
                "rows_per_second": round(fresh.read / seconds, 1),
                "computed_per_second": round(fresh.computed / seconds, 1),
            },
        }
