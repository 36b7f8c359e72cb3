"""An adapter made up for tests, which can be told to fail (see jobonnx_bench/worker.py), and a small workload for it."""

from __future__ import annotations

from pathlib import Path

from jobonnx.bundle.manifest import TOKENIZER
from jobonnx.data.titles import read_titles
from jobonnx.text.tokenizer import Tokenizer
from jobonnx_bench.workload import Sizes, Workload, draw

SIZES = Sizes(bulk=48, repeated=16, singles=4, groups8=2, groups32=2)

ADAPTER = """
import os, sys, time
import numpy as np

def build(folder, fail=False, **options):
    print("a library that prints to stdout")
    if fail:
        raise RuntimeError("no such model")
    os.makedirs(folder)

def load(folder, calls=10**9, end="exit", **options):
    return System(calls, end)

class System:
    details = {"dtype": "fp32"}
    computed_tokens = 0

    def __init__(self, calls, end):
        self.calls, self.end = calls, end

    def encode(self, texts):
        self.calls -= 1
        if self.calls < 0 and self.end == "exit":
            print("out of luck", file=sys.stderr, flush=True)
            os._exit(3)
        if self.calls < 0 and self.end == "hang":
            time.sleep(60)
        if self.calls < 0:
            raise ValueError("not a title")
        self.computed_tokens += 10 * len(texts)
        return np.array([[len(text), text.count("a") + 1, 1] for text in texts], np.float32)
"""


def small_workload(checkpoint: Path) -> Workload:
    """48 built-in titles in bulk, as the checkpoint's tokenizer counts them."""
    return draw(read_titles(), Tokenizer(checkpoint / TOKENIZER, 96).encode, SIZES)


def write_adapter(path: Path) -> Path:
    path.write_text(ADAPTER)
    return path
