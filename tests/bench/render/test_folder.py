"""The output folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.reports import absent, measured, report
from jobonnx_bench.render.folder import complete, write_report
from jobonnx_bench.report import read_report

pytest.importorskip("matplotlib", reason='the page needs matplotlib: pip install "jobonnx[bench]"')


@pytest.mark.medium
def test_three_files_that_say_the_same(tmp_path: Path) -> None:
    made = report(measured("fp32", bulk=2.0), measured("int8"), absent("fp16", "cuda", reason="a | b\n<c>"))
    write_report(made, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json", "report.md"]
    assert read_report(tmp_path / "report.json") == complete(made)
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["schema"] == "jobonnx.bench/3"
    assert content.keys() == {
        "environment", "shape", "workload", "systems", "limits", "bundle", "summaries", "recommendations", "schema"
    }  # fmt: skip
    assert [r["use"] for r in content["recommendations"]] == ["single requests", "bulk", "least memory"]
    assert content["summaries"].keys() == {"jobonnx-fp32-cpu", "jobonnx-int8-cpu"}
    assert content["summaries"]["jobonnx-fp32-cpu"]["one"].keys() == {"p50", "p95", "p99", "calls"}
    assert content["systems"][0]["details"]["nodes_elsewhere"] == 0
    assert content["systems"][0]["sweep"][1] == {"titles": 10, "tokens": 80, "seconds": [0.05, 0.06, 0.07]}
    markdown = (tmp_path / "report.md").read_text()
    assert "- **bulk: int8 on cpu**, 100 titles/s" in markdown
    assert "| fp16 | cuda | absent: a \\| b &lt;c> |" in markdown
