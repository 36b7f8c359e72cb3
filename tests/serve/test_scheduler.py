"""The scheduler without a model: a fake encoder whose batches the test starts and ends."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from jobonnx.arrays import Floats
from jobonnx.serve.cache import Cache
from jobonnx.serve.job import Job, estimated_tokens
from jobonnx.serve.refusals import DeadlineError, DrainingError, OverloadedError, TooLargeError
from jobonnx.serve.scheduler import Batch, Limits, Pace, Scheduler

PATIENCE = 10.0


class Fake:
    """An encoder: a word is a token. With `hold`, each batch waits until the test lets it go."""

    def __init__(self) -> None:
        self.batches: list[list[Sequence[int]]] = []
        self.tokenized: list[str] = []
        self.names: dict[tuple[int, ...], str] = {}
        self.poison: set[str] = set()
        self.bad_texts: set[str] = set()
        self.hold = False
        self.running = threading.Semaphore(0)
        self.go = threading.Semaphore(0)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        if self.bad_texts & set(texts):
            raise ValueError("cannot tokenise")
        rows = []
        for text in texts:
            self.tokenized.append(text)
            row = [hash(text) % (1 << 24), *range(len(text.split()) - 1)]
            self.names[tuple(row)] = text
            rows.append(row)
        return rows

    def encode_batch(self, rows: Sequence[Sequence[int]]) -> Floats:
        self.batches.append(list(rows))
        if self.hold:
            self.running.release()
            assert self.go.acquire(timeout=PATIENCE)
        if self.poison & {self.names.get(tuple(row), "") for row in rows}:
            raise RuntimeError("poison")
        return np.array([self.vector(row) for row in rows], np.float32)

    @staticmethod
    def vector(row: Sequence[int]) -> list[float]:
        return [float(row[0]), float(len(row))]

    def texts_of(self, batch: int) -> list[str]:
        return [self.names[tuple(row)] for row in self.batches[batch]]

    def wait_for_a_batch(self) -> None:
        assert self.running.acquire(timeout=PATIENCE)

    def let_go(self, batches: int = 1) -> None:
        self.go.release(batches)

    def free(self) -> None:
        self.hold = False
        self.go.release(100_000)


class Bench:
    """A scheduler with what it delivered and reported."""

    def __init__(self, limits: Limits, pace: Pace, cache_bytes: int) -> None:
        self.encoder = Fake()
        self.delivered: list[Job] = []
        self.reports: list[Batch] = []
        self._changed = threading.Condition()
        self.cache = Cache("f", cache_bytes)
        self.scheduler = Scheduler(self.encoder, self.cache, limits, pace, self._deliver, self.reports.append)

    def _deliver(self, jobs: list[Job]) -> None:
        with self._changed:
            self.delivered += jobs
            self._changed.notify_all()

    def submit(self, *texts: str, deadline: float = math.inf) -> Job:
        return self.scheduler.submit(texts, deadline)

    def result(self, job: Job) -> Floats:
        with self._changed:
            assert self._changed.wait_for(lambda: job.done, PATIENCE)
        if job.error is not None:
            raise job.error
        assert job.vectors is not None
        return job.vectors

    def until(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            end = time.monotonic() + PATIENCE
            while not condition():
                assert time.monotonic() < end, "it never happened"
                self._changed.wait(0.01)

    def busy(self) -> Job:
        """Start a batch and hold it, so that what comes next gathers."""
        self.encoder.hold = True
        job = self.submit("busy")
        self.encoder.wait_for_a_batch()
        return job


Make = Callable[..., Bench]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Bench] = []

    def _make(
        *,
        budget: int = 64,
        queue: int = 10_000,
        slice_tokens: int = 8,
        rate: float | None = None,
        cache_bytes: int = 0,
    ) -> Bench:
        made.append(Bench(Limits(budget, queue), Pace(slice_tokens, rate), cache_bytes))
        return made[-1]

    yield _make
    for bench in made:
        bench.encoder.free()
        bench.scheduler.close()


def titles(count: int, words: int = 2, name: str = "title") -> list[str]:
    return [f"{name}{number}" + " word" * (words - 1) for number in range(count)]


def test_vectors_come_in_the_order_of_the_texts_repeats_too(make: Make) -> None:
    bench = make()
    texts = ["a b", "c", "a b", "d e f", "c"]
    vectors = bench.result(bench.submit(*texts))
    expected = [Fake.vector(row) for row in bench.encoder.tokenize(texts)]
    assert vectors.tolist() == expected
    assert vectors.dtype == np.float32


def test_tokens_count_repeats(make: Make) -> None:
    bench = make()
    job = bench.submit("a b", "c", "a b")
    bench.result(job)
    assert job.tokens == 5


def test_token_ids_are_computed_as_they_are(make: Make) -> None:
    bench = make()
    job = bench.scheduler.submit([(7, 8, 9), (7,)])
    assert bench.result(job).tolist() == [[7, 3], [7, 1]]
    assert bench.encoder.tokenized == []


def test_an_idle_engine_starts_at_once(make: Make) -> None:
    bench = make()
    bench.encoder.hold = True
    bench.submit("first")
    bench.encoder.wait_for_a_batch()
    assert bench.encoder.texts_of(0) == ["first"]


def test_what_arrives_during_a_batch_shares_the_next(make: Make) -> None:
    bench = make()
    bench.busy()
    jobs = [bench.submit(f"job{number}") for number in range(5)]
    bench.encoder.let_go()
    bench.encoder.wait_for_a_batch()
    assert sorted(bench.encoder.texts_of(1)) == [f"job{number}" for number in range(5)]
    bench.encoder.free()
    for job in jobs:
        bench.result(job)


def test_jobs_of_a_batch_are_delivered_together(make: Make) -> None:
    calls: list[int] = []
    bench = make()
    bench.scheduler._deliver = lambda jobs: calls.append(len(jobs))
    bench.busy()
    for number in range(5):
        bench.submit(f"job{number}")
    bench.encoder.free()
    bench.until(lambda: calls == [1, 5])


def test_no_batch_is_over_the_token_budget_padding_included(make: Make) -> None:
    bench = make(budget=32, slice_tokens=1000)
    bench.busy()
    mixed = [" ".join(["word"] * (1 + number % 9)) + f" {number}" for number in range(200)]
    jobs = [bench.submit(*mixed[first : first + 7]) for first in range(0, 200, 7)]
    bench.encoder.free()
    for job in jobs:
        bench.result(job)
    for batch in bench.encoder.batches:
        assert len(batch) * max(map(len, batch)) <= 32


def test_a_text_longer_than_the_budget_is_computed_alone(make: Make) -> None:
    bench = make(budget=8)
    job = bench.submit(" ".join(["w"] * 20), "short")
    bench.result(job)
    assert [len(batch) for batch in bench.encoder.batches] == [1, 1]


def test_a_single_title_overtakes_a_large_request_after_one_batch(make: Make) -> None:
    bench = make(budget=64, slice_tokens=8)
    bench.encoder.hold = True
    large = bench.submit(*titles(1000))
    bench.encoder.wait_for_a_batch()
    single = bench.submit("single")
    bench.encoder.let_go()
    bench.encoder.wait_for_a_batch()
    assert "single" in bench.encoder.texts_of(1)
    bench.encoder.free()
    bench.result(single)
    bench.result(large)


def test_beside_singles_a_batch_holds_one_slice_of_long_work(make: Make) -> None:
    bench = make(budget=64, slice_tokens=8)
    bench.encoder.hold = True
    bench.submit(*titles(1000))
    bench.encoder.wait_for_a_batch()
    bench.submit("single")
    for number in range(1, 5):
        bench.encoder.let_go()
        bench.encoder.wait_for_a_batch()
        assert sum(map(len, bench.encoder.batches[number])) <= 8


def test_a_single_that_waited_for_a_slice_of_long_work_has_none_in_its_batch(make: Make) -> None:
    bench = make(budget=64, slice_tokens=8)
    bench.encoder.hold = True
    bench.submit(*titles(1000))
    bench.encoder.wait_for_a_batch()
    for number in (1, 3):
        bench.submit(f"single {number}")
        bench.encoder.let_go()
        bench.encoder.wait_for_a_batch()
        assert bench.encoder.texts_of(number) == [f"single {number}"]
        bench.submit(f"another {number}")  # but the next one has: long work moves on
        bench.encoder.let_go()
        bench.encoder.wait_for_a_batch()
        assert f"another {number}" in bench.encoder.texts_of(number + 1)
        assert 1 < len(bench.encoder.texts_of(number + 1)) <= 8


def test_what_is_left_of_a_job_is_counted_title_by_title_shared_ones_too(make: Make) -> None:
    """It decides a job's turn."""
    bench = make(budget=16, slice_tokens=8)
    bench.encoder.hold = True
    texts = titles(60)
    jobs = [bench.submit(*texts), bench.submit(*texts[::2], *titles(40, words=3, name="other"))]
    for _ in range(5):
        bench.encoder.wait_for_a_batch()  # while it is held, nothing is chosen
        for job in jobs:
            assert job.remaining == sum(title.cost for title in job.pending)
        bench.encoder.let_go()
    bench.encoder.free()
    for job in jobs:
        bench.result(job)
        assert job.remaining == 0


def test_in_calm_a_long_job_fills_whole_batches(make: Make) -> None:
    bench = make(budget=64, slice_tokens=8)
    job = bench.submit(*titles(1000))
    bench.result(job)
    assert len(bench.encoder.batches) <= 1000 * 2 / 64 + 2


def test_a_batch_takes_no_longer_than_a_quarter_of_a_second_at_the_measured_rate(make: Make) -> None:
    bench = make(budget=64, slice_tokens=4, rate=100.0)
    bench.encoder.hold = True
    bench.submit(*titles(100))
    bench.encoder.wait_for_a_batch()
    assert sum(map(len, bench.encoder.batches[0])) <= 25


def test_a_shorter_job_goes_first(make: Make) -> None:
    bench = make(budget=8, slice_tokens=8)
    bench.busy()
    longer = bench.submit(*titles(3, name="longer"))
    shorter = bench.submit(*titles(1, name="shorter"))
    bench.encoder.let_go()
    bench.encoder.wait_for_a_batch()
    assert bench.encoder.texts_of(1)[0].startswith("shorter")
    bench.encoder.free()
    bench.result(longer)
    bench.result(shorter)


def test_a_long_job_moves_on_beside_a_flood_of_short_ones(make: Make) -> None:
    """Ageing: with short jobs waiting at every batch, the long one is still done before the flood ends."""
    bench = make(budget=8, slice_tokens=8, rate=4000.0, queue=10**6)
    bench.encoder.hold = True
    long = bench.submit(*titles(50))
    bench.encoder.wait_for_a_batch()
    for number in range(2000):
        bench.submit(f"flood{number} a", f"flood{number} b")
        for more in range(6):
            bench.submit(f"more{more} {number} a", f"more{more} {number} b")
        bench.encoder.let_go()
        bench.encoder.wait_for_a_batch()
        if long.done:
            break
    assert long.done
    assert bench.scheduler.queued_tokens > 1000  # the flood was waiting all the time


def test_the_same_text_in_flight_is_computed_once(make: Make) -> None:
    bench = make()
    bench.busy()
    jobs = [bench.submit("nurse") for _ in range(10)]
    bench.encoder.free()
    vectors = [bench.result(job) for job in jobs]
    assert sum(len(batch) for batch in bench.encoder.batches) == 2
    assert all((vector == vectors[0]).all() for vector in vectors)


def test_a_text_that_is_running_is_not_computed_again(make: Make) -> None:
    bench = make()
    first = bench.busy()
    second = bench.submit("busy")
    bench.encoder.free()
    bench.result(second)
    assert first.done
    assert len(bench.encoder.batches) == 1


def test_a_short_job_does_not_wait_for_the_long_one_that_wants_the_same_title(make: Make) -> None:
    bench = make(budget=64, slice_tokens=8)
    bench.busy()
    many = titles(1000)
    bench.submit(*many)
    bench.submit(many[-1])
    bench.encoder.let_go()
    bench.encoder.wait_for_a_batch()
    assert many[-1] in bench.encoder.texts_of(1)


def test_what_is_cached_is_not_computed(make: Make) -> None:
    bench = make(cache_bytes=1 << 20)
    first = bench.result(bench.submit("nurse", "cook"))
    again = bench.submit("cook", "nurse", "cook")
    assert again.done
    assert again.hits == 3
    assert again.tokens == 3
    assert again.vectors is not None
    assert again.vectors.tolist() == [first[1].tolist(), first[0].tolist(), first[1].tolist()]
    assert sum(len(batch) for batch in bench.encoder.batches) == 2


def test_cached_and_new_texts_mix(make: Make) -> None:
    bench = make(cache_bytes=1 << 20)
    bench.result(bench.submit("nurse"))
    job = bench.submit("cook", "nurse")
    assert bench.result(job).tolist() == [Fake.vector(row) for row in bench.encoder.tokenize(["cook", "nurse"])]
    assert job.hits == 1


def test_a_job_whose_client_left_is_not_computed(make: Make) -> None:
    bench = make()
    bench.busy()
    gone = bench.submit("gone")
    stays = bench.submit("stays")
    assert bench.scheduler.cancel(gone)
    bench.encoder.free()
    bench.result(stays)
    assert not any("gone" in bench.encoder.texts_of(number) for number in range(len(bench.encoder.batches)))
    assert gone not in bench.delivered
    assert bench.scheduler.queued_tokens == 0


def test_a_title_that_another_job_wants_survives_a_cancellation(make: Make) -> None:
    bench = make()
    bench.busy()
    gone, stays = bench.submit("nurse", "gone"), bench.submit("nurse")
    bench.scheduler.cancel(gone)
    bench.encoder.free()
    bench.result(stays)
    assert bench.encoder.texts_of(1) == ["nurse"]


def test_a_job_cancelled_while_it_runs_harms_nobody(make: Make) -> None:
    bench = make()
    running = bench.busy()
    also = bench.submit("busy")
    assert bench.scheduler.cancel(running)
    assert not bench.scheduler.cancel(running)
    bench.encoder.free()
    bench.result(also)
    assert bench.scheduler.queued_tokens == 0


def test_a_large_job_that_is_cancelled_stops_after_its_batch(make: Make) -> None:
    bench = make()
    bench.encoder.hold = True
    large = bench.submit(*titles(1000))
    bench.encoder.wait_for_a_batch()
    bench.scheduler.cancel(large)
    bench.encoder.free()
    bench.result(bench.submit("after"))
    assert len(bench.encoder.batches) == 2


def test_the_queue_is_bounded_in_tokens(make: Make) -> None:
    bench = make(queue=100, rate=50.0)
    bench.busy()
    for number in range(20):  # 4 tokens each, estimated; "busy" has one
        bench.submit(f"title{number}")
    with pytest.raises(OverloadedError, match="tokens are waiting") as refused:
        bench.submit(*titles(20, name="more"))
    assert refused.value.retry_after > 0
    assert bench.scheduler.queued_tokens <= 100
    bench.encoder.free()
    bench.until(lambda: bench.scheduler.queued_tokens == 0)
    bench.result(bench.submit("again"))


def test_a_refused_request_leaves_nothing_behind(make: Make) -> None:
    bench = make(queue=100)
    bench.busy()
    before = bench.scheduler.queued_tokens
    bench.submit(*titles(4, name="small"))
    queued = bench.scheduler.queued_tokens
    with pytest.raises(OverloadedError):
        bench.submit(*titles(15, words=3))
    assert bench.scheduler.queued_tokens == queued > before


def test_a_request_larger_than_the_queue_is_told_so(make: Make) -> None:
    with pytest.raises(TooLargeError, match="the queue takes 100; send fewer titles"):
        make(queue=100).submit(*titles(200))


def test_an_admitted_repeat_costs_the_queue_nothing(make: Make) -> None:
    bench = make(queue=20)
    bench.busy()
    for _ in range(100):
        bench.submit("nurse")


def test_a_queue_too_long_for_the_deadline_is_refused_at_once(make: Make) -> None:
    bench = make(queue=100_000, rate=10.0)
    bench.busy()
    for number in range(50):
        bench.submit(f"title{number}")
    with pytest.raises(OverloadedError, match="go first, which take"):
        bench.submit("late", deadline=time.monotonic() + 1)
    bench.submit("patient", deadline=time.monotonic() + 1000)


def test_a_request_is_refused_before_the_queue_fills_its_whole_deadline(make: Make) -> None:
    bench = make(queue=100_000, rate=10.0)
    bench.busy()
    for number in range(9):  # 3 tokens each, so 2.8 s with the busy one
        bench.submit(f"title{number}")
    with pytest.raises(OverloadedError):
        bench.submit("late", deadline=time.monotonic() + 5)
    bench.submit("in time", deadline=time.monotonic() + 6)


def test_the_measured_rate_counts_the_time_around_the_engine(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make(rate=1e6)
    tokenize = bench.encoder.tokenize

    def slowly(texts: Sequence[str]) -> list[list[int]]:
        time.sleep(0.01)
        return tokenize(texts)

    monkeypatch.setattr(bench.encoder, "tokenize", slowly)
    monkeypatch.setattr("jobonnx.serve.scheduler._LONGEST_BATCH_SECONDS", 1e-5)
    for number in range(10):
        bench.result(bench.submit(*titles(10, name=f"{number}-")))
    assert (bench.scheduler.tokens_per_second or 0) < 5e5, "the engine alone is as fast as before"


def test_a_large_request_in_the_queue_does_not_make_a_single_one_refused(make: Make) -> None:
    bench = make(queue=100_000, rate=10.0)
    bench.busy()
    bench.submit(*titles(2000))
    bench.submit("single", deadline=time.monotonic() + 5)


def test_past_its_deadline_a_job_is_not_computed(make: Make) -> None:
    bench = make()
    bench.busy()
    late = bench.submit("late", deadline=time.monotonic() + 0.01)
    time.sleep(0.05)
    bench.encoder.free()
    with pytest.raises(DeadlineError):
        bench.result(late)
    bench.result(bench.submit("after"))
    assert not any("late" in bench.encoder.texts_of(number) for number in range(len(bench.encoder.batches)))
    assert bench.scheduler.queued_tokens == 0


def test_a_batch_that_fails_fails_only_the_requests_that_make_it_fail(make: Make) -> None:
    bench = make(slice_tokens=64)
    bench.busy()
    bench.encoder.poison = {"poison"}
    good = [bench.submit(f"good{number}") for number in range(10)]
    bad = bench.submit("fine", "poison")
    shared = bench.submit("fine")
    bench.encoder.free()
    for job in good:
        bench.result(job)
    with pytest.raises(RuntimeError, match="poison"):
        bench.result(bad)
    bench.result(shared)
    assert bench.scheduler.queued_tokens == 0


def test_after_a_failure_the_text_may_be_asked_for_again(make: Make) -> None:
    bench = make(cache_bytes=1 << 20)
    bench.encoder.poison = {"nurse"}
    with pytest.raises(RuntimeError):
        bench.result(bench.submit("nurse"))
    bench.encoder.poison = set()
    bench.result(bench.submit("nurse"))


def test_an_engine_that_always_fails_fails_everybody_and_the_thread_lives(make: Make) -> None:
    bench = make()
    bench.busy()
    bench.encoder.poison = {f"job{number}" for number in range(8)}
    jobs = [bench.submit(f"job{number}") for number in range(8)]
    bench.encoder.free()
    for job in jobs:
        with pytest.raises(RuntimeError):
            bench.result(job)
    bench.result(bench.submit("after"))


def test_a_panic_of_native_code_does_not_end_the_thread(make: Make) -> None:
    class Panic(BaseException):
        pass

    bench = make()
    original = bench.encoder.encode_batch

    def panic(rows: Sequence[Sequence[int]]) -> Floats:
        raise Panic("of native code")

    bench.encoder.encode_batch = panic  # type: ignore[method-assign]
    with pytest.raises(Panic):
        bench.result(bench.submit("nurse"))
    bench.encoder.encode_batch = original  # type: ignore[method-assign]
    bench.result(bench.submit("nurse"))
    assert bench.scheduler.stalled_seconds() == 0


def test_too_few_vectors_are_an_error(make: Make) -> None:
    bench = make()
    bench.encoder.encode_batch = lambda rows: np.zeros((0, 2), np.float32)  # type: ignore[method-assign]
    with pytest.raises(Exception, match="0 vectors for 1 rows"):
        bench.result(bench.submit("nurse"))


def test_texts_that_cannot_be_tokenised_fail_their_own_request(make: Make) -> None:
    bench = make()
    bench.busy()
    bench.encoder.bad_texts = {"bad"}
    bad, good = bench.submit("bad"), bench.submit("good")
    bench.encoder.free()
    bench.result(good)
    with pytest.raises(ValueError, match="cannot tokenise"):
        bench.result(bad)
    assert bench.scheduler.queued_tokens == 0


def test_long_texts_that_cannot_be_tokenised_fail_their_own_request(make: Make) -> None:
    bench = make()
    text = "word " * 2000
    bench.encoder.bad_texts = {text}
    with pytest.raises(ValueError, match="cannot tokenise"):
        bench.result(bench.submit(text))
    bench.result(bench.submit("good"))


def test_an_idle_engine_is_never_stalled_and_a_hanging_one_is(make: Make) -> None:
    bench = make()
    time.sleep(0.05)
    assert bench.scheduler.stalled_seconds() == 0
    bench.busy()
    time.sleep(0.05)
    assert bench.scheduler.stalled_seconds() >= 0.05
    bench.encoder.free()
    bench.until(lambda: bench.scheduler.stalled_seconds() == 0)


def test_drain_finishes_what_was_accepted_and_takes_nothing_new(make: Make) -> None:
    bench = make()
    bench.busy()
    jobs = [bench.submit(f"job{number}") for number in range(20)]
    drained: list[bool] = []
    thread = threading.Thread(target=lambda: drained.append(bench.scheduler.drain(PATIENCE)))
    thread.start()
    bench.until(lambda: bench.scheduler._draining)
    with pytest.raises(DrainingError):
        bench.submit("late")
    bench.encoder.free()
    thread.join(PATIENCE)
    assert drained == [True]
    for job in jobs:
        bench.result(job)


def test_a_drain_that_takes_too_long_says_so(make: Make) -> None:
    bench = make()
    bench.busy()
    assert not bench.scheduler.drain(0.05)


@pytest.mark.medium
def test_close_fails_what_waits(make: Make) -> None:
    bench = make()
    bench.busy()
    waiting = bench.submit("waiting")
    bench.scheduler.close()
    with pytest.raises(DrainingError):
        bench.result(waiting)


def test_a_text_that_comes_again_while_its_first_request_is_dropped_is_counted_once(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make()
    tokenize, reached, go = bench.encoder.tokenize, threading.Event(), threading.Event()

    def held(texts: Sequence[str]) -> list[list[int]]:
        reached.set()
        assert go.wait(PATIENCE)
        return tokenize(texts)

    monkeypatch.setattr(bench.encoder, "tokenize", held)
    first = bench.submit("much longer than it has tokens")
    assert reached.wait(PATIENCE)
    assert bench.scheduler.cancel(first)
    again = bench.submit("much longer than it has tokens")
    go.set()
    bench.result(again)
    bench.until(lambda: bench.scheduler.queued_tokens == 0)
    assert bench.scheduler._queued_by_size == [0] * 64


def test_batches_are_reported(make: Make) -> None:
    bench = make()
    bench.result(bench.submit("a b c", "d"))
    (batch,) = bench.reports
    assert (batch.titles, batch.tokens, batch.padded_tokens, batch.failed) == (2, 4, 6, False)
    assert batch.seconds >= 0


def test_times_of_a_job_follow_each_other(make: Make) -> None:
    bench = make()
    job = bench.submit("a")
    bench.result(job)
    assert job.submitted <= job.ready <= job.started <= job.finished


@pytest.mark.parametrize(
    ("text", "tokens"), [("", 2), ("Krankenschwester", 6), ("软件工程师", 5), ("half a pair \ud800", 5), ("x" * 4000, 1002)]
)
def test_tokens_are_estimated_from_bytes(text: str, tokens: int) -> None:
    assert estimated_tokens(text) == tokens


@pytest.mark.parametrize("seed", range(5))
def test_random_traffic_with_cancellations_and_failures_ends_and_is_right(make: Make, seed: int) -> None:
    """Many threads at once; every job ends exactly once, with its own vectors, and the queue is empty after."""
    chance = random.Random(seed)
    bench = make(budget=32, slice_tokens=8, queue=4000, cache_bytes=chance.choice([0, 5000]))
    words = [f"word{number} x" for number in range(60)]
    bench.encoder.poison = {words[0]}
    kept: list[tuple[list[str], Job]] = []

    def client(number: int) -> None:
        mine = random.Random(seed * 100 + number)
        for _ in range(60):
            texts = mine.choices(words, k=mine.choice([1, 1, 1, 2, 5, 40]))
            try:
                job = bench.scheduler.submit(texts)
            except OverloadedError:
                time.sleep(0.001)
                continue
            if mine.random() < 0.2:
                bench.scheduler.cancel(job)
            else:
                kept.append((texts, job))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for texts, job in kept:
        try:
            vectors = bench.result(job)
        except RuntimeError:
            assert words[0] in texts
            continue
        assert words[0] not in texts
        assert vectors.tolist() == [Fake.vector(row) for row in bench.encoder.tokenize(texts)]
    bench.until(lambda: bench.scheduler.queued_tokens == 0)
    assert len(bench.delivered) == len(set(map(id, bench.delivered)))
    assert bench.scheduler._queued_by_size == [0] * 64
