"""Which titles are computed next: continuous batching by tokens, without a timer and without a word of HTTP.

An idle engine starts at once. While it runs, requests gather, and the next batch takes titles from all of them. Everything that
waits is a `Job`, the texts of one request; the unit that is computed is a title, which several jobs may want.

Order: shortest remaining work first. A job's key is `remaining tokens + ageing x arrival`, the lowest goes first: a job that came
s seconds earlier goes before one that is shorter by less than s x ageing tokens. So a long job moves on even while short ones keep
coming. The key changes only when the job's own work does, so a heap holds it.

Slices: a job with several titles and more tokens than a slice is long. While short jobs come, a batch holds at most one slice of
long work (`jobonnx.serve.pace`), and the next batch none. So a single title waits for about the time of one more title, whatever
else is in flight: for the slice that runs when it comes, or for the one in its own batch.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jobonnx.arrays import Floats
from jobonnx.errors import JobonnxError
from jobonnx.serve.cache import Cache, Text
from jobonnx.serve.job import Job, Title, estimated_tokens
from jobonnx.serve.refusals import DeadlineError, DrainingError, OverloadedError, TooLargeError

_log = logging.getLogger(__name__)

INLINE_CHARACTERS = 4096  # of the texts that the compute thread tokenises itself; more goes to a thread of its own
_TOKENIZED_AT_ONCE = 256  # texts of a call there, so that it never holds the cores for long
_CALM_SECONDS = 2.0  # without a short job: then long work may fill whole batches
_LONGEST_BATCH_SECONDS = 0.25  # what a title that arrives in calm waits at most, as far as the measured rate says it
_AGEING = 0.25  # share of the engine's tokens per second that a waiting job gains on a newer one
_UNMEASURED_RATE = 1000.0  # tokens per second, for ageing, while nothing was measured
_LEARNING = 0.1  # weight of a new batch in the measured rate
# Share of a request's deadline that the queue before it may take: what is refused late has waited for nothing. At .75 and twice the
# capacity 5% of refusals came late, at .6 one of 2,974: shorter titles go first, and the measured rate is that of a while ago.
_FILLED = 0.5


class Computes(Protocol):
    """What the scheduler needs of an encoder."""

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text."""

    def encode_batch(self, rows: Sequence[Sequence[int]]) -> Floats:
        """Compute one batch: float32 [rows, dimension]."""


@dataclass(frozen=True)
class Pace:
    """How fast the engine is, as measured before the first request.

    Attributes:
        slice_tokens: the most tokens that take hardly longer than one title.
        tokens_per_second: of full batches; None where it was not measured.
    """

    slice_tokens: int
    tokens_per_second: float | None = None


@dataclass(frozen=True)
class Limits:
    """What the scheduler takes.

    Attributes:
        token_budget: tokens of a batch, padding included.
        queue_tokens: tokens that may wait or run.
    """

    token_budget: int = 2048
    queue_tokens: int = 131_072


@dataclass(frozen=True)
class Batch:
    """What one call of the engine was, for metrics.

    Attributes:
        titles: rows.
        tokens: real ones.
        padded_tokens: rows x the longest one.
        seconds: of the call.
        failed: whether it raised.
    """

    titles: int
    tokens: int
    padded_tokens: int
    seconds: float
    failed: bool


class Scheduler:
    """Jobs in, vectors out, on a thread of its own. Safe to share between threads."""

    def __init__(
        self,
        encoder: Computes,
        cache: Cache,
        limits: Limits,
        pace: Pace,
        deliver: Callable[[list[Job]], object],
        report: Callable[[Batch], object] = lambda batch: None,
    ) -> None:
        """Start the threads.

        Args:
            encoder: what tokenises and computes.
            cache: vectors of earlier texts.
            limits: of batches and queue.
            pace: how fast the engine is.
            deliver: is given jobs that ended, on one of the threads; it must not block. Neither a job that `submit` returns as done
                nor one that is cancelled is delivered.
            report: is given every batch, on the compute thread.
        """
        self._encoder, self._cache, self._limits = encoder, cache, limits
        self._slice = min(pace.slice_tokens, limits.token_budget)
        self._rate = pace.tokens_per_second
        self._ageing = _AGEING * (pace.tokens_per_second or _UNMEASURED_RATE)  # fixed: keys of one heap have to agree
        self._deliver, self._report = deliver, report
        self._changed = threading.Condition(threading.Lock())
        self._flying: dict[Text, Title] = {}
        self._arrived: list[Job] = []
        self._short: list[tuple[float, int, Job]] = []
        self._long: list[tuple[float, int, Job]] = []
        self._serial = itertools.count()
        self._queued = 0  # tokens that wait or run
        self._queued_by_size = [0] * 64  # the same, by the size class of the job that brought them
        self._last_short = -math.inf
        self._long_ran = False  # whether the last batch held long work
        self._progress = time.monotonic()
        self._draining = self._closed = False
        self._to_tokenize: deque[Job] = deque()
        self._threads = [
            threading.Thread(target=self._compute, name="jobonnx-compute", daemon=True),
            threading.Thread(target=self._tokenize_long, name="jobonnx-tokenize", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def queued_tokens(self) -> int:
        """Tokens that wait or run; an estimate for texts that are not tokenised yet."""
        return self._queued

    @property
    def tokens_per_second(self) -> float | None:
        """The measured rate of full batches."""
        return self._rate

    def stalled_seconds(self) -> float:
        """Seconds for which there has been work and no progress: 0 for an idle engine, infinity for one whose thread has died."""
        if not (self._closed or all(thread.is_alive() for thread in self._threads)):
            return math.inf
        with self._changed:
            return time.monotonic() - self._progress if self._flying else 0.0

    def submit(self, texts: Sequence[Text], deadline: float = math.inf, owner: Any = None) -> Job:
        """Take the texts of one request.

        Args:
            texts: texts, or tuples of token ids.
            deadline: on `time.monotonic`'s clock; what is not started by then is not computed.
            owner: kept in the job for the caller.

        Returns:
            The job. It is done already if the cache has every vector.

        Raises:
            OverloadedError: the queue has no room for it, or is too long for its deadline.
            TooLargeError: it is larger than the whole queue.
            DrainingError: nothing new is taken.
        """
        job = Job(texts, deadline, owner)
        with self._changed:
            if self._draining:
                raise DrainingError("the service is stopping; ask another replica, or again in a few seconds")
            missing = self._take_cached(job)
            if not missing:
                job.done = True
                job.finished = time.monotonic()
                return job
            new = [text for text in missing if text not in self._flying]
            tokens = sum(len(text) if isinstance(text, tuple) else estimated_tokens(text) for text in new)
            size_class = _size_class(tokens)
            self._admit(job, tokens, size_class)
            for text in new:
                title = self._flying[text] = Title(text, size_class)
                self._count(title, title.cost)
            if len(new) == len(self._flying):
                self._progress = job.submitted  # it was idle
            for text in missing:
                title = self._flying[text]
                title.jobs.append(job)
                job.pending.append(title)
            job.left = len(missing)
            self._arrived.append(job)
            self._changed.notify_all()
        return job

    def cancel(self, job: Job) -> bool:
        """Drop a job whose client has left: what nobody else wants and is not running is not computed. False if it had ended."""
        with self._changed:
            if job.done:
                return False
            self._end(job)
            return True

    def drain(self, seconds: float) -> bool:
        """Take nothing new, and wait until everything accepted has ended; False if that takes longer."""
        with self._changed:
            self._draining = True
            return self._changed.wait_for(lambda: not self._flying, seconds)

    def close(self) -> None:
        """Take nothing new, fail what waits, and end the threads; a batch that runs is not waited for longer than a second."""
        with self._changed:
            self._draining = self._closed = True
            waiting = {job for title in self._flying.values() for job in title.jobs}
            for job in waiting:
                self._end(job, DrainingError("the service has stopped; ask another replica"))
            self._changed.notify_all()
        self._deliver(list(waiting))
        for thread in self._threads:
            thread.join(1)

    # What follows runs under the lock, unless it says otherwise.

    def _take_cached(self, job: Job) -> list[Text]:
        """Fill in what the cache has; return the texts that it has not."""
        missing = []
        for text in job.places:
            found = self._cache.get(text)
            if found is None:
                missing.append(text)
            else:
                job.hits += job.fill(text, found.vector, found.tokens)
        return missing

    def _admit(self, job: Job, tokens: int, size_class: int) -> None:
        most = self._limits.queue_tokens
        if tokens > most:
            raise TooLargeError(f"the request has about {tokens:,} tokens and the queue takes {most:,}; send fewer titles at once")
        rate = self._rate
        if self._queued + tokens > most:
            wait = (self._queued + tokens - most) / rate if rate else 1.0
            raise OverloadedError(f"{self._queued:,} tokens are waiting and the queue takes {most:,}; try again later", wait)
        if rate and job.deadline < math.inf:
            ahead = sum(self._queued_by_size[: size_class + 1])
            if ahead / rate > _FILLED * (job.deadline - job.submitted):
                raise OverloadedError(
                    f"{ahead:,} tokens go first, which take {ahead / rate:.1f} s and are due in "
                    f"{job.deadline - job.submitted:.1f} s; try again later",
                    ahead / rate - _FILLED * (job.deadline - job.submitted),
                )

    def _count(self, title: Title, tokens: int) -> None:
        self._queued += tokens
        self._queued_by_size[title.size_class] += tokens

    def _forget(self, title: Title) -> None:
        """Take a title out of the queue."""
        if self._flying.get(title.text) is title:
            del self._flying[title.text]
            self._count(title, -title.cost)
        if not self._flying:
            self._changed.notify_all()  # drain waits for it

    def _end(self, job: Job, error: BaseException | None = None) -> None:
        """End a job without its vectors."""
        job.done, job.error, job.finished = True, error, time.monotonic()
        for text in job.places:
            title = self._flying.get(text)
            if title is not None and job in title.jobs:
                title.jobs.remove(job)
                if not title.jobs and not title.running:
                    self._forget(title)
        job.pending.clear()

    def _push(self, job: Job) -> None:
        """Put a tokenised job where its next titles are found."""
        if job.done or not job.pending:
            return
        key = job.remaining + job.submitted * self._ageing
        heap = self._short if len(job.pending) == 1 or job.remaining <= self._slice else self._long
        heapq.heappush(heap, (key, next(self._serial), job))

    def _next_batch(self, ended: list[Job]) -> list[Title]:
        """Choose the titles of a batch, and mark them as running; jobs past their deadline are added to `ended`."""
        now = time.monotonic()
        most = self._limits.token_budget
        if self._rate:
            most = min(most, max(self._slice, int(self._rate * _LONGEST_BATCH_SECONDS)))
        most_long = most if now - self._last_short > _CALM_SECONDS else self._slice
        chosen = _Chosen(self._limits.token_budget)
        long_first = self._long and (not self._short or self._long[0] < self._short[0])
        order = [(self._short, most)]
        if long_first:
            order.insert(0, (self._long, most_long))
        elif not (self._short and self._long_ran):
            order.append((self._long, most_long))
        self._long_ran = False
        for heap, limit in order:
            before = len(chosen.titles)
            self._choose(heap, limit, now, chosen, ended)
            self._long_ran |= heap is self._long and len(chosen.titles) > before
        return chosen.titles

    def _choose(self, heap: list[tuple[float, int, Job]], limit: int, now: float, chosen: _Chosen, ended: list[Job]) -> None:
        while heap and chosen.has_room(limit):
            job = heapq.heappop(heap)[2]
            if job.done:
                continue
            if job.deadline < now:
                self._end(job, DeadlineError("the request was not done by its deadline; try again later, or with fewer titles"))
                ended.append(job)
                continue
            while job.pending:
                title = job.pending[0]
                new = not title.running  # else another job brought it into this batch or an earlier one
                if new and not chosen.take(title, limit):
                    break
                job.pending.popleft()
                job.remaining -= title.cost
                if new:
                    for each in title.jobs:
                        each.started = each.started or now
            if job.pending:
                self._push(job)
                break  # what comes behind it waits for another batch

    def _sort_arrivals(self) -> list[Job]:
        """Hand jobs with much text to the other thread; return those that are tokenised at once."""
        arrived, self._arrived = self._arrived, []
        here: list[Job] = []
        for job in arrived:
            if len(job.pending) == 1 or sum(title.cost for title in job.pending) <= self._slice:
                self._last_short = job.submitted
            if sum(len(title.text) for title in job.pending) <= INLINE_CHARACTERS:
                here.append(job)
            else:
                self._to_tokenize.append(job)
                self._changed.notify_all()
        return here

    def _finish(self, titles: Sequence[Title], vectors: Floats) -> list[Job]:
        """Hand the vectors of a batch to the jobs that want them; return those that are complete."""
        finished = []
        for title, vector in zip(titles, vectors, strict=True):
            self._forget(title)
            tokens = len(title.row or ())
            self._cache.put(title.text, vector, tokens)
            for job in title.jobs:
                job.fill(title.text, vector, tokens)
                job.left -= 1
                if job.left == 0:
                    job.done, job.finished = True, time.monotonic()
                    finished.append(job)
        return finished

    # What follows runs on the threads, without the lock.

    def _compute(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._arrived or self._short or self._long or self._closed)
                if self._closed:
                    return
                here = self._sort_arrivals()
            ended: list[Job] = []
            try:
                ended += self._tokenize(here)
                with self._changed:
                    batch = self._next_batch(ended)
                if batch:
                    ended += self._run(batch)
            except BaseException:  # this thread must outlive whatever happens; the jobs concerned end by their deadline
                _log.exception("the scheduler failed")
            if ended:
                self._deliver(ended)

    def _tokenize(self, jobs: list[Job]) -> list[Job]:
        """Tokenise jobs in one call, and put them where batches find them; if that fails, each in a call of its own."""
        if not jobs:
            return []
        try:
            with self._changed:
                titles = {id(title): title for job in jobs for title in job.pending if title.row is None}
            for some in _chunks(list(titles.values()), _TOKENIZED_AT_ONCE):
                rows = self._encoder.tokenize([str(title.text) for title in some])
                with self._changed:
                    for title, row in zip(some, rows, strict=True):
                        self._set_row(title, row)
        except BaseException as error:
            if len(jobs) > 1:
                return [failed for job in jobs for failed in self._tokenize([job])]
            with self._changed:
                if jobs[0].done:
                    return []
                self._end(jobs[0], error)
            return jobs
        with self._changed:
            for job in jobs:
                job.ready = time.monotonic()
                job.remaining = sum(title.cost for title in job.pending)
                if len(job.pending) > 1:
                    job.pending = deque(sorted(job.pending, key=lambda title: -title.cost))  # rows of a batch need similar lengths
                self._push(job)
            self._changed.notify_all()
        return []

    def _set_row(self, title: Title, row: Sequence[int]) -> None:
        if title.row is None:
            title.row = row
            if self._flying.get(title.text) is title:  # not a later one of the same text, whose first request was dropped
                self._count(title, len(row) - title.cost)
            title.cost = len(row)

    def _tokenize_long(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._to_tokenize or self._closed)
                if self._closed:
                    return
                job = self._to_tokenize.popleft()
            try:
                if failed := self._tokenize([job]):
                    self._deliver(failed)
            except BaseException:
                _log.exception("the scheduler failed")

    def _run(self, titles: Sequence[Title]) -> list[Job]:
        """Compute a batch, and return the jobs that ended. One that fails is halved until only what makes it fail is left."""
        rows = [title.row or () for title in titles]
        start = time.monotonic()
        failure: BaseException | None = None
        try:
            vectors = self._encoder.encode_batch(rows)
            if len(vectors) != len(rows):
                raise JobonnxError(f"the engine gave {len(vectors)} vectors for {len(rows)} rows; restart the service")
        except BaseException as error:
            failure = error
        seconds = time.monotonic() - start
        tokens = sum(map(len, rows))
        self._report(Batch(len(rows), tokens, len(rows) * max(map(len, rows)), seconds, failure is not None))
        with self._changed:
            now = time.monotonic()
            busy, self._progress = now - self._progress, now
            if failure is None:
                self._learn(tokens, busy)
                return self._finish(titles, vectors)
            if len(titles) == 1:
                return self._fail(titles[0], failure)
        middle = len(titles) // 2
        return self._run_wanted(titles[:middle]) + self._run_wanted(titles[middle:])

    def _run_wanted(self, titles: Sequence[Title]) -> list[Job]:
        with self._changed:
            for title in titles:
                if not title.jobs:
                    self._forget(title)
            wanted = [title for title in titles if title.jobs]
        return self._run(wanted) if wanted else []

    def _fail(self, title: Title, error: BaseException) -> list[Job]:
        """End the jobs that want a title which cannot be computed."""
        title.running = False
        jobs = list(title.jobs)
        for job in jobs:
            self._end(job, error)
        self._forget(title)
        return jobs

    def _learn(self, tokens: int, seconds: float) -> None:
        """Follow the rate, by batches that are large enough to show it.

        Args:
            tokens: of a batch.
            seconds: since the batch before, or since there was work again: tokenising and handing out take their part.
        """
        if self._rate and seconds > 0 and tokens >= min(self._limits.token_budget, self._rate * _LONGEST_BATCH_SECONDS) / 2:
            self._rate += _LEARNING * (tokens / seconds - self._rate)


class _Chosen:
    """The titles of a batch in the making."""

    def __init__(self, token_budget: int) -> None:
        self.titles: list[Title] = []
        self._budget, self._tokens, self._longest = token_budget, 0, 0

    def has_room(self, limit: int) -> bool:
        return not self.titles or self._tokens < limit

    def take(self, title: Title, limit: int) -> bool:
        """Add a title and mark it as running, unless the batch would be too large; the first one always fits."""
        longest = max(self._longest, title.cost)
        if self.titles and (self._tokens + title.cost > limit or longest * (len(self.titles) + 1) > self._budget):
            return False
        self.titles.append(title)
        title.running = True
        self._tokens, self._longest = self._tokens + title.cost, longest
        return True


def _size_class(tokens: int) -> int:
    """Powers of two: jobs of a class are about equally long."""
    return min(63, tokens.bit_length())


def _chunks(titles: list[Title], size: int) -> Iterator[list[Title]]:
    for first in range(0, len(titles), size):
        yield titles[first : first + size]
