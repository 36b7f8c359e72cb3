"""The README is true: its first command prints what it shows, its test command is CI's, and its tables add up."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.checkpoints import ROOT

pytestmark = pytest.mark.medium

README = (ROOT / "README.md").read_text(encoding="utf-8")


def _block(language: str, after: str) -> str:
    found = re.search(rf"{re.escape(after)}.*?```{language}\n(.*?)```", README, re.DOTALL)
    assert found, f"no {language} block after {after!r}"
    return found.group(1)


def test_the_python_block_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _block("python", "<!-- run -->")], capture_output=True, encoding="utf-8", check=True
    )
    assert done.stdout.startswith("(3, ")


def test_the_first_command_prints_what_the_readme_shows() -> None:
    command = _block("bash", "<!-- first command -->").strip().split("&& .venv/bin/")[-1]
    jobonnx = shutil.which("jobonnx", path=str(Path(sys.executable).parent))
    assert jobonnx is not None
    assert command.startswith("jobonnx ")
    done = subprocess.run([jobonnx, *shlex.split(command)[1:]], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout == _block("text", "<!-- first output -->")


def test_ci_runs_the_readmes_test_command() -> None:
    """.ci/run takes the block from the README itself; here only that it finds what is meant."""
    command = _block("bash", "<!-- test command -->")
    assert "pytest" in command
    assert "mypy" in command
    assert "<!-- test command -->" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_ratios_are_quotients_of_the_figures_beside_them() -> None:
    """Such as 2.5 times the rate (50.7 / 20.2), of figures that stand in the table."""
    ratios = re.findall(r"([\d.]+) times[^(]*\(([\d.]+) / ([\d.]+)\)", README)
    assert len(ratios) == 3
    for ratio, above, below in ratios:
        assert f"{float(above) / float(below):.{len(ratio.split('.')[1])}f}" == ratio
        assert f"| {above} |" in README
        assert f"| {below} |" in README


def test_figures_of_speed_are_those_of_the_measurement() -> None:
    report = json.loads((ROOT / "benchmarks/results/compare-2026-11-28-avx512-vnni-bf16/report.json").read_text(encoding="utf-8"))
    systems = {system["name"]: system for system in report["systems"]}
    names = {
        "OpenVINO, NNCF's int8, two streams": "openvino-int8-2-streams",
        "jobonnx int8-static": "jobonnx-int8-static-cpu",
        "jobonnx int8": "jobonnx-int8-cpu",
        "sentence-transformers, openvino int8": "st-openvino-int8",
        "sentence-transformers, onnx qint8": "st-onnx-qint8",
        "jobonnx fp32": "jobonnx-fp32-cpu",
        "sentence-transformers, torch fp32": "st-torch-fp32",
    }
    titles, rates = report["workload"]["titles"], {}
    for name, system in ((name, systems[system]) for name, system in names.items()):
        row = re.search(rf"^\| {re.escape(name)} \| ([\d.]+) \| (\d+) ms \| ([\d.]+) GB \| (\S+) \|$", README, re.MULTILINE)
        assert row, name
        rates[name] = float(row[1])
        assert row[1] == f"{titles / statistics.median(turn['bulk'] for turn in system['rounds']):.1f}"
        assert int(row[2]) == round(1e3 * statistics.median(statistics.median(turn["one"]) for turn in system["rounds"]))
        assert row[3] == f"{system['peak_bytes'] / 1e9:.2f}"
        assert row[4] == ("reference" if name.endswith("torch fp32") else f"{system['parity']['mean_centred']:.4f}")
    openvino, _, ours, peer, _, _, torch = rates.values()
    assert f"{ours / torch:.1f} times the rate of torch ({ours} / {torch})" in README
    assert f"{ours / peer:.2f} times that of the fastest way through sentence-transformers ({ours} / {peer})" in README
    assert f"{openvino / ours:.2f} times the rate of int8 ({openvino} / {ours})" in README


def test_figures_of_quality_are_those_of_the_measurement() -> None:
    measured = (ROOT / "benchmarks" / "results" / "2026-11-28-quality-small-4.md").read_text(encoding="utf-8")
    first_table = measured.split("| MAP@200 |")[1].split("\n\n")[0]
    for language in ("en", "es", "de", "zh", "fr", "it", "nl", "pl", "pt", "ja", "ko"):
        row = next(line for line in first_table.splitlines() if line.startswith(f"| {language} |"))
        tfidf, fp32, _, int8 = (float(cell.split()[0]) for cell in row.split("|")[2:6])
        shown = re.search(rf"^\| {language} \| (0\.\d{{3}}) \| (0\.\d{{3}}) \| (0\.\d{{3}}) \|$", README, re.MULTILINE)
        assert shown, language
        # The measurement has four digits, the README three: half a unit of each.
        assert all(abs(float(a) - b) <= 0.00055 for a, b in zip(shown.groups(), (tfidf, fp32, int8), strict=True))
