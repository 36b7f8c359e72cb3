"""Kinds of CPU by their features, and cpu.sh, which measures a kind once and goes on where it was broken off."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))

import kinds  # noqa: E402

NONE = dict.fromkeys(("AVX2", "AVX-512", "VNNI", "BF16", "AMX-INT8", "AMX-BF16", "NEON", "DOTPROD", "I8MM", "SVE"), False)
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="it is a shell script")


@pytest.mark.parametrize(
    ("features", "name"),
    [
        ((), "ppc64le"),
        (("AVX2",), "avx2"),
        (("AVX2", "VNNI"), "avx2-vnni"),
        (("AVX2", "AVX-512"), "avx512"),
        (("AVX2", "AVX-512", "VNNI"), "avx512-vnni"),
        (("AVX2", "AVX-512", "VNNI", "BF16"), "avx512-vnni-bf16"),
        (("AVX2", "AVX-512", "VNNI", "BF16", "AMX-INT8", "AMX-BF16"), "amx-int8-amx-bf16"),
        (("NEON", "DOTPROD"), "neon-dotprod"),
        (("NEON", "DOTPROD", "I8MM", "SVE", "BF16"), "bf16-neon-dotprod-i8mm-sve"),
    ],
)
def test_a_kind_is_named_by_what_decides_the_kernels(features: tuple[str, ...], name: str) -> None:
    assert kinds.kind(NONE | dict.fromkeys(features, True), "ppc64le") == name


def test_the_committed_reports_are_found() -> None:
    found = kinds.reports()
    assert "2026-11-24-epyc-zen3-avx2.json" in found["avx2"]
    assert {"report-2026-11-24/report.json", "report-2026-11-27/report.json"} < set(found["avx2"])
    assert not any("matching" in path for paths in found.values() for path in paths)


def test_other_files_are_no_reports(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "other.json").write_text(json.dumps({"environment": {"cpu": "x"}}))
    (tmp_path / "foreign.json").write_text(json.dumps({"environment": {"features": {"AVX2": True}}, "schema": "another/1"}))
    assert kinds.reports(tmp_path) == {}


FAKE_PYTHON = """#!/bin/sh
echo "python $*" >> "$LOG"
case "$*" in
*"-m venv"*)
    for last; do :; done
    mkdir -p "$last/bin"
    for name in python pip jobonnx; do cp "$0" "$last/bin/$name"; done ;;
*kinds.py*) echo "$KIND" ;;
*compare.py*) [ -z "${BREAK:-}" ] ;;
esac
"""


def run(tmp_path: Path, kind: str, **extra: str) -> tuple[int, list[str], str]:
    """Run cpu.sh with a Python that only notes what it is asked; return status, the notes, and what it said."""
    python, log = tmp_path / "python", tmp_path / "log"
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    log.write_text("")
    environment = {**os.environ, "PYTHON": str(python), "LOG": str(log), "KIND": kind, **extra}
    command = [str(ROOT / "benchmarks" / "cpu.sh"), "checkpoint", "titles.txt", str(tmp_path / "work")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    return done.returncode, log.read_text().splitlines(), done.stderr


@POSIX
def test_a_kind_with_a_report_is_left_alone(tmp_path: Path) -> None:
    status, asked, said = run(tmp_path, "avx2 2026-11-24.json")
    assert status == 0
    assert "avx2, has reports: 2026-11-24.json" in said
    assert not any("compare.py" in line for line in asked)
    _, asked, _ = run(tmp_path, "avx2 2026-11-24.json", AGAIN="1")
    assert any("compare.py" in line for line in asked)


@POSIX
def test_broken_off_it_goes_on_with_that_step(tmp_path: Path) -> None:
    status, asked, _ = run(tmp_path, "avx512-vnni", BREAK="1")
    assert status != 0
    assert not any("bench" in line and "--quick" in line for line in asked)
    status, asked, said = run(tmp_path, "avx512-vnni report-of-the-first-try.json")
    assert status == 0
    assert "install: done before" in said
    assert [("--quick" in line) for line in asked if " bench " in line] == [True, False]
    status, asked, said = run(tmp_path, "avx512-vnni")
    assert "compare: done before" in said
    assert not any("compare.py" in line for line in asked)


@POSIX
def test_reports_are_named_after_day_and_kind(tmp_path: Path) -> None:
    _, asked, said = run(tmp_path, "avx512-vnni")
    name = said.partition("measuring ")[2].split()[0]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d-avx512-vnni", name)
    outputs = [line.rpartition("/")[2] for line in asked if " -o " in line]
    assert outputs == [f"compare-{name}", f"report-quick-{name}", f"report-{name}"]


@POSIX
def test_the_full_bench_needs_time(tmp_path: Path) -> None:
    _, asked, said = run(tmp_path, "neon", MINUTES="10")
    assert "full: left out, 10 minutes are left" in said
    assert [("--quick" in line) for line in asked if " bench " in line] == [True]


@POSIX
def test_the_plug_in_runs_where_its_graphs_were_never_run(tmp_path: Path) -> None:
    _, asked, _ = run(tmp_path, "amx-int8-amx-bf16")
    assert any("onnxruntime-ep-openvino" in line or "onnxruntime-openvino" in line for line in asked)
    (tmp_path / "other").mkdir()
    _, asked, _ = run(tmp_path / "other", "neon")
    assert not any("openvino" in line for line in asked)
