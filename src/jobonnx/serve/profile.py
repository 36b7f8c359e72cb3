"""How the engine shares the cores with HTTP."""

from __future__ import annotations

import time

from jobonnx.data.titles import read_titles
from jobonnx.encoder import Encoder

# Single-title requests per second that Python reads and answers on a core of 2021, an AMD EPYC (Zen 3); docs/decisions/0033.
HTTP_RATE = 1200
_FEW, _MANY = 8, 128  # titles that are tried


def leave_a_core(encoder: Encoder) -> int | None:
    """Return how many threads the engine should have beside HTTP; None if it should keep those it has.

    Requests are read on one core. An engine that computes more titles per second than come through there gives that core back:
    its threads would only take it away, and wait for each other meanwhile.

    Args:
        encoder: as it was opened.
    """
    threads = encoder.settings.threads
    if threads == 1 or encoder.engine.session.block:  # a device computes, not the cores
        return None
    titles = read_titles()
    some = titles[:: len(titles) // _MANY]
    encoder.encode(some[:_FEW])  # warms up
    # A few titles are the slower ones to compute, and enough to see that an engine is far from HTTP's rate.
    if _rate(encoder, some[:_FEW]) < HTTP_RATE / 10 or _rate(encoder, some) < HTTP_RATE:
        return None
    return threads - 1


def _rate(encoder: Encoder, titles: list[str]) -> float:
    """Titles per second if no other process took the cores away: by the CPU time of all threads."""
    start = time.process_time()
    encoder.encode(titles)
    return encoder.settings.threads * len(titles) / max(time.process_time() - start, 1e-6)
