"""A report and a comparison as Markdown."""

from __future__ import annotations

from dataclasses import replace

from helpers.reports import ENVIRONMENT, absent, measured, report
from jobonnx_bench.compare import compare
from jobonnx_bench.render.markdown import comparison_text, report_markdown


def test_what_comes_from_outside_is_text() -> None:
    made = report(measured("fp32"), absent("int8", "cuda", reason="<script>|\n&amp;"))
    text = report_markdown(replace(made, environment=replace(ENVIRONMENT, cpu="<b>A | B")))
    assert text.startswith("# a model on &lt;b>A | B, 2 threads\n")
    assert "absent: &lt;script>\\| &amp;amp; |" in text
    assert "<script" not in text


def test_a_report_without_a_measured_system_recommends_nothing() -> None:
    assert "None: no system was measured to the end" in report_markdown(report(absent("fp32", "cuda")))


def test_changes_beyond_noise_come_first() -> None:
    found = compare(report(measured("fp32", bulk=1.0, one=0.01)), report(measured("fp32", bulk=0.8, one=0.0101)))
    text = comparison_text(found)
    assert "2 of 11 figures changed by more than the noise" in text  # bulk, and the processor time of it
    assert text.index("| bulk |") < text.index("| one title, p50 |")


def test_a_comparison_is_read_on_a_terminal() -> None:
    before = report(measured("fp32"))
    elsewhere = replace(ENVIRONMENT, cpu="<Another> & more\x1b[31m")
    text = comparison_text(compare(before, report(absent("fp32", "cpu", reason="needs torch<2"), environment=elsewhere)))
    assert text.startswith("Warning: the machines differ in processor: A Processor before, <Another> & more [31m after.\n")
    assert "absent (needs torch<2) after" in text
    assert "\x1b" not in text
