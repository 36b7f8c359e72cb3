"""Figures round by round, and their noise."""

from __future__ import annotations

from dataclasses import replace

import pytest

from helpers.reports import WORKLOAD, absent, cell, round_of
from jobonnx_bench.metric import BULK, MEMORY, METRICS, ONE


def test_values_have_the_units_they_name() -> None:
    c = cell("fp32", bulk=2.0, one=0.01, peak=5_000_000, gpu_peak_bytes=7_000_000)
    assert BULK.values(c, WORKLOAD)[0] == 50
    assert ONE.values(c, WORKLOAD)[0] == pytest.approx(10)
    assert MEMORY.values(c, WORKLOAD) == (5,)
    assert all(metric.values(c, WORKLOAD) for metric in METRICS)


def test_noise_is_the_spread_over_rounds_and_at_least_the_floor() -> None:
    c = replace(cell("fp32"), rounds=(round_of(1.0, 0.01), round_of(2.0, 0.01), round_of(4.0, 0.01)))
    assert BULK.noise(c, WORKLOAD) == pytest.approx((100 - 25) / 50)
    assert ONE.noise(c, WORKLOAD) == 0.02
    assert MEMORY.noise(c, WORKLOAD) == 0.05


def test_what_was_not_measured_has_no_values() -> None:
    c = replace(absent("fp32", "cuda"), loads=(), first_calls=())
    assert not any(metric.values(c, WORKLOAD) for metric in METRICS)
