"""The folder that `jobonnx bench` writes."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from jobonnx.strict_json import json_text
from jobonnx_bench.figures import summarise
from jobonnx_bench.recommend import recommend
from jobonnx_bench.render.html import report_html
from jobonnx_bench.render.markdown import report_markdown
from jobonnx_bench.report import Report

JSON, MARKDOWN, HTML = "report.json", "report.md", "report.html"


def complete(report: Report) -> Report:
    """Add the summaries and recommendations that follow from what was measured."""
    found = {result.name: summarise(result, report.shape, report.workload) for result in report.systems}
    summaries = {name: summary for name, summary in found.items() if summary}
    return replace(report, summaries=summaries, recommendations=recommend(report))


def write_report(report: Report, folder: Path) -> None:
    """Write report.json, report.md and report.html into a folder. Needs matplotlib."""
    write_page(report, folder)
    write_figures(report, folder)


def write_page(report: Report, folder: Path) -> None:
    """Write report.html into a folder. Needs matplotlib."""
    (folder / HTML).write_text(report_html(report), encoding="utf-8")


def write_figures(report: Report, folder: Path) -> None:
    """Write report.json and report.md into a folder. Needs no matplotlib; benchmarks/page.py draws the page later."""
    (folder / JSON).write_text(json_text(asdict(complete(report))), encoding="utf-8")
    (folder / MARKDOWN).write_text(report_markdown(report), encoding="utf-8")
