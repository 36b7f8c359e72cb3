"""What the tail of the service can be at a share of its capacity: a model of its queue, without a service.

    python benchmarks/queue_model.py BUNDLE --titles TITLES.txt [--fixed-ms 21] [--title-ms 23] [--load 0.8]

Titles arrive at random (Poisson), with the lengths of TITLES in the bundle's tokens. The engine takes one batch at a time, which
lasts a fixed time and a time per token. Prints p50, p99 and their ratio for orders of the queue and limits of a batch. The defaults
are those of full-size int8 on two cores with AVX2: 44 ms for a title, 43 titles per second in bulk.
"""

from __future__ import annotations

import argparse
import heapq
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jobonnx.bundle.manifest import TOKENIZER, Bundle
from jobonnx.files import read_lines
from jobonnx.text.tokenizer import Tokenizer

_ARRIVALS, _RUNS = 6000, 4
Key = Callable[[float, float], float]  # arrival in seconds and tokens -> what goes first


def latencies(key: Key, most_tokens: float, fixed: float, per_token: float, load: float, lengths: Any, seed: int) -> Any:
    """Seconds of each title from its arrival to the end of its batch, float64 [titles]."""
    rng = np.random.default_rng(seed)
    mean = lengths.mean()
    full = max(1.0, most_tokens / mean - 0.5)  # titles of a batch when many wait
    capacity = full / (fixed + per_token * full * mean)
    arrivals = np.cumsum(rng.exponential(1 / (load * capacity), _ARRIVALS))
    tokens = rng.choice(lengths, _ARRIVALS)
    queue: list[tuple[float, int]] = []
    now, came, done = 0.0, 0, np.zeros(_ARRIVALS)
    while came < _ARRIVALS or queue:
        now = now if queue else max(now, arrivals[came])
        while came < _ARRIVALS and arrivals[came] <= now:
            heapq.heappush(queue, (key(arrivals[came], tokens[came]), came))
            came += 1
        batch: list[int] = []
        size = 0
        while queue and (not batch or size + tokens[queue[0][1]] <= most_tokens):
            batch.append(heapq.heappop(queue)[1])
            size += tokens[batch[-1]]
        now += fixed + per_token * size
        done[batch] = now
    return (done - arrivals)[_ARRIVALS // 20 :]  # it starts empty


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--titles", type=Path, required=True, help="one title per line")
    parser.add_argument("--fixed-ms", type=float, default=21)
    parser.add_argument("--title-ms", type=float, default=23)
    parser.add_argument("--load", type=float, default=0.8, help="share of the capacity")
    arguments = parser.parse_args()
    bundle = Bundle.open(arguments.bundle)
    rows = Tokenizer(bundle.folder / TOKENIZER, bundle.model.max_tokens).encode(read_lines(arguments.titles)[:20_000])
    lengths = np.array([len(row) for row in rows])
    fixed, per_token = arguments.fixed_ms / 1000, arguments.title_ms / 1000 / lengths.mean()
    orders: dict[str, Key] = {
        "first come": lambda arrival, tokens: arrival,
        "shortest first, ageing .25": lambda arrival, tokens: tokens + 0.25 * arrival / per_token,
        "shortest first, ageing 4": lambda arrival, tokens: tokens + 4 * arrival / per_token,
    }
    print("| batch of at most | order | p50 ms | p99 ms | p99 / p50 |\n|---|---|--:|--:|--:|")
    for seconds in (0.05, 0.1, 0.25, 0.5, 1.0, 3.0):
        for name, key in orders.items():
            most = max(2 * lengths.mean(), seconds / per_token)
            found = [latencies(key, most, fixed, per_token, arguments.load, lengths, seed) for seed in range(_RUNS)]
            p50, p99 = (1000 * np.mean([np.quantile(run, q) for run in found]) for q in (0.5, 0.99))
            print(f"| {seconds} s | {name} | {p50:.0f} | {p99:.0f} | {p99 / p50:.2f} |")


if __name__ == "__main__":
    main()
