"""The tables of a report."""

from __future__ import annotations

from dataclasses import replace

from helpers.reports import LIMITS, absent, measured, parity_of, peer, report
from jobonnx_bench.render.tables import Table, tables
from jobonnx_bench.report import Details, LimitsPass, Rate, Reading, SystemResult


def table(heading: str, *systems: SystemResult) -> Table:
    return next(found for found in tables(report(*systems)) if found.heading == heading)


def test_variants_that_lack_the_same_share_a_row_and_none_is_left_out() -> None:
    gone = "provider 'cuda' is not in this onnxruntime; pip install it"
    found = table(
        "Not measured",
        measured("fp32"),
        absent("fp32", "cuda", gone),
        absent("fp16", "cpu", "the bundle has no fp16 graph for cpu"),
        absent("fp16", "cuda", gone),
        measured("int8", "cuda", status="failed", reason=gone, rounds=()),
    )
    assert found.rows == (
        ("fp32, fp16", "cuda", f"absent: {gone}"),
        ("fp16", "cpu", "absent: the bundle has no fp16 graph for cpu"),
        ("int8", "cuda", f"failed: {gone}"),  # it was tried: a row of its own
    )


def test_memory_of_the_gpu_is_shown_where_there_is_one() -> None:
    assert "GPU MB" not in table("Cost", measured("fp32")).header
    found = table("Cost", measured("fp32"), measured("fp16", "cuda", bulk=0.1, gpu_peak_bytes=1_500_000_000))
    place = found.header.index("GPU MB")
    assert [row[place] for row in found.rows] == ["1,500", ""]
    assert "nvidia-smi" in found.note


def test_products_that_failed_have_their_reason_beside_the_shares() -> None:
    limits = replace(LIMITS, missing=("onnxruntime all: status -11", "onnxruntime bf16: no kernel"))
    made = report(measured("fp32"), limits=limits)
    assert tables(made)[0].note.endswith("Products that could not be measured: onnxruntime all: status -11.")


def test_peers_have_tables_of_ratios() -> None:
    ours = measured("int8", bulk=1.0, one=0.02, details=Details("int8", provider="cpu", last_layer_rows="titles"))
    made = report(ours, peer("slow", bulk=3.0, one=0.04), peer("fast", bulk=2.0, one=0.01))
    found = {table.heading: table for table in tables(made)}
    bulk, one = found["Times as fast in bulk as each peer"], found["Time of one title over each peer's"]
    assert bulk.header == ("peer", "int8 cpu")
    assert bulk.rows == (("fast", "2.00"), ("slow", "3.00"))  # the fastest peer first
    assert one.rows == (("fast", "2.00"), ("slow", "0.50"))
    assert not any("peer" in table.heading for table in tables(report(ours)))


def test_a_title_is_compared_with_reading_the_weights() -> None:
    size = 2 * 2 * (4 * 16 + 2 * 64)  # layers, bytes of a weight, weights of a layer
    limits = replace(LIMITS, reading=(Reading(size, 0.004), Reading(2 * size, 0.005)), passes=(LimitsPass(),))
    (padding,) = (t for t in tables(report(peer("a peer", one=0.01), limits=limits)) if t.heading.startswith("Padding"))
    assert padding.rows[0][padding.header.index("x reading")] == "2.00"  # fp32: the larger of the two


def test_rates_are_shown_by_type_and_engine() -> None:
    rates = (
        Rate("onnxruntime", "cpu", "fp32", 8, 1e9),
        Rate("torch", "cpu", "fp32", 8, 2e9),
        Rate("torch", "cpu", "fp32", 64, 3e12),
    )
    (products,) = (t for t in tables(report(limits=replace(LIMITS, rates=rates))) if t.heading == "Matrix products")
    assert products.header == ("type", "engine", "8 rows", "64 rows")
    assert products.rows == (("fp32", "onnxruntime", "1", ""), ("fp32", "torch", "2", "3,000"))


def test_what_misses_its_tolerance_is_said_and_a_peer_has_none() -> None:
    found = table("Accuracy", measured("int8", parity=parity_of(0.9)), measured("fp32", bulk=2.0), peer("a peer", bulk=3.0))
    missed, passes, none = (row[-1] for row in found.rows)
    assert "mean_centred 0.9" in missed
    assert (passes, none) == ("passes", "")
