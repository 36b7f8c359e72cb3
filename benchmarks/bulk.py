"""What `jobonnx embed` costs beside the bare engine and sentence-transformers, in interleaved runs.

python benchmarks/bulk.py [--bundle FULL_SIZE] [--rows 1000000] [--rounds 3] [--peer-rows 50000] [--skip-million]

1. With --bundle: 5,000 distinct titles through its int8 variant. At least 95% of the bare engine's rate.
2. Titles made here, 40% of them distinct, through the small model, with repeats and without. At least 75% of the bare rate (the
   goal is 90%); five times the rate of sentence-transformers' `encode` of the same column written with pyarrow (torch, fp32, the
   same checkpoint; its first --peer-rows rows); at most 1 GB, and as much memory for a tenth of the rows.

The bare rate is `Engine.encode` on the token ids of the distinct titles, in memory; the rate with tokenising stands beside it. Each
run is a process of its own. Rates leave out imports and loading. Medians over the rounds are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobonnx.data.titles import read_titles

ROOT = Path(__file__).parents[1]
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


def run(code: str, *arguments: object) -> dict[str, float]:
    """Run Python in a process of its own; return what it prints, and its peak memory in MB."""
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"a run ended with status {process.returncode}")
    return {**json.loads(printed), "peak_mb": usage.ru_maxrss / 1024}


def embed(source: Path, folder: Path, bundle: str) -> dict[str, float]:
    """Run the command; return the rates of its report."""
    with tempfile.TemporaryDirectory(dir=folder) as output:
        command = ["embed", str(source), "-o", f"{output}/out", "--column", "title", "--variant", "int8"]
        command += ["--model", bundle] if bundle else []
        code = f"import sys; sys.argv[1:] = {command!r}; from jobonnx.cli import main; main()"
        report: dict[str, Any] = run(code)
    this = report["this_run"]
    return {"rate": this["computed_per_second"], "rows": this["rows_per_second"], "peak_mb": report["peak_mb"]}


def rounds(count: int, what: dict[str, Callable[[], dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Run everything in turn, round by round; return medians."""
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in what}
    for number in range(count):
        for name, call in what.items():
            measured[name].append(call())
            print(f"round {number + 1}, {name}: {measured[name][-1]}", file=sys.stderr, flush=True)
    return {name: {key: median(one[key] for one in all_) for key in all_[0]} for name, all_ in measured.items()}


def show(title: str, medians: dict[str, dict[str, float]]) -> None:
    print(f"\n## {title}\n")
    for name, values in medians.items():
        print(f"- {name}: " + ", ".join(f"{key} {value:,.1f}" for key, value in values.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="", help="a full-size bundle with int8")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-rows", type=int, default=50_000)
    parser.add_argument("--skip-million", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if options.bundle:
            source = make(folder / "distinct.parquet", 5000, 5000)
            bare, command = lambda: run(BARE, source, options.bundle), lambda: embed(source, folder, options.bundle)
            medians = rounds(options.rounds, {"bare engine": bare, "embed": command})
            show("5,000 distinct titles, full-size int8", medians)
            print(f"- embed / bare engine: {medians['embed']['rate'] / medians['bare engine']['rate']:.3f} (at least .95)")
        if options.skip_million:
            return
        distinct = options.rows * 2 // 5
        repeated = make(folder / "repeated.parquet", options.rows, distinct)
        once, tenth = (
            make(folder / "once.parquet", distinct, distinct),
            make(folder / "tenth.parquet", options.rows // 10, distinct // 10),
        )
        checkpoint = ROOT / "training" / "checkpoint"
        what: dict[str, Callable[[], dict[str, float]]] = {
            "bare engine": lambda: run(BARE, once, ""),
            "embed, with repeats": lambda: embed(repeated, folder, ""),
            "embed, without repeats": lambda: embed(once, folder, ""),
            "embed, a tenth": lambda: embed(tenth, folder, ""),
            "sentence-transformers": lambda: run(PEER, repeated, checkpoint, options.peer_rows, folder / "peer.parquet"),
        }
        medians = rounds(options.rounds, what)
        show(f"{options.rows:,} titles, {distinct:,} distinct, small model int8", medians)
        bare_rate = medians["bare engine"]["rate"]
        for name in ("embed, with repeats", "embed, without repeats"):
            print(f"- {name} / bare engine, titles computed: {medians[name]['rate'] / bare_rate:.3f} (at least .75)")
        rows = medians["embed, with repeats"]["rows"]
        print(f"- embed / sentence-transformers, rows: {rows / medians['sentence-transformers']['rate']:.2f} (at least 5)")
        peak, small = medians["embed, with repeats"]["peak_mb"], medians["embed, a tenth"]["peak_mb"]
        print(f"- peak memory: {peak:,.0f} MB (at most 1,000); a tenth of the rows: {small:,.0f} MB")


if __name__ == "__main__":
    main()
