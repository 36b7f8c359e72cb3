"""What clients, disks, signals and a broken engine do to the service: nothing accepted is lost, and it lives or /health says no."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from helpers.service import CLIENT, PATIENCE, Running, running
from jobonnx.serve import settings

pytestmark = [pytest.mark.medium, pytest.mark.skipif(sys.platform == "win32", reason="signals and sockets of POSIX")]

# Every engine below fails or hangs for a title whose row of token ids holds this one.
POISON = "Giftmischer"
BREAK = """
import time
import jobonnx.encoder as module
from jobonnx.encoder import Encoder
original, tokenizer = Encoder.encode_batch, None
def broken(self, rows):
    poison = self.tokenize(["Giftmischer"])[0]
    if any(list(row) == poison for row in rows):
        {act}
    return original(self, rows)
Encoder.encode_batch = broken
"""
RAISES = BREAK.format(act="raise RuntimeError('Giftmischer broke it')")
PANICS = BREAK.format(act="raise type('Panic', (BaseException,), {})('Giftmischer broke it')")
HANGS = "import jobonnx.serve.settings as s\ns.STALLED_SECONDS = 1.0\n" + BREAK.format(act="time.sleep(3600)")
SLOW = BREAK.format(act="time.sleep(2)")
SLOW += "slow = Encoder.encode_batch\nEncoder.encode_batch = lambda self, rows: (time.sleep(0.05), slow(self, rows))[1]\n"
SHORT_TIMES = "import jobonnx.serve.settings as s\ns.BODY_SECONDS = 1.0\ns.HEADER_SECONDS = 1.0\n"


def port_of(service: Running) -> int:
    return int(service.url.rsplit(":", 1)[1])


def connect(service: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port_of(service)), timeout=PATIENCE)


def until_closed(opened: socket.socket) -> bytes:
    """Read until the other side closes."""
    parts = []
    try:
        while part := opened.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def embed(service: Running, title: str) -> int:
    try:
        return service.post("/v1/embeddings", {"input": title}).status_code
    except httpx.HTTPError:
        return 0


@pytest.mark.parametrize("prelude", [RAISES, PANICS], ids=["exception", "panic"])
def test_an_engine_that_fails_on_a_title_fails_only_the_request_that_has_it(prelude: str) -> None:
    with running(prelude=prelude) as service, ThreadPoolExecutor(16) as pool:
        for round_ in range(3):
            titles = [f"title {round_} {number}" for number in range(30)]
            titles.insert(7, POISON)
            statuses = list(pool.map(lambda title: embed(service, title), titles))
            assert [status for title, status in zip(titles, statuses, strict=True) if title == POISON] == [500]
            assert statuses.count(200) == 30
        reply = service.post("/v1/embeddings", {"input": POISON}, headers={"X-Request-ID": "abc-3"})
        assert POISON not in reply.text
        assert "under request abc-3" in reply.json()["error"]["message"]
        service.until(lambda: any(line.get("request") == "abc-3" and "frames" in line for line in service.lines))
        assert POISON not in str(service.lines)
        assert service.status("/health") == 200


def test_a_session_that_hangs_turns_health_bad_and_requests_get_503() -> None:
    with running("--deadline-ms", "1500", prelude=HANGS) as service:
        assert embed(service, "nurse") == 200
        assert embed(service, POISON) == 503
        service.until(lambda: service.status("/health") == 503, 10)
        assert service.status("/ready") == 503
        assert embed(service, "nurse") == 200, "what is cached is still answered"
        start = time.monotonic()
        assert embed(service, "never seen") in (429, 503)
        assert time.monotonic() - start < 5
        assert service.stop(seconds=20) == 0, "and it can be stopped"


def test_requests_past_their_deadline_get_503_and_are_not_computed() -> None:
    with running("--deadline-ms", "500", prelude=SLOW) as service, ThreadPoolExecutor(8) as pool:
        blocker = pool.submit(embed, service, POISON)  # two seconds
        time.sleep(0.2)
        late = [pool.submit(embed, service, f"late {number}") for number in range(4)]
        assert [job.result() for job in late] == [503] * 4
        assert blocker.result() == 503
        service.until(lambda: service.metric("jobonnx_queue_tokens") == 0)
        assert embed(service, "after") == 200


def test_a_client_that_is_killed_is_not_computed_for() -> None:
    script = (
        "import sys, httpx\n"
        "titles = [f'title {number} of many' for number in range(5000)]\n"
        "print('go', flush=True)\n"
        "httpx.post(sys.argv[1] + '/v1/embeddings', json={'input': titles}, timeout=100)"
    )
    with running("--cache-mb", "0", prelude=SLOW) as service:
        client = subprocess.Popen([sys.executable, "-c", script, service.url], stdout=subprocess.PIPE)
        service.until(lambda: service.metric("jobonnx_queue_tokens") > 10_000)
        client.kill()
        client.communicate()
        service.until(lambda: service.metric("jobonnx_queue_tokens") == 0, 10)
        assert service.metric("jobonnx_clients_left_total") == 1
        assert embed(service, "nurse") == 200


def test_slow_headers_and_bodies_are_cut_off_and_harm_nobody() -> None:
    with running(prelude=SHORT_TIMES) as service:
        silent, headers, body = connect(service), connect(service), connect(service)
        headers.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        body.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        start = time.monotonic()
        assert embed(service, "nurse") == 200
        assert until_closed(silent) == b""
        assert until_closed(headers) == b""
        assert b" 408 " in until_closed(body).split(b"\r\n")[0]
        assert time.monotonic() - start < 20
        for opened in (silent, headers, body):
            opened.close()


def test_a_body_that_drips_is_cut_off_as_well() -> None:
    with running(prelude=SHORT_TIMES) as service:
        with connect(service) as opened:
            opened.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
            closed = False
            for _ in range(100):
                try:
                    opened.sendall(b" ")
                except OSError:
                    closed = True
                    break
                time.sleep(0.1)
            assert closed or b" 408 " in until_closed(opened)
        assert embed(service, "nurse") == 200


def test_headers_without_an_end_are_cut_off(service: Running) -> None:
    with connect(service) as opened:
        opened.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        sent = 0
        try:
            while sent < 32 << 20:
                sent += opened.send(b"X-More: " + b"x" * 8000 + b"\r\n")
        except OSError:
            pass
        assert sent < 8 << 20  # most of it lies in the buffers of the two sockets
    assert embed(service, "nurse") == 200


def test_many_bodies_at_once_do_not_fill_the_memory(service: Running) -> None:
    """Each is within its limit; together they are not."""
    opened = [connect(service) for _ in range(20)]
    part = b" " * (settings.MOST_BODY_BYTES // 2)
    before = psutil.Process(service.process.pid).memory_info().rss
    try:
        for each in opened:
            each.sendall(b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % settings.MOST_BODY_BYTES)
        for each in opened:
            try:
                each.sendall(part)
            except OSError:
                continue
        time.sleep(0.5)
        grown = psutil.Process(service.process.pid).memory_info().rss - before
        assert grown < 3 * settings.MOST_BODIES_BYTES
    finally:
        for each in opened:
            each.close()
    assert embed(service, "nurse") == 200


def test_malformed_requests_get_an_answer_and_harm_nobody(service: Running) -> None:
    for sent in (
        b"\x00\x01\x02\r\n\r\n",
        b"GET\r\n\r\n",
        b"POST /embed HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /embed HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
    ):
        with connect(service) as opened:
            opened.sendall(sent)
            opened.shutdown(socket.SHUT_WR)
            until_closed(opened)
    assert embed(service, "nurse") == 200


def test_a_full_disk_under_the_log_stops_nothing() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with open("/dev/full", "wb") as full, running("--port", str(port), stderr=full, url=f"http://127.0.0.1:{port}") as service:
        for number in range(50):
            assert embed(service, f"title {number}") == 200
        service.until(lambda: service.metric("jobonnx_log_lines_dropped") >= 50)
        assert service.stop() == 0


def test_a_log_that_nobody_reads_stops_nothing() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with running("--port", str(port), url=f"http://127.0.0.1:{port}") as service:
        assert service.process.stderr is not None
        fcntl.fcntl(service.process.stderr, fcntl.F_SETPIPE_SZ, 4096)
        for number in range(60):  # more than the pipe holds
            assert embed(service, f"title {number}") == 200
        assert service.status("/health") == 200


def test_sigterm_under_load_loses_nothing_that_was_accepted() -> None:
    with running(prelude=SLOW) as service:
        stop = threading.Event()
        outcomes: list[Any] = []

        def client(number: int) -> None:
            with httpx.Client(timeout=PATIENCE) as mine:
                count = 0
                while not stop.is_set():
                    count += 1
                    try:
                        outcomes.append(mine.post(service.url + "/v1/embeddings", json={"input": f"{number} {count}"}).status_code)
                    except httpx.ConnectError:  # it takes no new connections any more
                        return
                    except httpx.HTTPError as error:  # an idle connection that it closed while the request was on its way
                        outcomes.append(type(error).__name__)
                        return

        threads = [threading.Thread(target=client, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        service.until(lambda: len(outcomes) > 100)
        in_flight = int(service.metric("jobonnx_queue_tokens"))
        assert service.stop() == 0
        stop.set()
        for thread in threads:
            thread.join(PATIENCE)
        assert in_flight > 0
        lost = [outcome for outcome in outcomes if outcome not in (200, 503)]
        # What a closed keep-alive connection refuses never reached the service; HTTP lets clients send that again.
        assert set(lost) <= {"RemoteProtocolError", "ReadError", "WriteError"}
        statuses = [line["status"] for line in service.logged("request") if line["route"] == "/v1/embeddings"]
        assert set(statuses) <= {200, 503}
        assert statuses.count(200) == outcomes.count(200)


def test_a_long_request_is_finished_after_sigterm() -> None:
    with running(prelude=SLOW) as service, ThreadPoolExecutor(1) as pool:
        titles = [f"title number {number}" for number in range(500)]
        job = pool.submit(service.post, "/v1/embeddings", {"input": titles})
        service.until(lambda: service.metric("jobonnx_queue_tokens") > 500)
        assert service.stop() == 0
        assert len(job.result().json()["data"]) == 500
        assert service.logged("stopped")


def test_ready_says_no_and_new_connections_are_refused_while_it_drains() -> None:
    with running(prelude=SLOW) as service, ThreadPoolExecutor(1) as pool, httpx.Client(timeout=PATIENCE) as mine:
        job = pool.submit(service.post, "/v1/embeddings", {"input": [f"title number {number}" for number in range(500)]})
        service.until(lambda: service.metric("jobonnx_queue_tokens") > 500)
        service.process.send_signal(signal.SIGTERM)
        service.until(lambda: any("finishing what was accepted" in line["message"] for line in service.lines))
        time.sleep(0.3)
        with pytest.raises(httpx.HTTPError):
            mine.get(service.url + "/ready")
        assert job.result().status_code == 200


def test_a_second_signal_does_not_wait() -> None:
    with running(prelude=SLOW) as service, ThreadPoolExecutor(1) as pool:
        job = pool.submit(embed, service, POISON)
        time.sleep(0.5)
        service.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        start = time.monotonic()
        service.stop()
        assert time.monotonic() - start < 15
        job.result()


@pytest.mark.slow
def test_a_process_that_was_stopped_for_thirty_seconds_goes_on() -> None:
    with running("--deadline-ms", "0") as service, ThreadPoolExecutor(4) as pool:
        before = embed(service, "nurse")
        service.process.send_signal(signal.SIGSTOP)
        jobs = [pool.submit(embed, service, f"title {number}") for number in range(4)]
        time.sleep(30)
        assert service.status("/health") == 0, "a stopped process does not answer its probe"
        service.process.send_signal(signal.SIGCONT)
        assert before == 200
        assert [job.result() for job in jobs] == [200] * 4
        assert service.status("/health") == 200


def test_overload_is_refused_with_429_and_a_time_to_come_again() -> None:
    with running("--max-queue-tokens", "4096", "--cache-mb", "0", prelude=SLOW) as service, ThreadPoolExecutor(16) as pool:

        def send(number: int) -> httpx.Response:
            titles = [f"title {number} {place} of a company" for place in range(100)]
            return CLIENT.post(service.url + "/v1/embeddings", json={"input": titles, "encoding_format": "base64"})

        replies = list(pool.map(send, range(32)))
        statuses = [reply.status_code for reply in replies]
        assert set(statuses) == {200, 429}
        refused = next(reply for reply in replies if reply.status_code == 429)
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert service.metric("jobonnx_queue_tokens") == 0
        assert service.metric('jobonnx_requests_total{route="/v1/embeddings",status="429"}') == statuses.count(429)


def test_a_warm_up_that_fails_turns_health_bad() -> None:
    prelude = "from jobonnx.encoder import Encoder\ndef broken(self, rows): raise RuntimeError('no')\nEncoder.encode_batch = broken"
    with running(prelude=prelude, ready=False) as service:
        service.until(lambda: bool(service.logged("warming up failed")))
        service.until(lambda: service.status("/health") == 503)
        assert service.status("/ready") == 503
        assert embed(service, "nurse") == 503
        assert service.stop() == 0


@pytest.mark.slow
def test_memory_stays_flat_under_traffic_of_every_kind(service: Running) -> None:
    """Two minutes; benchmarks/load.py --only soak runs as long as asked."""
    process = psutil.Process(service.process.pid)

    def round_(seed: int) -> None:
        with ThreadPoolExecutor(8) as pool:
            for number in range(100):
                pool.submit(embed, service, f"title {seed} {number} of a company somewhere")
                if number % 10 == 0:
                    pool.submit(service.post, "/v1/embeddings", {"input": [f"{seed} {number} {place}" for place in range(200)]})
                    pool.submit(service.post, "/v1/embeddings", {"input": 5})

    for seed in range(20):
        round_(seed)
    before = process.memory_info().rss
    end, seed = time.monotonic() + 120, 100
    while time.monotonic() < end:
        round_(seed)
        seed += 1
    grown = process.memory_info().rss - before
    assert grown < 80 << 20, "a cache of 64 MB may fill"
    assert service.metric("process_open_fds") < 200


def test_a_start_without_the_extra_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "uvicorn.py").write_text("raise ModuleNotFoundError(\"No module named 'uvicorn'\", name='uvicorn')")
    done = subprocess.run(
        [sys.executable, "-c", "from jobonnx.cli import main\nmain()", "serve"],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
        check=False,
    )
    assert done.returncode == 1
    assert 'pip install "jobonnx[cpu,serve]"' in done.stderr
    assert len(done.stderr.splitlines()) == 1
