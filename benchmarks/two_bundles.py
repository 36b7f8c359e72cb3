"""Titles per second of two bundles in one run, in turn, and their ratio: how much faster the small model is than the full-size one.

    python benchmarks/two_bundles.py FULL --titles TITLES.txt [--other BUNDLE] [--rounds 5]

Each bundle encodes distinct titles, as many as take it about the same time, with its int8 graph on the CPU provider.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from jobonnx import Encoder
from jobonnx.files import read_lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--other", type=Path, help="the bundle to compare; the one that comes with the package if left out")
    parser.add_argument("--titles", type=Path, required=True, help="one title per line")
    parser.add_argument("--counts", type=int, nargs=2, default=(256, 20_000), metavar="N", help="titles of each (256 20000)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="turns of each (5)")
    arguments = parser.parse_args()
    titles = list(dict.fromkeys(line for line in read_lines(arguments.titles) if line))
    rates: list[tuple[float, float]] = []
    with Encoder(arguments.bundle, variant="int8") as full, Encoder(arguments.other, variant="int8") as other:
        for turn in range(arguments.rounds + 1):
            few, many = (titles[:count] for count in arguments.counts)
            found = titles_per_second(full, few), titles_per_second(other, many)
            if turn:  # the first warms up
                rates.append(found)
    names = (arguments.bundle.name, arguments.other.name if arguments.other else "the package's model")
    for name, measured in zip(names, zip(*rates, strict=True), strict=True):
        print(f"{name}: {statistics.median(measured):,.1f} titles/s ({min(measured):,.1f} to {max(measured):,.1f})")
    ratios = [second / first for first, second in rates]
    print(f"ratio: {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f}), {arguments.rounds} rounds")


def titles_per_second(encoder: Encoder, titles: list[str]) -> float:
    start = time.perf_counter()
    encoder.encode(titles, show_progress_bar=False)
    return len(titles) / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
