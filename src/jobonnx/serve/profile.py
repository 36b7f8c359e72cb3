"""How the engine shares the cores with HTTP."""

from __future__ import annotations

import time

from jobonnx.data.titles import read_titles
from jobonnx.encoder import Encoder

# Titles per second from which HTTP takes much of a core: at .35 ms per request of one title (AMD EPYC, Zen 3), two fifths of it.
# docs/decisions/0033-a-core-for-http.md
_MANY_REQUESTS = 1200
_FEW, _MANY = 8, 128  # titles that are tried


def leave_a_core(encoder: Encoder) -> int | None:
    """Return how many threads the engine should have beside HTTP; None if it should keep those it has.

    An engine's threads wait for each other after every operator. One that shares its core with HTTP holds up all others. So where
    titles are computed so fast that HTTP takes much of a core, the engine leaves it one.

    Args:
        encoder: as it was opened.
    """
    threads = encoder.settings.threads
    if threads == 1 or encoder.engine.session.block:  # a device computes, not the cores
        return None
    titles = read_titles()
    some = titles[:: len(titles) // _MANY]
    encoder.encode(some[:_FEW])  # warms up
    # A few titles are the slower ones to compute, and enough to see that an engine is far from that.
    if _rate(encoder, some[:_FEW]) < _MANY_REQUESTS / 10 or _rate(encoder, some) < _MANY_REQUESTS:
        return None
    return threads - 1


def _rate(encoder: Encoder, titles: list[str]) -> float:
    """Titles per second if no other process took the cores away: by the CPU time of all threads."""
    start = time.process_time()
    encoder.encode(titles)
    return encoder.settings.threads * len(titles) / max(time.process_time() - start, 1e-6)
