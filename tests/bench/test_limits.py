"""The limits of a machine, from several passes."""

from __future__ import annotations

import sys

from jobonnx_bench.gemm import ENGINE, Product
from jobonnx_bench.limits import combine, join, run
from jobonnx_bench.report import LimitsPass, Reading, Shape

SHAPE = Shape(layers=2, hidden=4, intermediate=16)


def product(k: int, n: int, seconds: float, engine: str = ENGINE, device: str = "cpu") -> Product:
    return Product(engine, device, "fp32", 8, k, n, seconds)


def test_rates_are_of_a_complete_layer() -> None:
    timed = LimitsPass((product(4, 4, 1.0), product(4, 16, 2.0), product(16, 4, 3.0)))
    (rate,) = combine([timed], SHAPE).rates
    assert (rate.engine, rate.device, rate.dtype, rate.rows) == (ENGINE, "cpu", "fp32", 8)
    assert rate.operations_per_second == 2 * 8 * (4 * 16 + 2 * 64) / (4 * 1 + 2 + 3)
    assert combine([LimitsPass(timed.products[:2])], SHAPE).rates == ()


def test_each_kind_is_a_median_over_passes_with_the_fastest_engine_first() -> None:
    def one_pass(seconds: float) -> LimitsPass:
        shapes = ((4, 4), (4, 16), (16, 4))
        slow = tuple(product(k, n, seconds) for k, n in shapes)
        fast = tuple(product(k, n, seconds / 2, "fast") for k, n in shapes)
        return LimitsPass(slow + fast, (Reading(100, seconds), Reading(10, seconds)))

    found = combine([one_pass(seconds) for seconds in (1.0, 7.0, 2.0)], SHAPE)
    assert [(rate.engine, rate.operations_per_second) for rate in found.rates] == [("fast", 512.0), (ENGINE, 256.0)]
    assert found.reading == (Reading(10, 2.0), Reading(100, 2.0))
    assert found.weights == 2 * SHAPE.layer_weights
    assert len(found.passes) == 3


def test_what_is_missing_is_listed_once() -> None:
    gone = Product("engine", "cpu", "bf16", 8, 4, 4, missing="no kernel")
    assert combine([LimitsPass((gone, gone)), LimitsPass((gone,))], SHAPE).missing == ("engine bf16: no kernel",)


def test_a_program_that_fails_is_a_reason_and_keeps_what_it_printed() -> None:
    printed = '{"reading": {"bytes": 8, "seconds": 0.5, "way": "numpy"}}'
    code = f"import sys; print('noise'); print({printed!r}); print('no such library', file=sys.stderr); sys.exit(3)"
    found = run([sys.executable, "-c", code], "an engine")
    assert found.readings == (Reading(8, 0.5, "numpy"),)
    assert [(p.engine, p.dtype, p.missing) for p in found.products] == [("an engine", "all", "no such library")]
    assert combine([found], SHAPE).missing == ("an engine all: no such library",)


def test_programs_of_one_pass_are_joined() -> None:
    a, b = LimitsPass((product(4, 4, 1.0),)), LimitsPass((), (Reading(8, 0.5),))
    assert join([a, b]) == LimitsPass(a.products, b.readings)
