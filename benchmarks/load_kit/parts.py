"""The parts of the load campaign: each starts the processes that it needs, measures, and gives its figures as they come."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import socket
import statistics
import struct
import subprocess
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from load_kit.loops import KIT, closed_loop, open_loop, quantile, read_titles, written
from load_kit.process import Client, Service, body_of, free_port, peer, request_of, serving

CLIENTS = (1, 8, 64, 256)
CACHED = 10_000  # vectors of the Zipf row
LARGE = 10_000  # titles of the large request
_SETTLE = 0.3  # seconds until threads that spin have gone to sleep
_PROBE_SECONDS = 3.0
_CAPACITY_SECONDS = 20.0
_DEADLINE_MS = 2000  # at twice the capacity: what a client would wait for a search box's titles

Points = Iterator[tuple[str, Any]]


@dataclass
class Run:
    """What is measured, and for how long.

    Attributes:
        model: a bundle, or None for the small model.
        variant: of it; None for the default.
        titles: distinct ones, in a random order.
        folder: for request bodies.
        requests: how many a point should have.
        most_seconds: after which a point ends, however many it had.
        minutes: of soak.
        fastapi: a Python with FastAPI and sentence-transformers; infinity: the program infinity_emb; None leaves one out.
        checkpoint: what the peers serve.
        done: points of earlier parts.
    """

    model: str | None
    variant: str | None
    titles_file: str | None
    folder: Path
    requests: int
    most_seconds: float
    minutes: float
    fastapi: str | None
    infinity: str | None
    checkpoint: str
    done: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.titles = read_titles(self.titles_file)
        self.bodies = written([body_of(title) for title in self.titles], self.folder / "bodies")

    @property
    def options(self) -> list[str]:
        """Of the service, with an index of one title: the built-in ones would be encoded beside the first measurements."""
        return self.options_of(self.variant)

    def options_of(self, variant: str | None) -> list[str]:
        """Return the same for a variant."""
        import numpy as np

        from jobonnx import Bundle
        from jobonnx.search.index import Index

        bundle = Bundle.open(self.model)
        variant = variant or bundle.default_variant
        path, dimension, fingerprint = self.folder / f"{variant}.index", bundle.model.dimension, bundle.fingerprint(variant)
        if not path.exists():
            with Index.create(path, fingerprint, dimension) as index:
                index.add(["nurse"], np.eye(1, dimension, dtype=np.float32), fingerprint=fingerprint)
        return [*(["-m", self.model] if self.model else []), "--variant", variant, "--index", str(path)]

    @property
    def capacity(self) -> float:
        """Replies per second of the best closed loop."""
        loops = self.done.get("closed", {}).get("loops", [])
        if not loops:
            raise SystemExit("this part needs the capacity; measure it first, into the same file: --only closed")
        return float(max(loop["per_second"] for loop in loops))

    def seconds(self, rate: float, requests: int | None = None) -> float:
        """Return how long a point of this rate takes."""
        return min(self.most_seconds, max(10.0, (requests or self.requests) / max(rate, 0.1)))

    def closed(self, port: int, clients: int) -> dict[str, Any]:
        """Measure a closed loop; a short one before it warms up and says how long it has to be."""
        probe = closed_loop(port, clients, min(_PROBE_SECONDS, self.most_seconds), self.bodies, 31 * clients)
        return closed_loop(port, clients, self.seconds(probe["per_second"]), self.bodies, 997 * clients)

    def open(self, port: int, rate: float, seed: int = 1) -> dict[str, Any]:
        """Measure an open loop."""
        return open_loop(port, rate, self.seconds(rate), self.bodies, seed)


def one(run: Run) -> Points:
    """One client: what the service adds to `encode` of the same titles. In blocks, so that neither disturbs the other."""
    from jobonnx import Encoder

    block, inside, outside = 20, [], []
    with serving(run.options, "--cache-mb", "0") as service, Encoder(run.model, variant=run.variant) as encoder:
        client = Client(service.port)
        for first in range(0, max(block, run.requests // 10), block):
            some = [run.titles[(first + place) % len(run.titles)] for place in range(block)]
            encoder.encode(some[0])
            for title in some:
                start = time.perf_counter()
                encoder.encode(title)
                inside.append(1000 * (time.perf_counter() - start))
            time.sleep(_SETTLE)
            client.embed(body_of(some[0]))
            outside += [1000 * client.embed(body_of(title)) for title in some]
            time.sleep(_SETTLE)
        client.close()
    here, there = statistics.median(inside), statistics.median(outside)
    yield "one", {"titles": len(inside), "encode_p50_ms": here, "service_p50_ms": there, "overhead_p50_ms": there - here}


def closed(run: Run) -> Points:
    """Measure closed loops, and the rate of `encode` in bulk before and after them."""
    from jobonnx import Encoder

    with serving(run.options, "--cache-mb", "0") as service:
        with Encoder(run.model, variant=run.variant) as encoder:
            bulk = [_bulk(encoder, run)]
            time.sleep(_SETTLE)
            loops = []
            for clients in CLIENTS:
                loops.append(run.closed(service.port, clients))
                yield "loops", list(loops)
            time.sleep(_SETTLE)
            bulk.append(_bulk(encoder, run))
        yield "bulk", {"before_per_second": bulk[0], "after_per_second": bulk[1], "per_second": sum(bulk) / 2}
        yield "memory", {"resident_mb": service.memory_mb(), "peak_mb": service.memory_mb("VmHWM")}


def _bulk(encoder: Any, run: Run) -> float:
    titles = run.titles
    start = time.perf_counter()
    encoder.encode(titles[:128])
    rate = 128 / (time.perf_counter() - start)
    some = titles[128 : 128 + max(128, int(rate * min(20.0, run.most_seconds)))]
    start = time.perf_counter()
    encoder.encode(some)
    return len(some) / (time.perf_counter() - start)


def open_80(run: Run) -> Points:
    """Open loop at 80% of the capacity."""
    with serving(run.options, "--cache-mb", "0") as service:
        capacity = _capacity_now(run, service.port)
        yield "capacity", {"per_second": capacity}
        before, start = _counted(service), time.monotonic()
        yield "open", run.open(service.port, 0.8 * capacity)
        seconds = time.monotonic() - start
        counted = {name: value - before[name] for name, value in _counted(service).items()}
        yield "engine", {**counted, "seconds": seconds}


def _counted(service: Service) -> dict[str, float]:
    """Read the engine's counters, and the seconds for which the host gave this machine's cores to others (proc(5), steal)."""
    stolen = int(Path("/proc/stat").read_text().split("\n", 1)[0].split()[8]) / os.sysconf("SC_CLK_TCK")
    names = {"batches": "batch_seconds_count", "batch_titles": "batch_titles_sum", "busy_seconds": "batch_seconds_sum"}
    found = {name: service.metric(f"jobonnx_{series}") for name, series in names.items()}
    quick = service.metric("jobonnx_batch_seconds_bucket", 'le="0.25"')
    return {**found, "batches_within_250_ms": quick, "stolen_seconds": stolen}


def _capacity_now(run: Run, port: int) -> float:
    """Measure the best closed-loop rate at this moment: a machine that is shared changes within minutes."""
    seconds = min(_CAPACITY_SECONDS, run.most_seconds)
    return max(float(closed_loop(port, clients, seconds, run.bodies)["per_second"]) for clients in (8, 64))


def twice(run: Run) -> Points:
    """Open loop at twice the capacity, with a deadline that a client would wait for."""
    with serving(run.options, "--cache-mb", "0", "--deadline-ms", str(_DEADLINE_MS)) as service:
        capacity = _capacity_now(run, service.port)
        yield "capacity", {"per_second": capacity}
        # Twice as long: the queue fills first, and only half of the requests are taken.
        found = open_loop(service.port, 2 * capacity, run.seconds(2 * capacity, 2 * run.requests), run.bodies)
        others = {status: count for status, count in found["statuses"].items() if status not in ("200", "429")}
        refused = found["statuses"].get("429", 0)
        share = {"goodput_share": found["good_per_second"] / capacity, "deadline_ms": _DEADLINE_MS}
        all_refused = refused + sum(others.values()) + found["unanswered"]
        clean = refused / all_refused if all_refused else 1.0
        yield "twice", found | share | {"refused": refused, "clean_refusals_share": clean}


def large(run: Run) -> Points:
    """Single titles while requests of 10,000 others are in flight, one after another; without a deadline, as one takes minutes."""
    size = min(LARGE, len(run.titles) // 2)
    singles = written([body_of(title) for title in run.titles[size:]], run.folder / "singles")
    rate = 0.1 * run.capacity
    with serving(run.options, "--cache-mb", "0", "--deadline-ms", "0") as service:
        alone = open_loop(service.port, rate, run.seconds(rate), singles, 1)
        yield "alone", alone
        with _large_requests(service.port, run.titles[:size]) as done:
            time.sleep(1.0)
            beside = open_loop(service.port, rate, run.seconds(rate), singles, 2)
            finished = len(done)
        yield "beside", beside | {"large_requests_done": finished, "p99_over_p50_alone": beside["p99_ms"] / alone["p50_ms"]}


@contextmanager
def _large_requests(port: int, titles: Sequence[str]) -> Iterator[list[int]]:
    """Keep one request of many titles in flight; it is dropped at the end."""
    request, over, done = request_of(body_of(list(titles))), threading.Event(), list[int]()

    def keep() -> None:
        while not over.is_set():
            with socket.create_connection(("127.0.0.1", port)) as opened:
                opened.sendall(request)
                opened.settimeout(0.1)
                end = b""
                while not over.is_set() and not end.endswith(b"0\r\n\r\n"):
                    try:
                        if not (part := opened.recv(1 << 20)):
                            return
                    except TimeoutError:
                        continue
                    end = (end + part)[-5:]
                done.append(1) if not over.is_set() else None

    thread = threading.Thread(target=keep)
    thread.start()
    try:
        yield done
    finally:
        over.set()
        thread.join()


def zipf(run: Run) -> Points:
    """Zipf (s = 1) over all titles with a cache of 10,000 vectors, from cold, beside distinct titles without repeats."""
    drawn = random.Random(3).choices(range(len(run.titles)), [1 / rank for rank in range(1, len(run.titles) + 1)], k=400_000)
    path = written([body_of(run.titles[title]) for title in drawn], run.folder / "zipf")
    with serving(run.options, "--cache-mb", "0") as service:
        distinct = run.closed(service.port, 64)
    yield "distinct", distinct
    with serving(run.options, "--cache-mb", str(_cache_mb(run))) as service:
        found = closed_loop(service.port, 64, run.seconds(distinct["per_second"], 10 * run.requests), path)
        hits, titles = service.metric("jobonnx_cache_hits_total"), service.metric("jobonnx_titles_total")
        kept = service.metric("jobonnx_cache_vectors")
    sent = drawn[: found["requests"]]
    repeats, gain = len(sent) / len(set(sent)), found["per_second"] / distinct["per_second"]
    yield (
        "zipf",
        found
        | {
            "requests_over_distinct": repeats,
            "gain": gain,
            "share": gain / repeats,
            "hit_rate": hits / max(1.0, titles),
            "hit_rate_of_an_lru_of_10000": _lru_hits(sent, CACHED) / len(sent),
            "ideal_hit_rate": 1 - 1 / repeats,
            "vectors_kept": kept,
        },
    )


def _cache_mb(run: Run) -> int:
    """Megabytes that hold 10,000 vectors, by the cache's own count."""
    import numpy as np

    from jobonnx import Bundle
    from jobonnx.serve.cache import size_of

    dimension = Bundle.open(run.model).model.dimension
    text = sorted(run.titles, key=len)[len(run.titles) // 2]
    return -(-CACHED * size_of(text, np.zeros(dimension, np.float32)) // (1 << 20))


def _lru_hits(drawn: Sequence[int], most: int) -> int:
    kept: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for title in drawn:
        if title in kept:
            hits += 1
            kept.move_to_end(title)
        else:
            kept[title] = None
            if len(kept) > most:
                kept.popitem(last=False)
    return hits


def _peer_commands(run: Run) -> dict[str, list[str]]:
    """Return the command of each peer that is here, without its port."""
    commands: dict[str, list[str]] = {}
    if run.fastapi:
        script = str(KIT.parent / "peers" / "serve_with_sentence_transformers.py")
        commands["fastapi + sentence-transformers"] = [run.fastapi, script, run.checkpoint, "--port"]
    if run.infinity:
        options = ["--device", "cpu", "--engine", "torch", "--url-prefix", "/v1", "--host", "127.0.0.1", "--log-level", "warning"]
        commands["infinity-emb"] = [run.infinity, "v2", "--model-id", run.checkpoint, *options, "--port"]
    if not commands:
        raise SystemExit(
            "no peer is named; see benchmarks/peers/serve.txt and infinity.txt, and give --fastapi PYTHON and --infinity PROGRAM"
        )
    return commands


def peers(run: Run) -> Points:
    """64 clients, one title each: this service and what else there is, in turn, all of them running. No cache anywhere."""
    commands = _peer_commands(run)
    with ExitStack() as stack:
        ports: dict[str, int] = {}
        failed: dict[str, str] = {}
        for name, command in commands.items():
            port = free_port()
            problem = stack.enter_context(peer([*command, str(port)], port, run.folder / f"{name}.log"))
            if problem is None:
                ports[name] = port
            else:
                failed[name] = problem
        service = stack.enter_context(serving(run.options, "--cache-mb", "0"))
        ports["jobonnx"] = service.port
        rates: dict[str, list[dict[str, Any]]] = {name: [] for name in ports}
        for _ in range(3):
            for name, port in ports.items():
                rates[name].append(run.closed(port, 64))
                time.sleep(_SETTLE)
                yield "rounds", {name: [loop["per_second"] for loop in loops] for name, loops in rates.items()}
    medians = {name: statistics.median(loop["per_second"] for loop in loops) for name, loops in rates.items()}
    for name, loops in rates.items():
        middle = sorted(loops, key=lambda loop: float(loop["per_second"]))[1]
        yield name, middle | {"all_requests": sum(loop["requests"] for loop in loops)}
    for name, problem in failed.items():
        yield name, {"failed": problem}
    others = [rate for name, rate in medians.items() if name != "jobonnx"]
    if others:
        yield "ratio", {"to_the_faster_peer": medians["jobonnx"] / max(others)}


def _burn() -> None:
    while True:
        pass


def neighbours(run: Run) -> Points:
    """One client, and 64, beside 0, 1 and 2 busy processes: a service for each number of threads, with and without spinning."""
    from jobonnx.runtime.machine import available_threads

    threads = sorted({1, max(1, available_threads() // 2), available_threads()})
    settings = {f"{count} spinning": ["--threads", str(count)] for count in threads if count > 1}
    settings |= {f"{count} sleeping": ["--threads", str(count), "--shared-cores"] for count in threads if count > 1}
    settings["1 thread"] = ["--threads", "1"]  # it waits for nobody, so it neither spins nor sleeps
    turn = min(8.0, run.most_seconds)
    with ExitStack() as stack:
        services = {
            name: stack.enter_context(serving(run.options, "--cache-mb", "0", *options)) for name, options in settings.items()
        }
        for busy in (0, 1, 2):
            burners = [multiprocessing.Process(target=_burn, daemon=True) for _ in range(busy)]
            for burner in burners:
                burner.start()
            ones: dict[str, list[float]] = {name: [] for name in services}
            rates: dict[str, list[float]] = {name: [] for name in services}
            for round_ in range(3):  # in turn, so that whatever else happens on the machine slows all of them
                for name, service in services.items():
                    ones[name] += _alone(service, run.titles[round_::7], turn / 2)
                    rates[name].append(closed_loop(service.port, 64, turn, run.bodies, 997 * round_)["per_second"])
                    time.sleep(_SETTLE)
            for burner in burners:
                burner.kill()  # a forked process has our handlers, which would print
                burner.join()
            for name in services:
                ordered = sorted(ones[name])
                latency = {"one_p50_ms": quantile(ordered, 0.5), "one_p99_ms": quantile(ordered, 0.99)}
                rate = {"of_64_clients_per_second": statistics.median(rates[name])}
                yield f"{busy} busy, {name}", {"busy": busy, "setting": name, "titles": len(ordered)} | latency | rate


def _alone(service: Service, titles: Sequence[str], seconds: float) -> list[float]:
    client, found = Client(service.port), []
    end = time.perf_counter() + seconds
    for title in titles:
        found.append(1000 * client.embed(body_of(title)))
        if time.perf_counter() > end:
            break
    client.close()
    return found


def memory(run: Run) -> Points:
    """Memory of the service for each variant that runs here: ready, after 64 clients, and after a request of 2,000 titles."""
    from jobonnx import Bundle
    from jobonnx.errors import JobonnxError
    from jobonnx.runtime.choose import choose

    bundle = Bundle.open(run.model)
    for variant in bundle.variants:
        try:
            choose(bundle, variant, "auto", None)
        except JobonnxError as error:
            yield variant, {"variant": variant, "left_out": str(error)}
            continue
        with serving(run.options_of(variant), "--cache-mb", "0", "--deadline-ms", "0") as service:
            found = {"ready_seconds": service.ready_seconds, "ready_mb": service.memory_mb()}
            closed_loop(service.port, 64, min(10.0, run.most_seconds), run.bodies)
            client = Client(service.port)
            client.embed(body_of(run.titles[:2000]))
            client.close()
            found |= {"after_load_mb": service.memory_mb(), "of_no_file_mb": service.memory_mb("RssAnon")}
            yield variant, {"variant": variant} | found | {"peak_mb": service.memory_mb("VmHWM")}


def faults(run: Run) -> Points:
    """Clients that are killed, and a process that is stopped for a while; the other faults are tests/serve/test_faults.py's."""
    pause = min(30.0, run.most_seconds)
    with serving(run.options, "--cache-mb", "0") as service:
        before = service.memory_mb()
        kills = 20
        for number in range(kills):
            command = ["wrk", "-t1", "-c64", "-d60s", "-s", str(KIT / "wrk.lua"), f"http://127.0.0.1:{service.port}", "--"]
            client = subprocess.Popen([*command, str(run.bodies), str(number)], stdout=subprocess.DEVNULL)
            time.sleep(min(1.0, run.most_seconds / 4))
            client.kill()
            client.wait()
        start = time.monotonic()
        while service.metric("jobonnx_queue_tokens") and time.monotonic() < start + 60:
            time.sleep(0.05)
        killed = {"kills": kills, "seconds_until_the_queue_was_empty": time.monotonic() - start}
        left = {"clients_left": service.metric("jobonnx_clients_left_total"), "health": service.status("/health")}
        yield "killed clients", killed | left | {"memory_before_mb": before, "memory_after_mb": service.memory_mb()}

        rate = 0.3 * run.capacity
        stop = threading.Timer(2.0, service.process.send_signal, [signal.SIGSTOP])
        go = threading.Timer(2.0 + pause, service.process.send_signal, [signal.SIGCONT])
        stop.start()
        go.start()
        found = open_loop(service.port, rate, 2 * pause, run.bodies)
        stopped = {"stopped_seconds": pause, "requests": found["requests"], "statuses": found["statuses"]}
        yield "stopped", stopped | {"unanswered": found["unanswered"], "health": service.status("/health")}


def soak(run: Run) -> Points:
    """Traffic of every kind for so many minutes: single titles, lists of 64, malformed JSON, clients that break off."""
    titles = run.titles
    lists = [body_of(titles[first : first + 64]) for first in range(0, min(6400, len(titles) - 64), 64)]
    bodies = [body_of(title) for title in titles[:20_000]] + 5 * lists + [b"{"] * 200
    random.Random(1).shuffle(bodies)
    path = written(bodies, run.folder / "mixed")
    piece = min(10.0, run.most_seconds)
    with serving(run.options) as service:
        memory, sums = [(0.0, service.memory_mb())], {"requests": 0, "failed": 0, "broken": 0}
        over = threading.Event()
        vandals = threading.Thread(target=_break_off, args=(service.port, over))
        vandals.start()
        start = time.monotonic()
        try:
            while time.monotonic() < start + 60 * run.minutes:
                found = closed_loop(service.port, 16, piece, path, sums["requests"])
                sums = {name: count + found[name] for name, count in sums.items()}
                memory.append((time.monotonic() - start, service.memory_mb()))
                yield "soak", _soaked(service, memory, sums)
        finally:
            over.set()
            vandals.join()
        time.sleep(1.0)
        yield "soak", _soaked(service, memory, sums)


def _soaked(service: Service, memory: Sequence[tuple[float, float]], sums: dict[str, int]) -> dict[str, Any]:
    late = memory[len(memory) // 2 :]
    second = [megabytes for _, megabytes in late]
    slope = statistics.linear_regression(*zip(*late, strict=True)).slope * 3600 if len(late) > 2 else 0.0
    return {
        "minutes": memory[-1][0] / 60,
        "requests": sums["requests"],
        "refused_as_malformed": sums["failed"] - sums["broken"],
        "connections_broken_or_timed_out": sums["broken"],
        "replies_500_and_above": service.metric("jobonnx_requests_total", 'status="5'),
        "clients_left": service.metric("jobonnx_clients_left_total"),
        "health": service.status("/health"),
        "first_mb": memory[0][1],
        "last_mb": memory[-1][1],
        "second_half_lowest_mb": min(second),
        "second_half_highest_mb": max(second),
        "second_half_slope_mb_per_hour": slope,
        "seconds_and_mb": memory,
    }


def _break_off(port: int, over: threading.Event) -> None:
    """Break connections off: in the middle of a body, and while the reply is being computed."""
    request = request_of(body_of(["a title that nobody waits for"] * 50))
    chance = random.Random(5)
    reset = struct.pack("ii", 1, 0)
    while not over.wait(0.2):
        try:
            with socket.create_connection(("127.0.0.1", port)) as opened:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
                opened.sendall(request if chance.random() < 0.5 else request[: chance.randrange(1, len(request))])
        except OSError:
            continue


PARTS: dict[str, Callable[[Run], Points]] = {
    "one": one,
    "closed": closed,
    "open": open_80,
    "twice": twice,
    "large": large,
    "zipf": zipf,
    "peers": peers,
    "neighbours": neighbours,
    "memory": memory,
    "faults": faults,
    "soak": soak,
}
