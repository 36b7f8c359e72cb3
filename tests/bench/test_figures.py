"""Summaries, ratios, and figures round by round with their noise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from helpers.reports import WORKLOAD, absent, measured, round_of
from jobonnx_bench.figures import BULK, MEMORY, METRICS, ONE, bulk_ratio, gemm_rate, one_ratio, summarise, timing
from jobonnx_bench.report import Details, Limits, Rate, Round, Shape, SystemResult


def test_values_have_the_units_they_name() -> None:
    c = measured("fp32", bulk=2.0, one=0.01, peak=5_000_000, gpu_peak_bytes=7_000_000)
    assert BULK.values(c, WORKLOAD)[0] == 50
    assert ONE.values(c, WORKLOAD)[0] == pytest.approx(10)
    assert MEMORY.values(c, WORKLOAD) == (5,)
    assert all(metric.values(c, WORKLOAD) for metric in METRICS)


def test_noise_is_the_spread_over_rounds_and_at_least_the_floor() -> None:
    c = replace(measured("fp32"), rounds=(round_of(1.0, 0.01), round_of(2.0, 0.01), round_of(4.0, 0.01)))
    assert BULK.noise(c, WORKLOAD) == pytest.approx((100 - 25) / 50)
    assert ONE.noise(c, WORKLOAD) == 0.02
    assert MEMORY.noise(c, WORKLOAD) == 0.05


def test_what_was_not_measured_has_no_values() -> None:
    c = replace(absent("fp32", "cuda"), loads=(), first_calls=())
    assert not any(metric.values(c, WORKLOAD) for metric in METRICS)


def test_a_figure_of_zero_has_the_floor_as_noise() -> None:
    c = measured("fp32")
    idle = replace(c, rounds=tuple(replace(r, bulk_cpu=0.0) for r in c.rounds))  # a clock that ticks every 15 ms
    (cpu,) = (metric for metric in METRICS if metric.name == "CPU per 1,000 titles")
    assert cpu.noise(idle, WORKLOAD) == 0.02


def test_percentiles_and_medians() -> None:
    found = timing([[1.0, 2.0, 3.0], [2.0, 2.0, 100.0], [4.0, 5.0, 6.0]])
    assert found.p50 == 2.0  # the median of 2, 2 and 5: one bad round does not move it
    assert found.calls == 9
    assert found.p95 == pytest.approx(6.0 + 0.6 * 94)  # rank 7.6 of 0 to 8
    assert found.p99 == pytest.approx(6.0 + 0.92 * 94)


def _round(bulk: float, one: float = 0.01) -> Round:
    return Round(bulk, 2 * bulk, 480, 0.1, (one,) * 4, (0.1,), (0.3,), (0.2,), 0.001)


def _result(*rounds: Round, **changes: Any) -> SystemResult:
    return measured("x", rounds=rounds, loads=(1.0, 3.0), first_calls=(0.5,), **changes)


def test_a_summary_is_of_medians() -> None:
    shape = Shape(layers=2, hidden=4, intermediate=16)
    workload = replace(WORKLOAD, titles=48, tokens=240, repeated_titles=16)
    found = summarise(_result(_round(2.0), _round(1.0), _round(8.0)), shape, workload)
    assert found is not None
    assert found.titles_per_second == 24.0
    assert found.tokens_per_second == 120.0
    assert found.repeated_titles_per_second == pytest.approx(160)
    assert found.mixed_over_equal == pytest.approx(1.5)
    assert found.load == 2.0
    assert found.cpu_per_1000_titles == pytest.approx(1000 * 4 / 48)
    assert found.operations_per_second == 240 * 2 * 2 * (4 * 16 + 2 * 64) / 2
    assert found.executed_per_second == 2 * found.operations_per_second  # 480 tokens with padding
    assert summarise(_result(), shape, workload) is None


def test_the_last_layer_counts_one_row_per_title() -> None:
    shape = Shape(layers=3, hidden=4, intermediate=16)
    assert shape.layer_weights == 192
    assert shape.operations(10) == 2 * 3 * 192 * 10
    assert shape.operations(10, 2) == 2 * (2 * 192 * 10 + 32 * 10 + 160 * 2)


def test_ratios_are_taken_round_by_round() -> None:
    a, b = _result(_round(1.0, 0.1), _round(10.0, 1.0), _round(1.0, 0.1)), _result(_round(2.0, 0.2), _round(20.0, 2.0))
    assert bulk_ratio(a, b) == 2.0
    assert one_ratio(a, b) == pytest.approx(0.5)
    assert bulk_ratio(a, _result()) is None
    assert one_ratio(_result(), a) is None


def test_a_system_is_compared_with_its_device() -> None:
    rates = (
        Rate("onnxruntime on a GPU", "gpu", "fp32", 8, 9.0),
        Rate("torch", "cpu", "fp32", 8, 2.0),
        Rate("onnxruntime", "cpu", "fp32", 64, 1.0),
        Rate("another engine", "cpu", "bf16", 8, 4.0),
        Rate("onnxruntime", "cpu", "bf16", 8, 3.0),
    )
    limits = Limits(1, rates, (), (), ())
    assert gemm_rate(limits, Details("bf16", provider="a")) == gemm_rate(limits, Details("bf16", provider="b")) == 4.0
    assert gemm_rate(limits, Details("fp32")) == 2.0
    assert gemm_rate(limits, Details("fp32", device="gpu")) == 9.0
    assert gemm_rate(limits, Details("int8")) is None
    assert gemm_rate(None, Details()) is None
