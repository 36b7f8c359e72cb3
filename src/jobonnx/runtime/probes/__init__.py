"""Small products that tell what a provider really computes, as no list of CPU features is at hand everywhere.

Asking for a type is not getting it: an AMD EPYC without bf16 was told bf16 and computed in fp32. The graphs are made by
tests/runtime/test_probes.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jobonnx.runtime.session import Session

_FOLDER = Path(__file__).parent
OVERFLOW = _FOLDER / "overflow.onnx"  # u8 [rows, 64], less zero point 128, by s8 weights of 127
OVERFLOW_QDQ = _FOLDER / "overflow-qdq.onnx"  # the same in standard operators: fp32, quantised with scale 1 and zero point 128
ROUNDING = _FOLDER / "rounding.onnx"  # fp32 [rows, 64] by weights of 1

Open = Callable[[Path], Session]


def int8_overflows(open_graph: Open) -> bool:
    """Tell whether u8 x s8 products overflow: x86 without VNNI adds pairs of them in 16 bits. The largest ones are tried."""
    product = open_graph(OVERFLOW).feed(x=np.full((4, 64), 255, np.uint8))
    return bool((product != 64 * 127 * 127).any())


def qdq_overflows(open_graph: Open) -> bool:
    """Tell the same of int8 products in standard operators: rows of 127, which become 255 less 128, by weights of 127."""
    return bool((_product(open_graph, OVERFLOW_QDQ, 127) != 64 * 127 * 127).any())


def rounds_floats(open_graph: Open) -> bool:
    """Tell whether fp32 graphs are computed in bf16 or fp16, which round 1 + 2^-12 to 1: a sum of 64 of them shows it."""
    return bool((_product(open_graph, ROUNDING, 1 + 2**-12) == 64).all())


def _product(open_graph: Open, graph: Path, value: float) -> Any:
    return open_graph(graph).feed(x=np.full((4, 64), value, np.float32))
