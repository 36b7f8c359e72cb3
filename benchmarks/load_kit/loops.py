"""One measured point: a closed loop by wrk, or an open one with Poisson arrivals."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

KIT = Path(__file__).parent
_LATE_MS = 1.0  # p99 lateness of an open loop that still counts


def closed_loop(port: int, clients: int, seconds: float, bodies: Path, first: int = 0) -> dict[str, Any]:
    """Let so many clients ask, each again as soon as it has its reply."""
    url = f"http://127.0.0.1:{port}"
    command = ["wrk", "-t1", f"-c{clients}", f"-d{max(1, round(seconds))}s", "--timeout", "60s", "-s", str(KIT / "wrk.lua"), url]
    done = subprocess.run([*command, "--", str(bodies), str(first)], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.split("JSON ")[1].splitlines()[0])
    return {"clients": clients, "per_second": (found["requests"] - found["failed"]) / found["seconds"]} | found


def open_loop(port: int, rate: float, seconds: float, bodies: Path, seed: int = 1) -> dict[str, Any]:
    """Send requests at Poisson times; latencies are those of replies with 200, from when the request was due."""
    command = [sys.executable, "-m", "load_kit.open_loop", "127.0.0.1", str(port), str(rate), str(seconds), str(bodies), str(seed)]
    with tempfile.TemporaryFile() as output:  # not a pipe: a part of 100 KB was lost in one
        subprocess.run(command, stdout=output, check=True, cwd=KIT.parent)
        output.seek(0)
        content: dict[str, Any] = json.load(output)
    rows = content.pop("due_sent_done_status")
    good = sorted(1000 * (row[2] - row[0]) for row in rows if row[3] == 200)
    late = sorted(1000 * (row[1] - row[0]) for row in rows)
    inside = sum(row[3] == 200 and row[2] <= seconds for row in rows)
    return content | {
        "offered_per_second": rate,
        "seconds": seconds,
        "requests": len(rows),
        "statuses": {str(status): sum(row[3] == status for row in rows) for status in sorted({row[3] for row in rows})},
        "good_per_second": inside / seconds,  # replies in the time of arrivals, so that emptying the queue afterwards adds nothing
        "p50_ms": quantile(good, 0.5),
        "p90_ms": quantile(good, 0.9),
        "p99_ms": quantile(good, 0.99),
        "late_p99_ms": quantile(late, 0.99),
        "counts": quantile(late, 0.99) <= _LATE_MS,
    }


def quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] if ordered else float("nan")


def read_titles(path: str | None) -> list[str]:
    """Read distinct titles in a fixed random order: one per line, O*NET's "Alternate Titles.txt", or the built-in ones."""
    if path is None:
        from jobonnx.data.titles import read_titles as built_in

        titles = built_in()
    else:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        titles = [line.split("\t")[1] for line in lines[1:]] if lines[0].startswith("O*NET") else lines
    titles = [title for title in dict.fromkeys(titles) if title.strip()]
    random.Random(0).shuffle(titles)
    return titles


def written(bodies: Sequence[bytes], path: Path) -> Path:
    path.write_bytes(b"\n".join(bodies) + b"\n")
    return path
