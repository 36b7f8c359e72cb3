"""The tables of a report."""

from __future__ import annotations

from helpers.reports import absent, cell, report
from jobonnx_bench.render.tables import Table, tables


def table(heading: str, *cells: object) -> Table:
    return next(found for found in tables(report(*cells)) if found.heading == heading)  # type: ignore[arg-type]


def test_variants_that_lack_the_same_share_a_row_and_none_is_left_out() -> None:
    gone = "provider 'cuda' is not in this onnxruntime; pip install it"
    found = table(
        "Not measured",
        cell("fp32"),
        absent("fp32", "cuda", gone),
        absent("fp16", "cpu", "the bundle has no fp16 graph for cpu"),
        absent("fp16", "cuda", gone),
        cell("int8", "cuda", status="failed", reason=gone, rounds=()),
    )
    assert found.rows == (
        ("fp32, fp16", "cuda", f"absent: {gone}"),
        ("fp16", "cpu", "absent: the bundle has no fp16 graph for cpu"),
        ("int8", "cuda", f"failed: {gone}"),  # it was tried: a row of its own
    )


def test_memory_of_the_gpu_is_shown_where_there_is_one() -> None:
    assert "GPU MB" not in table("Cost", cell("fp32")).head
    found = table("Cost", cell("fp32"), cell("fp16", "cuda", bulk=0.1, gpu_peak_bytes=1_500_000_000))
    place = found.head.index("GPU MB")
    assert [row[place] for row in found.rows] == ["1,500", ""]
    assert "nvidia-smi" in found.note


def test_products_that_failed_have_their_reason_beside_the_shares() -> None:
    limits = {"gemm": {}, "missing": ["onnxruntime all: status -11", "onnxruntime bf16: no kernel"]}
    made = report(cell("fp32"), limits=limits)
    assert tables(made)[0].note.endswith("Products that could not be measured: onnxruntime all: status -11.")
