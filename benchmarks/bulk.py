"""What `jobonnx embed` costs beside the bare engine and sentence-transformers, in interleaved runs, each a process of its own.

    python benchmarks/bulk.py OUT full --bundle FULL_SIZE [--titles 5000] [--rounds 3]
    python benchmarks/bulk.py OUT million [--rows 1000000] [--peer-rows 50000] [--rounds 3]
    python benchmarks/bulk.py OUT memory [--rows 1000000]

OUT is a name without ending: OUT.json and OUT.md are written after every run, and parts measured before stay in them.

- full: distinct titles through the int8 variant of a full-size bundle. At least 95% of the bare engine's rate is asked for.
- million: titles made here, 40% of them distinct, through the small model's int8, with repeats and without. At least 75% of the
  bare rate is asked for (the goal is 90%), and five times the rows per second of sentence-transformers' `encode` of the column,
  written with pyarrow (torch, fp32, the same checkpoint). It takes the first --peer-rows rows only: a repeat costs it as much as
  a new title.
- memory: the same rows once, and a tenth of them; the resident memory is looked at five times per second. At most 1 GB is asked
  for, and no growth.

The bare rate is `Engine.encode` on the token ids of the distinct titles, in memory; the rate with tokenising stands beside it.
Rates leave out imports and loading. A ratio is the median over rounds of the ratio within a round. Needs Linux: memory is read in
/proc.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobonnx.data.titles import read_titles
from jobonnx.markdown import table
from jobonnx_bench.environment import record

CHECKPOINT = Path(__file__).parents[1] / "training" / "checkpoint"
DISTINCT = 0.4  # of the rows
EVERY = 0.2  # seconds between two looks at the memory
SHOWN = 60  # looks that OUT.json keeps, evenly spaced
GRADES = ("", "Senior ", "Junior ", "Lead ", "Principal ", "Assistant ", "Head of ", "Trainee ")
PLACES = (
    "",
    " Berlin",
    " (m/w/d)",
    " - Madrid",
    " II",
    " / Remote",
    " London",
    " (Teilzeit)",
    ", Shanghai",
    " 40h",
    " - Night shift",
    " NRW",
)

BARE = """
import json, sys, time
import pyarrow.parquet as pq
from jobonnx import Encoder
titles = list(dict.fromkeys(pq.read_table(sys.argv[1], columns=["title"])["title"].to_pylist()))
with Encoder(sys.argv[2] or None, variant="int8") as encoder:
    encoder.engine.encode(encoder.tokenize(titles[:200]))
    start = time.perf_counter()
    rows = encoder.tokenize(titles)
    tokenised = time.perf_counter()
    encoder.engine.encode(rows)
    end = time.perf_counter()
print(json.dumps({"rate": len(titles) / (end - tokenised), "with_tokenising": len(titles) / (end - start)}))
"""

PEER = """
import json, sys, time
import pyarrow as pa, pyarrow.parquet as pq
from sentence_transformers import SentenceTransformer
titles = pq.read_table(sys.argv[1], columns=["title"])["title"].to_pylist()[:int(sys.argv[3])]
model = SentenceTransformer(sys.argv[2], device="cpu")
model.encode(titles[:64])
start = time.perf_counter()
vectors = model.encode(titles)
flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
pq.write_table(pa.table({"title": titles, "vector": flat}), sys.argv[4])
print(json.dumps({"rate": len(titles) / (time.perf_counter() - start)}))
"""


def make(path: Path, rows: int, distinct: int) -> Path:
    """Write titles with repeats, about as a job board has them: few titles often, most once or twice."""
    chances = np.random.default_rng(7)
    base = read_titles()
    every = len(base) * len(GRADES) * len(PLACES)
    chosen = chances.choice(every, distinct, replace=False)
    titles = np.array(
        [f"{GRADES[n % 8]}{base[n // 8 % len(base)]}{PLACES[n // 8 // len(base)]}" for n in chosen.tolist()], dtype=object
    )
    repeats = np.minimum(chances.zipf(1.2, rows - distinct), distinct) - 1
    places = chances.permutation(np.concatenate([np.arange(distinct), repeats]))
    ids = pa.array(np.arange(rows)).cast(pa.string())
    pq.write_table(pa.table({"id": ids, "title": titles[places].tolist()}), path)
    return path


def run(code: str, *arguments: object) -> dict[str, Any]:
    """Run Python in a process of its own; return what it prints, its peak memory, and its memory now and then."""
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    looks, peak, began = [], 0.0, time.monotonic()
    while process.poll() is None:
        resident, high = memory_mb(process.pid)
        if resident:
            looks.append((round(time.monotonic() - began, 1), resident))
        peak = max(peak, high)
        time.sleep(EVERY)
    if process.returncode:
        raise SystemExit(f"a run ended with status {process.returncode}")
    assert process.stdout is not None
    return {**json.loads(process.stdout.read()), "peak_mb": peak, "looks": looks}


def memory_mb(pid: int) -> tuple[float, float]:
    """Return the resident memory of a process, and the most it ever had; zeros if it is gone.

    `ru_maxrss` would begin with that of this process, which has made a million titles.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0, 0.0
    values = dict(line.split(":", 1) for line in status.splitlines())
    resident, high = (int(values.get(name, "0").split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    return resident, high


def embed(source: Path, folder: Path, bundle: str = "") -> dict[str, Any]:
    """Run the command; return the rates of its report, and its memory."""
    with tempfile.TemporaryDirectory(dir=folder) as output:
        command = ["embed", str(source), "-o", f"{output}/out", "--column", "title", "--variant", "int8"]
        command += ["--model", bundle] if bundle else []
        code = f"import sys; sys.argv[1:] = {command!r}; from jobonnx.cli import main; main()"
        report = run(code)
    this, computed = report["this_run"], report["computed"]
    rates = {"rate": this["computed_per_second"], "rows": this["rows_per_second"], "cpu_seconds": this["cpu_seconds"]}
    return {**rates, "read": report["read"], "computed": computed, "peak_mb": report["peak_mb"], "looks": report["looks"]}


def growth(looks: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Compare the highest memory of the second quarter of a run with that of its last quarter, in MB."""
    resident = [mb for _, mb in looks]
    quarter = max(1, len(resident) // 4)
    return {"second_quarter": max(resident[quarter : 2 * quarter] or resident), "last_quarter": max(resident[-quarter:])}


class Out:
    """OUT.json and OUT.md."""

    def __init__(self, name: Path) -> None:
        self._json, self._markdown = name.with_name(f"{name.name}.json"), name.with_name(f"{name.name}.md")
        self.parts: dict[str, Any] = json.loads(self._json.read_text("utf-8")) if self._json.exists() else {}

    def begin(self, part: str, **facts: Any) -> None:
        command = ["python", "benchmarks/bulk.py", *sys.argv[1:]]
        self.parts[part] = {"command": command, "environment": asdict(record()), **facts, "runs": {}}

    def add(self, part: str, name: str, measured: dict[str, Any]) -> None:
        looks = measured["looks"]
        kept = looks[:: max(1, len(looks) // SHOWN)]
        one = {**measured, **growth(looks or [(0.0, 0.0)]), "looks": kept}
        self.parts[part]["runs"].setdefault(name, []).append(one)
        print(f"{part}, {name}: { {key: value for key, value in one.items() if key != 'looks'} }", file=sys.stderr, flush=True)
        self._json.write_text(json.dumps(self.parts, indent=1) + "\n", "utf-8")
        self._markdown.write_text(markdown(self.parts), "utf-8")


def rounds(out: Out, part: str, count: int, what: dict[str, Callable[[], dict[str, Any]]]) -> None:
    """Run everything in turn, round by round, each round beginning with another."""
    names = list(what)
    for number in range(count):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            out.add(part, name, what[name]())


def ratio(runs: dict[str, list[dict[str, Any]]], one: tuple[str, str], other: tuple[str, str]) -> str:
    """Return the median over rounds of one figure divided by another."""
    pairs = list(zip(runs.get(one[0], []), runs.get(other[0], []), strict=False))
    return f"{median(a[one[1]] / b[other[1]] for a, b in pairs):.3f}" if pairs else "not measured"


def markdown(parts: dict[str, Any]) -> str:
    """Describe what was measured."""
    text = ["# jobonnx embed beside the bare engine and sentence-transformers"]
    for part, content in parts.items():
        machine, runs = content["environment"], content["runs"]
        text += [f"## {content['title']}", f"`{' '.join(content['command'])}`"]
        revision, most = (machine["git_revision"] or "unknown")[:12], max(map(len, runs.values()), default=0)
        text.append(
            f"{machine['date'][:10]}, {machine['cpu']}, {machine['threads']} threads, load before {machine['load_average']:.1f}, "
            f"revision {revision}. Runs: {most} each; medians."
        )
        rows = []
        for name, measured in runs.items():
            figures = [[one.get(key) for one in measured] for key in ("rate", "rows", "peak_mb", "second_quarter", "last_quarter")]
            rows.append([name, *(f"{median(values):,.0f}" if None not in values else "" for values in figures)])
        columns = ["run", "titles/s", "rows/s", "peak MB", "MB, second quarter", "MB, last quarter"]
        text.append(table(columns, rows, "lr"))
        embedded = [name for name in runs if name.startswith("embed")]
        if "bare engine" in runs:
            asked = content["asked"]
            text += [
                f"- {name} / bare engine, titles computed per second: {ratio(runs, (name, 'rate'), ('bare engine', 'rate'))} "
                f"(at least {asked} asked)"
                for name in embedded
            ]
        if "sentence-transformers" in runs:
            pair = ("embed, with repeats", "rows"), ("sentence-transformers", "rate")
            text.append(f"- embed, with repeats / sentence-transformers, rows per second: {ratio(runs, *pair)} (at least 5 asked)")
            pair = ("embed, without repeats", "rows"), ("sentence-transformers", "rate")
            text.append(f"- embed, without repeats / sentence-transformers, rows per second: {ratio(runs, *pair)}")
        if part == "memory":
            text.append("At most 1,000 MB asked, and as much in the last quarter of a run as in its second.")
    return "\n\n".join(text) + "\n"


def full(out: Out, folder: Path, options: argparse.Namespace) -> None:
    source = make(folder / "distinct.parquet", options.titles, options.titles)
    out.begin("full", title=f"{options.titles:,} distinct titles, full-size int8", asked=0.95)
    what: dict[str, Callable[[], dict[str, Any]]] = {
        "bare engine": lambda: run(BARE, source, options.bundle),
        "embed": lambda: embed(source, folder, options.bundle),
    }
    rounds(out, "full", options.rounds, what)


def million(out: Out, folder: Path, options: argparse.Namespace) -> None:
    distinct = int(options.rows * DISTINCT)
    repeated, once = (
        make(folder / "repeated.parquet", options.rows, distinct),
        make(folder / "once.parquet", distinct, distinct),
    )
    title = f"{options.rows:,} titles, {distinct:,} distinct, small model, int8"
    out.begin("million", title=title, asked=0.75, peer_rows=options.peer_rows)
    what: dict[str, Callable[[], dict[str, Any]]] = {
        "bare engine": lambda: run(BARE, once, ""),
        "embed, with repeats": lambda: embed(repeated, folder),
        "embed, without repeats": lambda: embed(once, folder),
        "sentence-transformers": lambda: run(PEER, repeated, CHECKPOINT, options.peer_rows, folder / "peer.parquet"),
    }
    rounds(out, "million", options.rounds, what)


def memory(out: Out, folder: Path, options: argparse.Namespace) -> None:
    out.begin("memory", title=f"Memory, {options.rows:,} titles and a tenth, {DISTINCT:.0%} distinct, small model, int8")
    for name, rows in (("embed, a tenth", options.rows // 10), ("embed", options.rows)):
        source = make(folder / "memory.parquet", rows, int(rows * DISTINCT))
        out.add("memory", name, embed(source, folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("part", choices=["full", "million", "memory"])
    parser.add_argument("--bundle", default="", help="a full-size bundle with int8")
    parser.add_argument("--titles", type=int, default=5000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-rows", type=int, default=50_000)
    options = parser.parse_args()
    if options.part == "full" and not options.bundle:
        parser.error("full needs --bundle")
    with tempfile.TemporaryDirectory() as folder:
        {"full": full, "million": million, "memory": memory}[options.part](Out(options.out), Path(folder), options)


if __name__ == "__main__":
    main()
