"""Exact top-k beside its peers: time and peak memory, each search in a separate process.

    python benchmarks/matching.py WORK_FOLDER [--titles 1000000] [--dimension 1024] [--queries 1000] [-k 100] [--json OUT]

The vectors are made once, in the work folder (4 GB by default). Then every contender runs once per round, in turn, so that a busy
machine slows all of them. Only the search is timed: imports, opening the vectors and one small search that starts the threads come
before it.

Memory is what the kernel reports about the process (/proc, so Linux only). `anonymous` is the peak of what it allocated (RssAnon,
read every 5 ms). `resident` includes the pages of the mapped file (VmHWM), which the kernel can take back at any time.

Needs faiss-cpu for the peer.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jobonnx.arrays import Floats, Ints

Search = Callable[[Floats], Ints]


def jobonnx_top_k(corpus: Floats, k: int) -> Search:
    from jobonnx.search.topk import top_k

    return lambda queries: top_k(queries, corpus, k)[1]


def faiss_flat(corpus: Floats, k: int) -> Search:
    import faiss

    index = faiss.IndexFlatIP(corpus.shape[1])
    for first in range(0, len(corpus), 65536):  # it keeps a copy of the vectors; no second one on the way
        index.add(corpus[first : first + 65536])
    return lambda queries: index.search(queries, k)[1]


def numpy_argpartition(corpus: Floats, k: int) -> Search:
    def search(queries: Floats) -> Ints:
        scores = queries @ corpus.T
        best = np.argpartition(scores, -k, axis=1)[:, -k:]
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1)
        return np.take_along_axis(best, order, axis=1)

    return search


def numpy_product_alone(corpus: Floats, k: int) -> Search:
    """Do no search: measure the rate of the BLAS, in the blocks that `top_k` uses for 1,000 queries."""
    block = 8192

    def search(queries: Floats) -> Ints:
        scores = np.empty((len(queries), min(block, len(corpus))), np.float32)
        for first in range(0, len(corpus), block):
            titles = corpus[first : first + block]
            np.matmul(queries, titles.T, out=scores[:, : len(titles)])
        return np.empty((0, k), np.int64)

    return search


CONTENDERS: dict[str, Callable[[Floats, int], Search]] = {
    "jobonnx top_k": jobonnx_top_k,
    "faiss IndexFlatIP": faiss_flat,
    "numpy product + argpartition": numpy_argpartition,
    "numpy product alone": numpy_product_alone,
}


def make_vectors(path: Path, count: int, dimension: int, seed: int) -> None:
    """Write unit vectors in 5,000 clusters, as titles are in occupations, to `path` unless they are there."""
    if path.exists() and path.stat().st_size == count * dimension * 4:
        return
    centres = np.random.default_rng(0).standard_normal((5000, dimension), dtype=np.float32)
    rng = np.random.default_rng(seed)
    new = path.with_suffix(".new")
    with new.open("wb") as file:
        for first in range(0, count, 16384):
            rows = min(16384, count - first)
            vectors = rng.standard_normal((rows, dimension), dtype=np.float32)
            vectors += centres[rng.integers(0, len(centres), rows)]
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors.tofile(file)
    new.replace(path)


def run_one(arguments: argparse.Namespace) -> None:
    """Time one search in a separate process, and save what it found."""
    shape = (arguments.titles, arguments.dimension)
    # As an array: slicing a numpy.memmap costs more, and some contenders slice more often than others.
    corpus = np.asarray(np.memmap(arguments.work / "titles.f32", np.float32, "r", shape=shape))
    queries = np.fromfile(arguments.work / "queries.f32", np.float32).reshape(-1, arguments.dimension)
    started = time.perf_counter()
    search = CONTENDERS[arguments.only](corpus, arguments.k)
    prepared = time.perf_counter()
    CONTENDERS[arguments.only](corpus[:1000], arguments.k)(queries)
    begun = time.perf_counter()
    found = search(queries)
    ended = time.perf_counter()
    np.save(arguments.work / "found.npy", found)
    print(json.dumps({"seconds": ended - begun, "preparation_seconds": prepared - started}))


def measure(contender: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Run `run_one` and watch its memory from outside."""
    command = [sys.executable, __file__, *sys.argv[1:], "--only", contender]
    anonymous = resident = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                break
            kilobytes = {name: int(value) for name, value in re.findall(r"(RssAnon|VmHWM):\s+(\d+)", status)}
            anonymous = max(anonymous, kilobytes.get("RssAnon", 0))
            resident = max(resident, kilobytes.get("VmHWM", 0))
            time.sleep(0.005)
        assert process.stdout is not None
        output = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{contender} ended with status {process.returncode}")
    return {**json.loads(output), "anonymous_bytes": anonymous * 1024, "resident_bytes": resident * 1024}


def versions() -> dict[str, Any]:
    import faiss

    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "faiss": faiss.__version__,
        "cpus": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("work", type=Path, help="folder for the vectors")
    parser.add_argument("--titles", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=1024)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("-k", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write every measurement here")
    parser.add_argument("--only", choices=CONTENDERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        run_one(arguments)
        return

    arguments.work.mkdir(parents=True, exist_ok=True)
    make_vectors(arguments.work / "titles.f32", arguments.titles, arguments.dimension, 1)
    make_vectors(arguments.work / "queries.f32", arguments.queries, arguments.dimension, 2)
    runs: dict[str, list[dict[str, float]]] = {contender: [] for contender in CONTENDERS}
    agreement = dict.fromkeys(CONTENDERS, 1.0)
    measure("numpy product alone", arguments)  # reads the file into the page cache, for all
    for round_number in range(arguments.rounds):
        reference = None
        for contender in CONTENDERS:
            runs[contender].append(measure(contender, arguments))
            found = np.load(arguments.work / "found.npy")
            if len(found):
                reference = found if reference is None else reference
                same = [len(np.intersect1d(a, b)) for a, b in zip(reference, found, strict=True)]
                agreement[contender] = min(agreement[contender], sum(same) / reference.size)
            print(f"round {round_number + 1}: {contender}: {runs[contender][-1]['seconds']:.2f} s", file=sys.stderr)

    ours = [run["seconds"] for run in runs["jobonnx top_k"]]
    setting = {name: getattr(arguments, name) for name in ("titles", "dimension", "queries", "k", "rounds")} | versions()
    print(*(f"{name} {value}" for name, value in setting.items()), sep=", ", end="\n\n")
    print("| search | seconds | times top_k | Gflop/s | anonymous, GB | resident, GB | same titles |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    summary = {}
    for contender, measured in runs.items():
        seconds = statistics.median(run["seconds"] for run in measured)
        ratio = statistics.median(run["seconds"] / own for run, own in zip(measured, ours, strict=True))
        flops = 2 * arguments.queries * arguments.titles * arguments.dimension / seconds
        anonymous, resident = (max(run[f"{kind}_bytes"] for run in measured) for kind in ("anonymous", "resident"))
        summary[contender] = {
            "seconds": seconds,
            "times_top_k": ratio,
            "flops": flops,
            "anonymous_bytes": anonymous,
            "resident_bytes": resident,
            "same_titles": agreement[contender],
        }
        shares = "" if contender == "numpy product alone" else f"{agreement[contender]:.6f}"
        sizes = f"{anonymous / 1e9:.2f} | {resident / 1e9:.2f}"
        print(f"| {contender} | {seconds:.3f} | {ratio:.2f} | {flops / 1e9:.0f} | {sizes} | {shares} |")
    print("\nThe flat index holds a copy of the vectors, so its anonymous memory has them; the others read the mapped file.")
    if arguments.json:
        arguments.json.write_text(json.dumps({**setting, "summary": summary, "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
