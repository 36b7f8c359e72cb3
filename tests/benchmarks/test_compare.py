"""benchmarks/compare.py: its arguments, and a comparison of the small bundle with no peer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobonnx.data.titles import read_titles
from jobonnx_bench.report import read_report

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT / "src", ROOT / "export", ROOT / "benchmarks")))}


def compare(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "compare.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)


def test_it_says_what_it_takes() -> None:
    done = compare("--help")
    assert done.returncode == 0, done.stderr
    assert "st-torch-fp32" in done.stdout


def test_an_environment_has_to_be_one_of_the_peers() -> None:
    done = compare("work", "source", "--titles", "titles.txt", "--environment", "conda=/usr/bin/python")
    assert done.returncode == 2
    assert "'conda=/usr/bin/python' is not NAME=PYTHON with NAME one of sentence-transformers, openvino" in done.stderr


def test_ours_alone_on_the_small_bundle(checkpoint: Path, bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason='the report needs matplotlib: pip install "jobonnx[bench]"')
    titles = tmp_path / "titles.txt"
    titles.write_text("\n".join(read_titles()), encoding="utf-8")
    sizes = ["--bulk", 48, "--repeated", 16, "--singles", 4, "--groups8", 2, "--groups32", 1, "--rounds", 1, "--reserve", 0]
    output = tmp_path / "results" / "tiny"
    done = compare(
        tmp_path / "work", checkpoint, "--titles", titles, "--bundle", bundle, "--systems", "jobonnx-int8-cpu", "--no-limits",
        *sizes, "-o", output,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "round 1 of 1: jobonnx-int8-cpu" in done.stderr
    (result,) = read_report(output / "report.json").systems
    assert (result.name, result.status) == ("jobonnx-int8-cpu", "measured")
    assert (output / "report.html").is_file()
