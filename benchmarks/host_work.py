"""Where the host's time goes while a device computes: microseconds per title of each step, on one core.

    taskset -c 0 python benchmarks/host_work.py BUNDLE --titles TITLES.txt

Each step of `Encoder.encode` runs by itself, on the batches that a GPU would get, and copies go to buffers of the CPU in the
device's place. So the device's own time and the copies over its bus are not in it. Tokenising is Rust code that leaves Python free.
It is listed apart, because other cores can do it beside all the rest.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core; before the tokenizer's library loads

import numpy as np

from jobonnx.arguments import as_texts
from jobonnx.arrays import repeated
from jobonnx.bundle.manifest import TOKENIZER, Bundle
from jobonnx.files import read_lines
from jobonnx.runtime.providers.shape_buckets import batch_by_bucket, bucket, pad_to_shape
from jobonnx.runtime.token_ids import pad_checked
from jobonnx.text.batching import deduplicate
from jobonnx.text.tokenizer import Tokenizer

_BLOCK, _BUDGET, _ROUNDS = 8192, 16384, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--titles", type=Path, required=True, help="one title per line")
    arguments = parser.parse_args()
    bundle = Bundle.open(arguments.bundle)
    model = bundle.model
    tokenizer = Tokenizer(bundle.folder / TOKENIZER, model.max_tokens)
    titles = list(dict.fromkeys(line for line in read_lines(arguments.titles) if line))[: 4 * _BLOCK]
    found = measure(titles[: len(titles) // _BLOCK * _BLOCK or len(titles)], tokenizer, model)
    print("| step | µs per title |\n|---|--:|")
    for name, seconds in found.items():
        print(f"| {name} | {1e6 * seconds:.2f} |")
    print(f"| all but tokenising | {1e6 * sum(s for name, s in found.items() if name != 'tokenise'):.2f} |")


def measure(titles: list[str], tokenizer: Tokenizer, model: Any) -> dict[str, float]:
    """Seconds per title of each step, the least of several rounds."""
    found: dict[str, float] = {}

    def step(name: str, call: Callable[[], Any]) -> Any:
        best = float("inf")
        for _ in range(_ROUNDS):
            start = time.perf_counter()
            result = call()
            best = min(best, time.perf_counter() - start)
        found[name] = best / len(titles)
        return result

    unique, inverse = step("check and deduplicate", lambda: deduplicate(as_texts(titles)))
    blocks = [unique[start : start + _BLOCK] for start in range(0, len(unique), _BLOCK)]
    rows = step("tokenise", lambda: [tokenizer.encode(block) for block in blocks])
    batches = step("sort into batches", lambda: [batch_by_bucket([len(row) for row in block], _BUDGET) for block in rows])
    work = [[block[i] for i in batch] for block, of_block in zip(rows, batches, strict=True) for batch in of_block]
    padded = step("fill", lambda: [pad_checked(batch, model) for batch in work])
    shapes = [bucket(*ids.shape) for ids, _ in padded]
    shaped = step(
        "fill to the bucket",
        lambda: [pad_to_shape(ids, mask, *shape, model.pad_id) for (ids, mask), shape in zip(padded, shapes, strict=True)],
    )
    buffers = {shape: (np.empty(shape, np.int64), np.empty(shape, np.int64)) for shape in shapes}
    results = {shape: np.ones((shape[0], model.dimension), np.float32) for shape in shapes}

    def copy_in() -> None:
        for shape, arrays in zip(shapes, shaped, strict=True):
            for buffer, array in zip(buffers[shape], arrays, strict=True):
                np.copyto(buffer, array)

    step("copy in", copy_in)
    step("copy out", lambda: [results[shape][: len(batch)].copy() for shape, batch in zip(shapes, work, strict=True)])
    out = [results[shape][: len(batch)] for shape, batch in zip(shapes, work, strict=True)]
    vectors = np.ones((_BLOCK, model.dimension), np.float32)
    order = [batch for of_block in batches for batch in of_block]

    def unsort() -> None:
        for batch, part in zip(order, out, strict=True):
            vectors[batch] = part

    step("unsort", unsort)
    everything = np.ones((len(titles), model.dimension), np.float32)

    def join() -> None:
        for start in range(0, len(everything), _BLOCK):
            everything[start : start + _BLOCK] = vectors[: len(everything) - start]

    step("join blocks", join)
    step("repeats back", lambda: repeated(everything, inverse))
    return found


if __name__ == "__main__":
    main()
