"""A campaign: one random attack after another, counted, each with a seed that repeats it.

Trial number n of a run has the seed SEED + n. A failure's seed given as SEED makes that trial the first of the next run:

    make campaign SEED=1234 SECONDS_EACH=1
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable

Trial = Callable[[random.Random], None]
_SHOWN = 10  # failures whose message is shown; the seeds of all are


def run(name: str, trial: Trial, seconds: float | None = None, trials: int | None = None) -> None:
    """Attack until the time or the trials are over; print `NAME: N trials, M failures (seed S)`.

    Args:
        name: the campaign's name; it enters the random numbers, so that two campaigns of one seed differ.
        trial: one attack. It draws all its chances from the generator that it is given, and raises AssertionError on a failure;
            any other exception is a failure too.
        seconds: time budget; None for JOBONNX_CAMPAIGN_SECONDS (60), or for no limit where `trials` is given.
        trials: most trials; None for no limit.

    Raises:
        AssertionError: at least one trial failed; the seeds are named.
    """
    first = int(os.environ.get("JOBONNX_CAMPAIGN_SEED") or 1)
    if seconds is None and trials is None:
        seconds = float(os.environ.get("JOBONNX_CAMPAIGN_SECONDS") or 60)
    deadline = None if seconds is None else time.monotonic() + seconds
    failures: dict[int, str] = {}
    count = 0
    while (trials is None or count < trials) and (count == 0 or deadline is None or time.monotonic() < deadline):
        seed = first + count
        try:
            trial(random.Random(f"{name} {seed}"))
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # a panic in Rust is no Exception
            failures[seed] = f"{type(error).__name__}: {error}"
        count += 1
    line = f"{name}: {count:,} trials, {len(failures):,} failures (seed {first})"
    sys.stdout.write(f"{line}\n")
    shown = "\n".join(f"seed {seed}: {message[:2000]}" for seed, message in list(failures.items())[:_SHOWN])
    assert not failures, f"{line}\nfailed: {', '.join(map(str, failures))}\n{shown}"
