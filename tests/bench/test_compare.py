"""Two reports held against each other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from helpers.reports import ENVIRONMENT, absent, cell, report
from jobonnx_bench.compare import difference
from jobonnx_bench.render.markdown import difference_markdown


def test_a_change_above_the_noise_and_one_below() -> None:
    found = difference(report(cell("fp32", bulk=1.0, one=0.01)), report(cell("fp32", bulk=0.8, one=0.0101)))
    changes = {change.metric: change for change in found.changes}
    bulk, one = changes["bulk"], changes["one title, p50"]
    assert (bulk.before, bulk.after) == (pytest.approx(100), pytest.approx(125))
    assert bulk.change == pytest.approx(0.25)
    assert bulk.noise == pytest.approx(0.02)  # the floor: the rounds differ by 1%
    assert bulk.verdict == "better"
    assert one.verdict == "within noise"
    assert found.warnings == found.cells == ()
    text = difference_markdown(found)
    assert "2 of 11 figures changed by more than the noise" in text  # bulk, and the processor time of it
    assert text.index("| bulk |") < text.index("| one title, p50 |")


def test_the_louder_report_decides() -> None:
    loud = cell("fp32")
    loud = replace(loud, rounds=(loud.rounds[0], replace(loud.rounds[0], bulk=1.5), replace(loud.rounds[0], bulk=0.9)))
    for pair in ((loud, cell("fp32", bulk=0.8)), (cell("fp32", bulk=0.8), loud)):
        changes = {change.metric: change for change in difference(*map(report, pair)).changes}
        assert changes["bulk"].noise > 0.4
        assert changes["bulk"].verdict == "within noise"


def test_more_memory_is_worse() -> None:
    (memory,) = (
        c for c in difference(report(cell("int8")), report(cell("int8", peak=120_000_000))).changes if c.metric == "peak memory"
    )
    assert memory.verdict == "worse"


def test_a_machine_that_was_busy_is_said() -> None:
    before = report(cell("fp32"))
    assert before.limits is not None
    slower = {"fp32": {"64": {"rates": {"onnxruntime": 0.6e9}}}}
    found = difference(before, report(cell("fp32"), limits={**before.limits, "gemm": slower}))
    assert found.warnings == (
        "the machine itself went at 60% of its fp32 matrix-product rate before: it was busy or throttled in one of the runs",
    )


def test_another_engine_is_no_busy_machine() -> None:
    before = report(cell("fp32"))
    assert before.limits is not None
    both = {"fp32": {"64": {"rates": {"onnxruntime on OpenVINO": 2e9, "onnxruntime": 1e9}}}}
    assert difference(before, report(cell("fp32"), limits={**before.limits, "gemm": both})).warnings == ()


def test_other_machines_and_other_cells_are_said() -> None:
    before = report(cell("fp32"), cell("int8"))
    elsewhere = replace(ENVIRONMENT, cpu="Another", threads=8, versions={"onnxruntime": "1.25.0"})
    after = report(cell("fp32"), absent("int8", "cpu"), environment=elsewhere, workload={**before.workload, "sha256": "1" * 64})
    found = difference(before, after)
    assert found.warnings == (
        "the machines differ in processor: A Processor before, Another after",
        "the machines differ in threads: 2 before, 8 after",
        "onnxruntime differs: 1.24.0 before, 1.25.0 after",
        "the workloads differ: other titles, or another number of them",
    )
    assert found.cells == ("jobonnx-int8-cpu: measured before, absent (not here; pip install it) after",)
    assert {change.cell for change in found.changes} == {"jobonnx-fp32-cpu"}
    assert difference_markdown(found).startswith("Warning: the machines differ in processor")
