"""How much a bundle loses as a SentenceTransformer: `jobonnx.sentence_transformers.load` beside `Encoder`, in turn.

    python benchmarks/drop_in.py [--bundle FOLDER] [--variant int8] [--titles 5000] [--rounds 5]

Run it on a machine where nothing else runs. Both encode the same distinct titles, in the same order, in one process. What counts is
the median over rounds of the rate divided by `Encoder`'s in the same round; .9 is asked for. A saved model that a plain
`SentenceTransformer` finds by name is the third, at its own batch size of 32 and at one of 4,096.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer

from jobonnx import Encoder
from jobonnx.data.titles import read_titles
from jobonnx.markdown import table
from jobonnx.sentence_transformers import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle")
    parser.add_argument("--variant")
    parser.add_argument("--titles", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    titles = random.Random(0).sample(read_titles(), arguments.titles)
    model = load(arguments.bundle, variant=arguments.variant, provider="cpu")
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder)
        by_name = SentenceTransformer(folder, trust_remote_code=True, device="cpu")
    systems: dict[str, Callable[[Any], Any]] = {
        "Encoder": Encoder(arguments.bundle, variant=arguments.variant, provider="cpu").encode,
        "load(...)": model.encode,
        "by name": by_name.encode,
        "by name, batch_size=4096": partial(by_name.encode, batch_size=4096),
    }
    vectors = {name: encode(titles[:500]) for name, encode in systems.items()}  # warms up
    rates: dict[str, list[float]] = {name: [] for name in systems}
    for number in range(arguments.rounds):
        names = list(systems)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            start = time.perf_counter()
            systems[name](titles)
            rates[name].append(len(titles) / (time.perf_counter() - start))
            time.sleep(0.3)  # threads that spin have stopped by then
    first = rates["Encoder"]
    rows = []
    for name, found in rates.items():
        ratio = statistics.median(a / b for a, b in zip(found, first, strict=True))
        difference = np.abs(vectors[name] - vectors["Encoder"]).max()
        rows.append([name, f"{statistics.median(found):.0f}", f"{ratio:.3f}", f"{difference:.1e}"])
    print(table(["system", "titles/s", "rate / Encoder's", "largest difference"], rows, "lr"))


if __name__ == "__main__":
    main()
