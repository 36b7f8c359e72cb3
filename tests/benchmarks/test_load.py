"""The load campaign's own arithmetic: what counts, what it is compared with, and that reports add up over runs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))

from load_kit.loops import quantile, read_titles  # noqa: E402
from load_kit.parts import PARTS, _lru_hits  # noqa: E402
from load_kit.report import Report, markdown  # noqa: E402

ABOUT = {"model": "jobonnx-small", "cpu": "a CPU"}


def _parts(late: bool = False) -> dict[str, Any]:
    loops = [{"clients": clients, "per_second": 100.0 * clients, "p50_ms": 1.0, "p99_ms": 2.0} for clients in (1, 8, 64, 256)]
    twice = {
        "goodput_share": 0.92,
        "clean_refusals_share": 1.0,
        "counts": not late,
        "good_per_second": 1.0,
        "p50_ms": 1,
        "p99_ms": 2,
    }
    return {
        "closed": {"loops": loops, "bulk": {"per_second": 8000.0}},
        "twice": {"twice": twice},
        "peers": {"ratio": {"to_the_faster_peer": 2.5}, "infinity-emb": {"failed": "it ended with 1: no | such module"}},
    }


def _verdicts(parts: dict[str, Any]) -> list[str]:
    how = {"command": "c", "date": "d", "load": "0.10", "minutes": 1.0}
    text = markdown({"about": ABOUT, "parts": {name: {"how": how, "points": points} for name, points in parts.items()}})
    return [line for line in text.splitlines() if line.startswith("| ")][1:10]


def test_the_aims_are_judged_row_by_row() -> None:
    lines = _verdicts(_parts())
    assert "not measured" in lines[1]
    assert "80.00% | no aim of this model" in lines[2]
    assert "92.00% | reached" in lines[4]
    assert "100.00% | goal" in lines[5]
    assert "2.50 x | missed" in lines[7]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no load average")
def test_a_late_generator_does_not_count() -> None:
    assert "does not count" in _verdicts(_parts(late=True))[4]


@pytest.mark.medium  # draws a plot
def test_a_report_grows_over_runs_and_takes_no_other_model(tmp_path: Path) -> None:
    first = Report(tmp_path / "r", ABOUT)
    first.begin("memory", {"command": "c", "date": "d", "load": "1"})
    first.add("memory", "int8", {"variant": "int8", "peak_mb": 1.5})
    first.end("memory", 0.5)
    first.write()
    second = Report(tmp_path / "r", ABOUT)
    assert second.parts == {"memory": {"int8": {"variant": "int8", "peak_mb": 1.5}}}
    second.begin("soak", {"command": "c", "date": "d", "load": "1"})
    second.add("soak", "soak", {"seconds_and_mb": [[0, 1.0], [10, 1.0]], "health": 200})
    second.write()
    assert set(json.loads((tmp_path / "r.json").read_text())["parts"]) == {"memory", "soak"}
    assert "not complete" in (tmp_path / "r.md").read_text()
    assert (tmp_path / "r.svg").exists()
    with pytest.raises(SystemExit, match="has model 'jobonnx-small', and this run 'another'"):
        Report(tmp_path / "r", ABOUT | {"model": "another"})


def test_every_part_says_what_it_is() -> None:
    assert all(part.__doc__ for part in PARTS.values())


def test_the_ideal_cache_forgets_what_was_used_longest_ago() -> None:
    assert _lru_hits([1, 2, 1, 3, 2, 1], 2) == 1  # 1 is hit; 2 goes for 3, 1 goes for 2
    assert _lru_hits([1, 2, 1, 3, 2, 1], 3) == 3


def test_quantiles_are_of_the_sample() -> None:
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.0
    assert quantile(list(range(1, 101)), 0.99) == 99
    assert quantile([], 0.5) != quantile([], 0.5)


def test_titles_come_from_onets_table_and_from_lines(tmp_path: Path) -> None:
    (tmp_path / "lines").write_text("b\na\nb\n \n")
    (tmp_path / "table").write_text("O*NET-SOC Code\tAlternate Title\tShort\n11-1\tb\tx\n11-1\ta\tx\n11-2\tb\tx\n")
    assert sorted(read_titles(str(tmp_path / "lines"))) == sorted(read_titles(str(tmp_path / "table"))) == ["a", "b"]


@pytest.mark.medium
@pytest.mark.skipif(sys.platform != "linux", reason="timerfd is Linux's")
def test_an_open_loop_sends_on_time_whatever_the_service_does() -> None:
    pytest.importorskip("uvloop")
    from load_kit.open_loop import measure

    async def slow_service(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionResetError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                body = await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
                await asyncio.sleep(0.3)
                status = b"429 Too Many Requests" if body == b"no" else b"200 OK"
                writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    async def run() -> dict[str, Any]:
        server = await asyncio.start_server(slow_service, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        found = await measure("127.0.0.1", port, 100.0, 0.5, [b"yes", b"no"], 1)
        server.close()
        await asyncio.sleep(0.05)  # until both ends have seen the other one go
        return found

    found = asyncio.run(run())
    rows = found["due_sent_done_status"]
    assert found["unanswered"] == 0
    assert 25 < len(rows) < 90
    assert {row[3] for row in rows} == {200, 429}
    assert all(row[2] - row[0] >= 0.3 for row in rows)
    due = sorted(row[0] for row in rows)
    assert due[0] < 0.1
    assert due[-1] < 0.5
    assert max(row[1] for row in rows) < 0.3 + max(due), "no request waited for another's reply"
