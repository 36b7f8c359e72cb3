"""What the machine can do, from measurements made in processes of their own before each round."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jobonnx.strict_json import parse_json
from jobonnx_bench.gemm import CPU, DTYPES, ENGINE, Product, layer_shapes
from jobonnx_bench.report import Limits, LimitsPass, Rate, Reading, Shape


@dataclass(frozen=True)
class _Line:
    """One line of what gemm.py or benchmarks/limits.py prints."""

    product: Product | None = None
    reading: Reading | None = None


def measure_gemm(shape: Shape, providers: Sequence[str], threads: int) -> LimitsPass:
    """Measure matrix products on providers, in a process, so that its threads and buffers are gone when the systems run."""
    command = [sys.executable, "-P", "-m", "jobonnx_bench.gemm", "--threads", str(threads)]
    command += ["--hidden", str(shape.hidden), "--intermediate", str(shape.intermediate)]
    return run(command + [part for provider in providers for part in ("--provider", provider)], ENGINE)


def run(command: Sequence[str], engine: str, environment: Mapping[str, str] | None = None) -> LimitsPass:
    """Run a program that prints measurements, one JSON object per line.

    Args:
        command: the program and its arguments.
        engine: whose rates are missing if it fails: a missing rate leaves shares out, and the report says why.
        environment: the program's environment variables; this process's if left out.
    """
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", env=environment)
    found = [parse_json(line, _Line, engine, "run it alone") for line in done.stdout.splitlines() if line.startswith("{")]
    products = [line.product for line in found if line.product]
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        products.append(Product(engine, CPU, "all", 0, 0, 0, missing=reason[:200]))
    return LimitsPass(tuple(products), tuple(line.reading for line in found if line.reading))


def join(passes: Sequence[LimitsPass]) -> LimitsPass:
    """Put together what several programs measured before one round."""
    return LimitsPass(tuple(p for one in passes for p in one.products), tuple(r for one in passes for r in one.readings))


def combine(passes: Sequence[LimitsPass], shape: Shape) -> Limits:
    """Take the medians over several passes."""
    missing = {f"{p.engine} {p.dtype}: {p.missing}" for one in passes for p in one.products if p.missing}
    return Limits(
        weights=shape.layers * shape.layer_weights,
        rates=_rates([product for one in passes for product in one.products], shape),
        reading=_readings([reading for one in passes for reading in one.readings]),
        missing=tuple(sorted(missing)),
        passes=tuple(passes),
    )


def _rates(products: Sequence[Product], shape: Shape) -> tuple[Rate, ...]:
    """Operations/s over the products of one layer; an engine that lacks one of them has no rate."""
    seconds: dict[tuple[str, str, str, int], dict[tuple[int, int], list[float]]] = {}
    for p in products:
        if p.seconds is not None:
            seconds.setdefault((p.engine, p.device, p.dtype, p.m), {}).setdefault((p.k, p.n), []).append(p.seconds)
    hidden, up, down = layer_shapes(shape.hidden, shape.intermediate)
    rates = []
    for (engine, device, dtype, rows), by_shape in seconds.items():
        if {hidden, up, down} <= by_shape.keys():
            # Four products of the attention's shape; `up` and `down` are one and the same if the feed-forward is no wider.
            time = sum(times * statistics.median(by_shape[kn]) for times, kn in ((4, hidden), (1, up), (1, down)))
            rates.append(Rate(engine, device, dtype, rows, 2 * rows * shape.layer_weights / time))
    return tuple(sorted(rates, key=lambda r: (r.device, DTYPES.index(r.dtype), r.rows, -r.operations_per_second)))


def _readings(readings: Sequence[Reading]) -> tuple[Reading, ...]:
    by_size: dict[int, list[float]] = {}
    for reading in readings:
        by_size.setdefault(reading.bytes, []).append(reading.seconds)
    return tuple(Reading(size, statistics.median(seconds)) for size, seconds in sorted(by_size.items()))
