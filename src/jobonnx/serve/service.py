"""What lies behind the routes: the encoder with its scheduler, the titles to match, and whether all that is well."""

from __future__ import annotations

import asyncio
import concurrent.futures
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jobonnx.arrays import Floats, unit
from jobonnx.data.titles import read_titles
from jobonnx.encoder import Encoder
from jobonnx.prompts import DOCUMENT, prompt_of
from jobonnx.serve.cache import Cache, Text
from jobonnx.serve.http import Call, ClientLeftError, HttpError
from jobonnx.serve.job import Job
from jobonnx.serve.logs import Log
from jobonnx.serve.matching import BuiltIn, Corpus, OnDisk, PreparingError
from jobonnx.serve.metrics import Metrics
from jobonnx.serve.pace import warm_up
from jobonnx.serve.refusals import DeadlineError, DrainingError, OverloadedError, TooLargeError
from jobonnx.serve.scheduler import Limits, Scheduler
from jobonnx.serve.settings import MOST_WAITING_SEARCHES, STALLED_SECONDS, ServeSettings
from jobonnx.serve.tokens import PlainTokenizer

_WARM_UP_TITLES = 512
_REFRESH_SECONDS = 1.0  # between looks at whether the index was replaced
_PREPARED_AT_START_SECONDS = 60.0  # the built-in titles are encoded at once if that takes less; else when they are wanted


class Service:
    """The parts that live as long as the process."""

    def __init__(self, encoder: Encoder, settings: ServeSettings, metrics: Metrics, log: Log) -> None:
        self.encoder, self.settings, self.metrics, self.log = encoder, settings, metrics, log
        self.model = encoder.bundle.model
        self.plain = PlainTokenizer(encoder.tokenizer.path)
        self.cache = Cache(encoder.fingerprint, settings.cache_mb << 20)
        self.scheduler: Scheduler | None = None
        self.draining = False
        self.corpus: Corpus
        if settings.index is not None:
            self.corpus = OnDisk(settings.index, encoder.fingerprint)
        else:
            self.corpus = BuiltIn(encoder.fingerprint, encoder.dimension, prompt_of(encoder, DOCUMENT), self._encode_titles)
        self._searches = ThreadPoolExecutor(1, "jobonnx-search")
        self._waiting_searches = 0
        self._others = ThreadPoolExecutor(1, "jobonnx-other")  # what is rare and slow: /tokenize, warming up, the index
        self._tasks: list[asyncio.Task[None]] = []
        self._loop: asyncio.AbstractEventLoop
        self._problem: BaseException | None = None
        self._gauges()

    # Life

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Warm up in the background; `ready` says when that is done."""
        self._loop = loop
        self._tasks = [loop.create_task(self._warm_up()), loop.create_task(self._watch())]

    async def stop(self) -> None:
        """Finish what was accepted, for as long as a request may take, and end."""
        self.draining = True
        for task in self._tasks:
            task.cancel()
        if self.scheduler is not None:
            seconds = min(self.settings.deadline_seconds, 60.0)
            await asyncio.to_thread(self.scheduler.drain, seconds)
            await asyncio.to_thread(self.scheduler.close)
        self._searches.shutdown(wait=False, cancel_futures=True)
        self._others.shutdown(wait=False, cancel_futures=True)

    def unhealthy(self) -> str | None:
        """Say why the process should be restarted; None if it is well."""
        if self._problem is not None:
            return "warming up failed; the log says why"
        if self.scheduler is not None and (seconds := self.scheduler.stalled_seconds()) > STALLED_SECONDS:
            return f"the engine has made no progress for {seconds:.0f} s; restart the service"
        return None

    def unready(self) -> str | None:
        """Say why no requests should come here; None if they may."""
        if self.draining:
            return "the service is stopping; ask another replica"
        if (reason := self.unhealthy()) is not None:
            return reason
        return "the service is warming up; try again in a few seconds" if self.scheduler is None else None

    async def _warm_up(self) -> None:
        try:
            start = time.monotonic()
            titles = read_titles()
            some = titles[:: max(1, len(titles) // _WARM_UP_TITLES)]
            budget = self.encoder.settings.token_budget
            pace = await self._loop.run_in_executor(self._others, warm_up, self.encoder, some, budget)
            limits = Limits(budget, self.settings.max_queue_tokens)
            self.scheduler = Scheduler(self.encoder, self.cache, limits, pace, self._deliver, self.metrics.batch)
            rate = pace.tokens_per_second or 0.0
            self.log.line(
                "ready", seconds=round(time.monotonic() - start, 2), tokens_per_second=round(rate), slice_tokens=pace.slice_tokens
            )
            if isinstance(self.corpus, BuiltIn) and 8 * len(self.corpus) / max(rate, 1.0) < _PREPARED_AT_START_SECONDS:
                self.corpus.prepare()
        except Exception as error:
            self._problem = error
            self.log.error("warming up failed", error)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_REFRESH_SECONDS)
            try:
                opened = await self._loop.run_in_executor(self._others, self.corpus.refresh)
            except Exception as error:
                self.log.error("the index could not be looked at", error)
                continue
            if opened is not None:
                self.metrics.reopened.labels("opened" if opened else "failed").inc()
                problem = getattr(self.corpus, "problem", None)
                self.log.line(
                    "the index was opened again" if opened else f"the new index is not used: {problem}",
                    "info" if opened else "error",
                    titles=len(self.corpus),
                )

    # Work

    async def embed(self, call: Call, texts: Sequence[Text]) -> Floats:
        """Compute vectors, the model's full ones, float32 [texts, dimension].

        Raises:
            HttpError: 413, 429, 503, or 500 for texts that the engine fails on.
            ClientLeftError: the client has left; what nobody else wants is not computed.
        """
        if (scheduler := self.scheduler) is None:
            raise HttpError(503, self.unready() or "", code="warming_up", headers={"Retry-After": "1"})
        future: asyncio.Future[None] = self._loop.create_future()
        deadline = self.settings.deadline_seconds
        try:
            job = scheduler.submit(texts, time.monotonic() + deadline, future)
        except (OverloadedError, TooLargeError, DrainingError) as refusal:
            raise _refused(refusal) from None
        if not job.done:
            await self._wait(call, scheduler, job, future, deadline)
        if job.error is not None:
            raise _refused(job.error)
        assert job.vectors is not None, "a job without an error has its vectors"
        call.titles, call.tokens, call.hits = len(texts), job.tokens, job.hits
        call.stages |= self.metrics.job(job)
        return job.vectors

    async def _wait(self, call: Call, scheduler: Scheduler, job: Job, future: asyncio.Future[None], deadline: float) -> None:
        def gone(task: asyncio.Task[Any]) -> None:
            if not task.cancelled() and not future.done():
                future.set_exception(ClientLeftError())

        def late() -> None:
            if not future.done():
                future.set_exception(_refused(DeadlineError("the request was not done by its deadline; try again later")))

        watch = self._loop.create_task(call.receive())  # after the body, the next message is that the client has left
        watch.add_done_callback(gone)
        timer = self._loop.call_later(deadline, late) if deadline < math.inf else None
        try:
            await future
        finally:
            scheduler.cancel(job)  # changes nothing if it is done
            watch.cancel()
            if timer is not None:
                timer.cancel()

    def check_corpus(self) -> None:
        """Refuse while there is nothing to search, before anything is computed.

        Raises:
            HttpError: 503 while the built-in titles are being encoded.
        """
        if (reason := self.unready()) is not None and self.scheduler is None:
            raise HttpError(503, reason, code="warming_up", headers={"Retry-After": "1"})
        try:
            self.corpus.check()
        except PreparingError as error:
            raise HttpError(503, str(error), code="preparing", headers={"Retry-After": "2"}) from None

    async def match(self, call: Call, vectors: Floats, count: int) -> list[list[Any]]:
        """Find the nearest titles to each query.

        Raises:
            HttpError: 429, for too many searches that wait.
        """
        if self._waiting_searches >= MOST_WAITING_SEARCHES:
            raise HttpError(429, "too many searches are waiting; try again later", code="overloaded", headers={"Retry-After": "1"})
        start = time.monotonic()
        self._waiting_searches += 1
        try:
            found = await self._loop.run_in_executor(self._searches, self.corpus.search, vectors, count)
        finally:
            self._waiting_searches -= 1
        call.stages["search"] = (start, time.monotonic() - start)
        self.metrics.stage("search", call.stages["search"][1])
        return found

    async def aside(self, work: Any, *arguments: Any) -> Any:
        """Run rare and slow work on a thread of its own."""
        return await self._loop.run_in_executor(self._others, work, *arguments)

    def _deliver(self, jobs: list[Job]) -> None:
        """Wake who waits for these jobs; called on the compute thread, once per batch."""
        waiting = [job.owner for job in jobs if isinstance(job.owner, asyncio.Future)]
        for job in jobs:
            if isinstance(job.owner, concurrent.futures.Future):
                job.owner.set_result(None)
        if waiting and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_wake, waiting)

    def _encode_titles(self, titles: list[str]) -> Floats:
        """Encode some of the built-in titles between the requests; on a thread that may wait."""
        assert self.scheduler is not None, "they are asked for when the service is ready"
        while True:
            owner: concurrent.futures.Future[None] = concurrent.futures.Future()
            try:
                job = self.scheduler.submit(titles, math.inf, owner)
            except OverloadedError as refusal:
                time.sleep(min(5.0, max(0.1, refusal.retry_after)))
                continue
            if not job.done:
                owner.result()
            if job.error is not None:
                raise job.error
            assert job.vectors is not None, "a job without an error has its vectors"
            return job.vectors if self.model.normalize else unit(job.vectors)

    def _gauges(self) -> None:
        gauge, cache = self.metrics.gauge, self.cache
        gauge("queue_tokens", "Tokens that wait or run", lambda: self.scheduler.queued_tokens if self.scheduler else 0)
        gauge("queue_tokens_limit", "Tokens that may wait or run", lambda: self.settings.max_queue_tokens)
        gauge(
            "engine_tokens_per_second",
            "Measured rate of full batches",
            lambda: (self.scheduler.tokens_per_second or 0.0) if self.scheduler else 0.0,
        )
        gauge(
            "engine_stalled_seconds",
            "Seconds with work and without progress",
            lambda: self.scheduler.stalled_seconds() if self.scheduler else 0.0,
        )
        gauge("cache_bytes", "Bytes of the cache of vectors", lambda: cache.bytes)
        gauge("cache_vectors", "Vectors in the cache", lambda: len(cache))
        gauge("ready", "1 if requests may come, as /ready says", lambda: float(self.unready() is None))
        gauge("corpus_titles", "Titles that /match ranks", lambda: len(self.corpus))
        gauge("log_lines_dropped", "Lines of the log that could not be written", lambda: self.log.dropped)
        encoder = self.encoder
        self.metrics.information(
            model=self.model.source, variant=encoder.variant, provider=encoder.provider, fingerprint=encoder.fingerprint
        )


def _wake(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


def _refused(error: BaseException) -> BaseException:
    """Make the reply of what the scheduler did not compute; anything else stays as it is, and becomes a 500 in the log."""
    if isinstance(error, OverloadedError):
        seconds = str(max(1, min(60, math.ceil(error.retry_after))))
        return HttpError(429, str(error), code="overloaded", headers={"Retry-After": seconds})
    if isinstance(error, TooLargeError):
        return HttpError(413, str(error), code="too_large")
    if isinstance(error, DeadlineError):
        return HttpError(503, str(error), code="deadline_exceeded", headers={"Retry-After": "1"})
    if isinstance(error, DrainingError):
        return HttpError(503, str(error), code="stopping", headers={"Retry-After": "1"})
    return error
