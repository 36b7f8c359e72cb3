"""The service under load, on loopback: the figures of docs/service.md, in one JSON, one Markdown and one plot.

    python benchmarks/load.py serve OUT [-m BUNDLE] [--variant V] [--titles FILE] [--seconds 20] [--points one,closed]
    python benchmarks/load.py neighbours OUT [-m BUNDLE] [--variant V]
    python benchmarks/load.py soak OUT [-m BUNDLE] [--minutes 20]

OUT is a name without ending: OUT.json, OUT.md and OUT.svg are written after every point, so a run that is stopped keeps them.
`--peer NAME=PORT` compares with a server that is running already (see benchmarks/peers/serve.txt); its clients are the same.
Titles come one per line, or from O*NET's "Alternate Titles.txt". Needs wrk (Debian's package) for the closed loop.

A closed loop is wrk, whose clients wait for a reply before they ask again. An open loop is `load_kit.open_loop`, a process of its
own with Poisson arrivals. A run of it whose p99 lateness is over 1 ms is marked and does not count.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

KIT = Path(__file__).parent / "load_kit"
CLIENTS = (1, 8, 64, 256)
LATE_MS = 1.0  # p99 lateness of an open loop that still counts
MEMORY_PER_VECTOR = 4600  # bytes of a cached vector of 1,024 numbers, for --cache-mb
HEAD = b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


MATCH = b'POST /match HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 18\r\n\r\n{"titles":"nurse"}'


class Service:
    """`jobonnx serve` as a process of its own."""

    def __init__(self, model: Sequence[str], *options: str) -> None:
        command = [sys.executable, "-c", "from jobonnx.cli import main; main()", "serve", "--port", "0", *model, *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.log: list[dict[str, Any]] = []
        threading.Thread(target=self._read, daemon=True).start()
        while not (found := [line for line in self.log if line["message"] == "listening"]):
            self._alive()
        self.port = int(found[0]["address"].rsplit(":", 1)[1])
        while not any(line["message"] == "ready" for line in self.log):
            self._alive()

        while not model and b" 503 " in ask(self.port, MATCH).split(b"\r\n")[0]:  # the built-in titles are being encoded
            self._alive()

    def _alive(self) -> None:
        if self.process.poll() is not None:
            raise SystemExit(f"the service ended with {self.process.returncode}")
        time.sleep(0.05)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith("{"):
                content = json.loads(line)
                if content["message"] != "request":
                    self.log.append(content)
            else:
                print(line, end="", file=sys.stderr)

    def rss_mb(self) -> float:
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())
        return int(found[1]) / 1024 if found else 0.0

    def metric(self, name: str) -> float:
        text = ask(self.port, b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").decode()
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if re.match(rf"{name}[{{ ]", line))

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()


@contextmanager
def serving(model: Sequence[str], *options: str) -> Iterator[Service]:
    service = Service(model, *options)
    try:
        yield service
    finally:
        service.stop()


def ask(port: int, request: bytes) -> bytes:
    """Send a request on a connection of its own, and read until the service closes it."""
    with socket.create_connection(("127.0.0.1", port)) as opened:
        opened.sendall(request)
        parts = []
        while part := opened.recv(1 << 20):
            parts.append(part)
    return b"".join(parts)


class Client:
    """One kept-alive connection, as cheap as Python has it."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def embed(self, body: bytes) -> float:
        """Ask for a vector; return the seconds it took."""
        start = time.perf_counter()
        self._socket.sendall(HEAD % len(body) + body)
        got = self._socket.recv(1 << 20)
        head, _, rest = got.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"the service said {got[:300]!r}")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        have = len(rest)
        while have < length:
            have += len(self._socket.recv(1 << 20))
        return time.perf_counter() - start


def body_of(title: str | list[str]) -> bytes:
    return json.dumps({"input": title, "encoding_format": "base64"}).encode()


def written(bodies: Sequence[bytes], folder: Path, name: str) -> Path:
    path = folder / name
    path.write_bytes(b"\n".join(bodies) + b"\n")
    return path


def closed_loop(port: int, clients: int, seconds: float, bodies: Path, first: int = 0) -> dict[str, Any]:
    url = f"http://127.0.0.1:{port}"
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds:.0f}s", "--timeout", "60s", "-s", str(KIT / "wrk.lua"), url, "--"]
    done = subprocess.run([*command, str(bodies), str(first)], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.split("JSON ")[1].splitlines()[0])
    return found | {"clients": clients, "per_second": (found["requests"] - found["failed"]) / found["seconds"]}


def open_loop(port: int, rate: float, seconds: float, bodies: Path, seed: int = 1) -> dict[str, Any]:
    command = [sys.executable, "-m", "load_kit.open_loop", "127.0.0.1", str(port), str(rate), str(seconds), str(bodies), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=KIT.parent)
    content: dict[str, Any] = json.loads(done.stdout)
    rows = content.pop("due_sent_done_status")
    good = sorted(1000 * (row[2] - row[0]) for row in rows if row[3] == 200)
    late = sorted(1000 * (row[1] - row[0]) for row in rows)
    last = max((row[2] for row in rows), default=seconds)
    statuses = {str(status): sum(row[3] == status for row in rows) for status in sorted({row[3] for row in rows})}
    return content | {
        "offered_per_second": rate,
        "requests": len(rows),
        "statuses": statuses,
        "good_per_second": len(good) / max(seconds, last),
        "p50_ms": quantile(good, 0.5),
        "p90_ms": quantile(good, 0.9),
        "p99_ms": quantile(good, 0.99),
        "late_p99_ms": quantile(late, 0.99),
        "counts": quantile(late, 0.99) <= LATE_MS,
    }


def quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] if ordered else float("nan")


def read_titles(path: str | None, count: int | None = None) -> list[str]:
    if path is None:
        from jobonnx.data.titles import read_titles as built_in

        titles = built_in()
    else:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        titles = [line.split("\t")[1] for line in lines[1:]] if lines[0].startswith("O*NET") else lines
    titles = [title for title in dict.fromkeys(titles) if title.strip()]
    random.Random(0).shuffle(titles)
    return titles[:count]


class Report:
    """What was measured, written after every point."""

    def __init__(self, out: str, what: dict[str, Any]) -> None:
        self._out, self.content = out, what | {"points": {}}

    def add(self, name: str, value: Any) -> None:
        self.content["points"][name] = value
        print(f"{name}: {json.dumps(value)[:400]}", flush=True)
        Path(f"{self._out}.json").write_text(json.dumps(self.content, indent=1) + "\n")
        Path(f"{self._out}.md").write_text(markdown(self.content))
        if any("closed" in point for point in self.content["points"]):
            plot(self.content, f"{self._out}.svg")


def about(arguments: argparse.Namespace) -> dict[str, Any]:
    import onnxruntime

    from jobonnx.runtime.machine import available_threads, cpu

    return {
        "command": " ".join(["python", "benchmarks/load.py", *map(str, sys.argv[1:])]),
        "date": time.strftime("%Y-%m-%d"),
        "cpu": cpu().name,
        "threads": available_threads(),
        "onnxruntime": onnxruntime.__version__,
        "python": platform.python_version(),
        "titles": arguments.titles or "the built-in ones",
        "variant": arguments.variant,
    }


# The points


def one_client(port: int, encoder: Any, titles: Sequence[str], count: int) -> dict[str, Any]:
    """Compare `encode` here with the service, the same titles in turn."""
    client = Client(port)
    inside, outside = [], []
    for number in range(count + 5):
        title, body = titles[number], body_of(titles[number])
        start = time.perf_counter()
        encoder.encode(title)
        here = time.perf_counter() - start
        time.sleep(0.002)  # until its threads have stopped to spin
        there = client.embed(body)
        time.sleep(0.002)
        if number >= 5:
            inside.append(1000 * here)
            outside.append(1000 * there)
    return {
        "titles": count,
        "encode_p50_ms": statistics.median(inside),
        "service_p50_ms": statistics.median(outside),
        "overhead_p50_ms": statistics.median(outside) - statistics.median(inside),
        "paired_overhead_p50_ms": statistics.median(there - here for here, there in zip(inside, outside, strict=True)),
    }


def bulk(encoder: Any, titles: Sequence[str], seconds: float) -> float:
    """Titles per second of `encode` in bulk; as many as take about so many seconds."""
    start = time.perf_counter()
    encoder.encode(titles[:128])
    rate = 128 / (time.perf_counter() - start)
    some = titles[128 : 128 + max(128, int(rate * seconds))]
    start = time.perf_counter()
    encoder.encode(some)
    return len(some) / (time.perf_counter() - start)


def beside_a_large_request(
    port: int, alone: dict[str, Any], titles: Sequence[str], singles: Path, rate: float, seconds: float
) -> Any:
    """Single titles while 10,000 are in flight. The large request is dropped at the end if it is not done."""
    ready, over = threading.Event(), threading.Event()

    def large() -> None:
        body = body_of(list(titles[:10_000]))
        with socket.create_connection(("127.0.0.1", port)) as opened:
            opened.sendall(HEAD % len(body) + body)
            opened.settimeout(0.2)
            ready.set()
            while not over.is_set():
                try:
                    if opened.recv(1 << 20) == b"":
                        return
                except TimeoutError:
                    continue

    thread = threading.Thread(target=large)
    thread.start()
    ready.wait()
    time.sleep(0.5)
    beside = open_loop(port, rate, seconds, singles, 2)
    over.set()
    thread.join()
    return {"alone": alone, "beside": beside, "p99_over_p50_alone": beside["p99_ms"] / alone["p50_ms"]}


def zipf(model: Sequence[str], titles: Sequence[str], seconds: float, folder: Path, options: Sequence[str]) -> dict[str, Any]:
    """Zipf (s = 1) over all titles with a cache of 10,000 vectors, from cold, beside distinct titles."""
    megabytes = str(MEMORY_PER_VECTOR * 10_000 // (1 << 20) + 1)
    weights = [1 / rank for rank in range(1, len(titles) + 1)]
    drawn = random.Random(3).choices(range(len(titles)), weights, k=200_000)
    files = {
        "distinct": written([body_of(title) for title in titles], folder, "distinct"),
        "zipf": written([body_of(titles[i]) for i in drawn], folder, "zipf"),
    }
    found: dict[str, Any] = {}
    for name, path in files.items():
        with serving(model, "--cache-mb", megabytes, *options) as service:
            found[name] = closed_loop(service.port, 64, seconds, path)
            if name == "zipf":
                found["hit_rate"] = service.metric("jobonnx_cache_hits_total") / max(1.0, service.metric("jobonnx_titles_total"))
    requests = found["zipf"]["requests"]
    distinct = len(set(drawn[:requests]))
    gain = found["zipf"]["per_second"] / found["distinct"]["per_second"]
    return found | {
        "requests_over_distinct": requests / distinct,
        "ideal_hit_rate": 1 - distinct / requests,
        "gain": gain,
        "share": gain / (requests / distinct),
    }


def run_serve(arguments: argparse.Namespace) -> None:
    from jobonnx import Encoder

    wanted = set(arguments.points.split(",")) if arguments.points else set()

    def on(point: str) -> bool:
        return not wanted or point in wanted

    report = Report(arguments.out, about(arguments))
    titles = read_titles(arguments.titles)
    model = model_options(arguments)
    options = arguments.serve_options.split()
    seconds = arguments.seconds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bodies = written([body_of(title) for title in titles], folder, "bodies")
        with serving(model, "--cache-mb", "0", *options) as service:
            ask(service.port, b"GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            if on("one"):
                with Encoder(arguments.model, variant=arguments.variant) as encoder:
                    report.add("one client", one_client(service.port, encoder, titles, arguments.singles))
                    report.add("bulk encode, titles/s", bulk(encoder, titles, min(seconds, 20)))
            loops = (
                [closed_loop(service.port, clients, seconds, bodies, 997 * clients) for clients in CLIENTS] if on("closed") else []
            )
            if loops:
                report.add("closed loop", loops)
            best = arguments.capacity or max((loop["per_second"] for loop in loops), default=0.0)
            if best and on("open"):
                report.add("open loop at 80% of capacity", open_loop(service.port, 0.8 * best, seconds, bodies))
            if best and on("twice"):
                twice = open_loop(service.port, 2 * best, seconds, bodies)
                report.add("open loop at twice the capacity", twice | {"goodput_share": twice["good_per_second"] / best})
            if best and on("large"):
                alone = open_loop(service.port, 0.1 * best, seconds, bodies)
                large = beside_a_large_request(service.port, alone, titles, bodies, 0.1 * best, seconds)
                report.add("beside a request of 10,000 titles", large)
            report.add("memory, MB", service.rss_mb())
        if on("zipf"):
            report.add("zipf", zipf(model, titles, seconds, folder, options))
        peers = {}
        for peer in arguments.peer:
            peer_name, _, port = peer.partition("=")
            peers[peer_name] = closed_loop(int(port), 64, seconds, bodies)
        if peers:
            with serving(model, "--cache-mb", "0", *options) as service:
                peers["jobonnx"] = closed_loop(service.port, 64, seconds, bodies)
            report.add("64 clients beside peers", peers)


# Threads and spinning beside busy processes


def burn() -> None:
    while True:
        pass


def run_neighbours(arguments: argparse.Namespace) -> None:
    """One title and batches of 32, for each number of threads, with and without spinning, beside 0, 1 and 2 busy processes."""
    from jobonnx import Encoder
    from jobonnx.runtime.engine import Engine

    report = Report(arguments.out, about(arguments))
    titles = read_titles(arguments.titles, 4000)
    base = Encoder(arguments.model, variant=arguments.variant)
    rows = base.tokenize(titles)
    threads = sorted({1, max(1, base.settings.threads // 2), base.settings.threads})
    graph = base.bundle.folder / base.graph.path
    settings = [replace(base.settings, threads=count, streams=1, spin=spin) for count in threads for spin in (True, False)]
    settings = [each for each in settings if each.threads > 1 or each.spin]  # one thread waits for nobody
    base.close()
    engines = {(each.threads, each.spin): Engine(graph, base.bundle.model, each) for each in settings}
    for busy in (0, 1, 2):
        neighbours = [multiprocessing.Process(target=burn, daemon=True) for _ in range(busy)]
        for neighbour in neighbours:
            neighbour.start()
        samples: dict[tuple[int, bool], tuple[list[float], list[float]]] = {key: ([], []) for key in engines}
        for round_ in range(3):  # in turn, so that whatever else happens on the machine slows all of them
            for key, engine in engines.items():
                ones, batches = samples[key]
                end = time.perf_counter() + arguments.seconds / 2
                number = round_ * 1000
                engine.run(rows[:1])
                while time.perf_counter() < end:
                    start = time.perf_counter()
                    engine.run([rows[number % len(rows)]])
                    ones.append(1000 * (time.perf_counter() - start))
                    number += 1
                end = time.perf_counter() + arguments.seconds / 2
                while time.perf_counter() < end:
                    some = [rows[(number + place) % len(rows)] for place in range(32)]
                    start = time.perf_counter()
                    engine.run(some)
                    batches.append(32 / (time.perf_counter() - start))
                    number += 32
        for neighbour in neighbours:
            neighbour.terminate()
            neighbour.join()
        for (count, spin), (ones, batches) in samples.items():
            ones.sort()
            found = {
                "one_p50_ms": quantile(ones, 0.5),
                "one_p99_ms": quantile(ones, 0.99),
                "bulk_per_second": statistics.median(batches),
            }
            report.add(f"{busy} busy, {count} threads, {'spinning' if spin else 'sleeping'}", found)


def run_soak(arguments: argparse.Namespace) -> None:
    """Traffic of every kind for so many minutes; memory every ten seconds."""
    report = Report(arguments.out, about(arguments))
    titles = read_titles(arguments.titles)
    with serving(model_options(arguments)) as service, tempfile.TemporaryDirectory() as name:
        bodies = (
            [body_of(title) for title in titles[:2000]] + [body_of(titles[i : i + 64]) for i in range(0, 6400, 64)] + [b"{"] * 20
        )
        random.Random(1).shuffle(bodies)
        path = written(bodies, Path(name), "mixed")
        memory, requests, failed = [service.rss_mb()], 0, 0
        end = time.monotonic() + 60 * arguments.minutes
        place = 0
        while time.monotonic() < end:
            found = closed_loop(service.port, 16, 10, path, place)
            place += found["requests"]
            requests += found["requests"]
            failed += found["failed"]
            memory.append(service.rss_mb())
        report.add("soak", {"minutes": arguments.minutes, "requests": requests, "refused": failed, "memory_mb": memory})


# What is written


def markdown(content: dict[str, Any]) -> str:
    lines = ["# The service under load", "", f"- **Date:** {content['date']}", f"- **Command:** `{content['command']}`"]
    lines += [f"- **Machine:** {content['cpu']}, {content['threads']} threads, onnxruntime {content['onnxruntime']}", ""]
    for name, point in content["points"].items():
        rows = point if isinstance(point, list) else [point] if isinstance(point, dict) else []
        lines += [f"## {name[0].upper()}{name[1:]}", ""]
        if not rows:
            lines += [_shown(point), ""]
            continue
        flat = [_flat(row) for row in rows]
        if len(flat) > 1:
            lines += ["| " + " | ".join(flat[0]) + " |", "|" + "---|" * len(flat[0])]
            lines += ["| " + " | ".join(_shown(value) for value in row.values()) + " |" for row in flat]
        else:
            lines += ["| what | value |", "|---|---|", *(f"| {key} | {_shown(value)} |" for key, value in flat[0].items())]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _flat(row: dict[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in row.items():
        found |= _flat(value, f"{before}{key} ") if isinstance(value, dict) else {f"{before}{key}": value}
    return found


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"{_shown(value[0])} at first, {_shown(value[-1])} at last, {_shown(max(value))} at most" if value else "none"
    return (
        f"{value:,.3g}"
        if isinstance(value, float) and abs(value) < 1000
        else f"{value:,.0f}"
        if isinstance(value, float)
        else str(value)
    )


def plot(content: dict[str, Any], path: str) -> None:
    """Latency over rate: the closed loops as a line, the open ones as points."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    loops = content["points"].get("closed loop", [])
    for name in ("p50_ms", "p99_ms"):
        axes.plot([loop["per_second"] for loop in loops], [loop[name] for loop in loops], "o-", label=f"closed loop, {name[:3]}")
    for loop in loops:
        axes.annotate(f"{loop['clients']}", (loop["per_second"], loop["p99_ms"]), textcoords="offset points", xytext=(4, 4))
    for name, point in content["points"].items():
        if name.startswith("open loop"):
            axes.plot([point["good_per_second"]] * 2, [point["p50_ms"], point["p99_ms"]], "s--", label=name)
    axes.set(xlabel="replies per second", ylabel="milliseconds", yscale="log", title="Latency over rate; numbers are clients")
    axes.legend(fontsize="small")
    figure.savefig(path)
    pyplot.close(figure)


def model_options(arguments: argparse.Namespace) -> list[str]:
    options = ["-m", arguments.model] if arguments.model else []
    return options + (["--variant", arguments.variant] if arguments.variant else [])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    runs: dict[str, tuple[Callable[[argparse.Namespace], None], float]] = {
        "serve": (run_serve, 20.0),
        "neighbours": (run_neighbours, 4.0),
        "soak": (run_soak, 10.0),
    }
    for name, (run, seconds) in runs.items():
        command = commands.add_parser(name)
        command.add_argument("out")
        command.add_argument("-m", "--model")
        command.add_argument("--variant")
        command.add_argument("--titles")
        command.add_argument("--seconds", type=float, default=seconds)
        command.add_argument("--minutes", type=float, default=20.0)
        command.add_argument("--points", default="", help="some of one, closed, open, twice, large, zipf; all by default")
        command.add_argument("--capacity", type=float, default=0.0, help="replies/s, in place of the best closed loop's")
        command.add_argument("--singles", type=int, default=300)
        command.add_argument("--serve-options", default="")
        command.add_argument("--peer", action="append", default=[], metavar="NAME=PORT")
        command.set_defaults(run=run)
    arguments = parser.parse_args()
    os.environ.setdefault("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    arguments.run(arguments)


if __name__ == "__main__":
    main()
