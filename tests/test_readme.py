"""The README is true: its first command prints what it shows, its test command is CI's, and its tables add up."""

from __future__ import annotations

import re
import shlex
import shutil
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
    assert len(ratios) == 2
    for ratio, above, below in ratios:
        assert f"{float(above) / float(below):.{len(ratio.split('.')[1])}f}" == ratio
        assert f"| {above} |" in README
        assert f"| {below} |" in README


def test_figures_of_speed_are_those_of_the_measurement() -> None:
    measured = (ROOT / "benchmarks" / "results" / "2026-11-24-epyc-zen3-avx2.md").read_text(encoding="utf-8")
    names = {
        "jobonnx int8": "jobonnx-int8-cpu",
        "sentence-transformers, onnx qint8": "st-onnx-qint8",
        "jobonnx fp32": "jobonnx-fp32-cpu",
        "sentence-transformers, torch fp32": "st-torch-fp32",
    }
    for name, system in names.items():
        row = re.search(rf"^\| {re.escape(name)} \| ([\d.]+) \| (\d+) ms \| ([\d.]+) GB \| (\S+) \|$", README, re.MULTILINE)
        assert row, name
        lines = [line for line in measured.splitlines() if line.startswith(f"| {system} |")]
        rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
        bulk, latency, cost = rows[0], rows[1], rows[-1]
        assert row[1] == bulk[2]
        assert int(row[2]) == round(float(latency[1]))
        assert row[3] == cost[3]
        assert row[4] == ("reference" if system == "st-torch-fp32" else f"{float(cost[8]):.4f}")


def test_figures_of_quality_are_those_of_the_measurement() -> None:
    measured = (ROOT / "benchmarks" / "results" / "2026-11-27-quality-small.md").read_text(encoding="utf-8")
    first_table = measured.split("| MAP@200 |")[1].split("\n\n")[0]
    for language in ("en", "es", "de", "zh", "fr", "it", "nl", "pl", "pt", "ja", "ko"):
        row = next(line for line in first_table.splitlines() if line.startswith(f"| {language} |"))
        tfidf, fp32, _, int8 = (float(cell.split()[0]) for cell in row.split("|")[2:6])
        shown = re.search(rf"^\| {language} \| (0\.\d{{3}}) \| (0\.\d{{3}}) \| (0\.\d{{3}}) \|$", README, re.MULTILINE)
        assert shown, language
        # The measurement has four digits, the README three: half a unit of each.
        assert all(abs(float(a) - b) <= 0.00055 for a, b in zip(shown.groups(), (tfidf, fp32, int8), strict=True))
