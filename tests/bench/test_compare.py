"""Two reports compared."""

from __future__ import annotations

from dataclasses import replace

import pytest

from helpers.reports import ENVIRONMENT, LIMITS, WORKLOAD, absent, measured, report
from jobonnx_bench.compare import compare
from jobonnx_bench.gemm import ENGINE
from jobonnx_bench.report import Rate


def test_a_change_above_the_noise_and_one_below() -> None:
    found = compare(report(measured("fp32", bulk=1.0, one=0.01)), report(measured("fp32", bulk=0.8, one=0.0101)))
    changes = {change.metric: change for change in found.changes}
    bulk, one = changes["bulk"], changes["one title, p50"]
    assert bulk.before == pytest.approx(100)
    assert bulk.after == pytest.approx(125)
    assert bulk.change == pytest.approx(0.25)
    assert bulk.noise == pytest.approx(0.02)  # the floor: the rounds differ by 1%
    assert bulk.verdict == "better"
    assert one.verdict == "within noise"
    assert found.warnings == found.systems == ()


def test_the_louder_report_decides() -> None:
    loud = measured("fp32")
    loud = replace(loud, rounds=(loud.rounds[0], replace(loud.rounds[0], bulk=1.5), replace(loud.rounds[0], bulk=0.9)))
    for pair in ((loud, measured("fp32", bulk=0.8)), (measured("fp32", bulk=0.8), loud)):
        changes = {change.metric: change for change in compare(*map(report, pair)).changes}
        assert changes["bulk"].noise > 0.4
        assert changes["bulk"].verdict == "within noise"


def test_more_memory_is_worse() -> None:
    (memory,) = (
        c
        for c in compare(report(measured("int8")), report(measured("int8", peak=120_000_000))).changes
        if c.metric == "peak memory"
    )
    assert memory.verdict == "worse"


def test_a_machine_that_was_busy_is_said() -> None:
    slower = replace(LIMITS, rates=(Rate(ENGINE, "cpu", "fp32", 64, 0.6e9),))
    found = compare(report(measured("fp32")), report(measured("fp32"), limits=slower))
    assert found.warnings == (
        "the machine itself went at 60% of its fp32 matrix-product rate before: it was busy or throttled in one of the runs",
    )


def test_another_engine_is_no_busy_machine() -> None:
    both = replace(LIMITS, rates=(Rate("onnxruntime on another", "cpu", "fp32", 64, 2e9), *LIMITS.rates))
    assert compare(report(measured("fp32")), report(measured("fp32"), limits=both)).warnings == ()


def test_other_machines_and_other_systems_are_said() -> None:
    before = report(measured("fp32"), measured("int8"))
    elsewhere = replace(ENVIRONMENT, cpu="Another", threads=8, versions={"onnxruntime": "1.25.0"})
    after = report(measured("fp32"), absent("int8", "cpu"), environment=elsewhere, workload=replace(WORKLOAD, sha256="1" * 64))
    found = compare(before, after)
    assert found.warnings == (
        "the machines differ in processor: A Processor before, Another after",
        "the machines differ in threads: 2 before, 8 after",
        "onnxruntime differs: 1.24.0 before, 1.25.0 after",
        "the workloads differ: other titles, or another number of them",
    )
    assert found.systems == ("jobonnx-int8-cpu: measured before, absent (not here; pip install it) after",)
    assert {change.system for change in found.changes} == {"jobonnx-fp32-cpu"}
