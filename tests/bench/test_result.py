"""Reading what other versions wrote."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from helpers.reports import cell, report
from jobonnx_bench import Report


def test_a_report_of_schema_1_is_read(tmp_path: Path) -> None:
    made = report(cell("fp32"))
    content = made.as_dict() | {"schema": "jobonnx.bench/1"}
    del content["bundle"]
    for name in ("gpus", "versions"):
        del content["environment"][name]
    for name in ("asked", "sweep"):
        del content["cells"][0][name]
    path = tmp_path / "old.json"
    path.write_text(json.dumps(content))
    old = replace(made.cells[0], asked={}, sweep=())
    assert Report.read(path) == replace(made, cells=(old,), bundle=None, environment=replace(made.environment, versions={}))


def test_a_report_without_gpu_memory_is_read(tmp_path: Path) -> None:
    made = report(cell("fp32"))
    content = made.as_dict()
    assert content["schema"] == "jobonnx.bench/2"
    del content["cells"][0]["gpu_peak_bytes"]
    path = tmp_path / "older.json"
    path.write_text(json.dumps(content))
    assert Report.read(path) == made
