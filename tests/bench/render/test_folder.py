"""The output folder: whole, or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.reports import absent, cell, report
from jobonnx import JobonnxError
from jobonnx_bench import Report
from jobonnx_bench.render import folder

pytest.importorskip("matplotlib", reason='the page needs matplotlib: pip install "jobonnx[bench]"')


def test_three_files_that_say_the_same(tmp_path: Path) -> None:
    made = report(cell("fp32", bulk=2.0), cell("int8"), absent("fp16", "cuda", reason="a | b\n<c>"))
    folder.write_folder(made, tmp_path / "report")
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == ["report.html", "report.json", "report.md"]
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    assert Report.read(tmp_path / "report" / "report.json") == made
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    assert content["schema"] == "jobonnx.bench/2"
    assert content.keys() >= {"environment", "shape", "workload", "cells", "limits", "bundle", "recommendations"}
    assert [r["use"] for r in content["recommendations"]] == ["single requests", "bulk", "least memory"]
    assert content["cells"][0]["summary"]["nodes_on_cpu"] == 0
    assert content["cells"][0]["sweep"][1] == {"titles": 10, "tokens": 80, "seconds": [0.05, 0.06, 0.07]}
    markdown = (tmp_path / "report" / "report.md").read_text()
    assert "- **bulk: int8 on cpu**, 100 titles/s" in markdown
    assert "| fp16 | cuda | absent: a \\| b &lt;c> |" in markdown


def test_nothing_is_left_of_a_folder_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Report) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "report_html", broken)
    with pytest.raises(JobonnxError, match="could not be written"):
        folder.write_folder(report(cell("fp32")), tmp_path / "report")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_taken_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(JobonnxError, match="exists already"):
        folder.check_free(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(JobonnxError, match="cannot be made"):
        folder.check_free(tmp_path / "file" / "report")
    folder.check_free(tmp_path / "new" / "report")
    assert not (tmp_path / "new" / "report").exists()
