"""`jobonnx bench`: what is asked, what is refused, what comes out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from helpers.reports import ENVIRONMENT, measured, report
from jobonnx.cli import bench as cli_bench
from jobonnx.cli.main import main
from jobonnx.strict_json import write_json
from jobonnx_bench.bundle import FULL, QUICK


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(main, ["bench", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.mark.slow
def test_a_report_of_the_small_bundle(bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason='the report needs matplotlib: pip install "jobonnx[bench]"')
    titles = tmp_path / "titles.txt"
    titles.write_bytes(
        b"\xef\xbb\xbf" + "\r\n".join(f"{word} {i}" for i in range(100) for word in ("Koch", "nurse", "教师")).encode()
    )
    command = [sys.executable, "-c", "from jobonnx.cli.main import main; main()", "bench", "-m", str(bundle), "--quick"]
    command += ["--variant", "int8", "--provider", "cpu", "--provider", "directml", "--workload", str(titles)]
    done = subprocess.run([*command, "-o", str(tmp_path / "out")], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(tmp_path / "out" / "report.html")
    assert done.stderr == ""  # progress is for terminals
    content = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [result["status"] for result in content["systems"]] == ["measured", "absent"]
    assert {r["variant"] for r in content["recommendations"]} <= {"int8"}
    assert "Koch 1" not in (tmp_path / "out" / "report.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--provider", "warp", "-o", "{}/new"], "provider 'warp' is unknown; it is one of cpu, openvino"),
        (["--variant", "int3", "-o", "{}/new"], "has no variant 'int3'"),
        (["-o", "{}"], "exists already; remove it or name another folder"),
        (["-m", "{}/nowhere", "-o", "{}/new"], "no such bundle folder"),
        (["--workload", "{}/nowhere.txt", "-o", "{}/new"], "nowhere.txt cannot be read (No such file or directory)"),
        ([], "name a folder for the report: -o report"),
        (["--json", "-o", "{}/new"], "--json goes with --compare"),
        (["--compare", "{}/a.json", "{}/b.json"], "a.json cannot be read (No such file or directory)"),
        (["--compare", "a", "b", "--quick"], "--compare reads two reports"),
    ],
)
def test_what_cannot_be_is_one_sentence(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason='the report needs matplotlib: pip install "jobonnx[bench]"')
    result = run(*(argument.format(tmp_path) for argument in arguments))
    assert result.exit_code != 0
    assert sentence in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert os.listdir(tmp_path) == []


def test_too_few_titles_are_refused_with_the_number_that_is_needed(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason='the report needs matplotlib: pip install "jobonnx[bench]"')
    titles = tmp_path / "titles.txt"
    titles.write_text("".join(f"nurse {i}\n" for i in range(40)) * 10)
    result = run("--workload", titles, "--quick", "-o", tmp_path / "new")
    assert result.stderr.endswith("has 40 distinct titles, 200 are needed; give a longer one\n")
    assert os.listdir(tmp_path) == ["titles.txt"]
    assert (FULL.sizes.bulk, QUICK.sizes.bulk) == (1000, 200)  # as the help says


def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_bench, "find_spec", lambda name: None)
    result = run("-o", tmp_path / "new")
    assert result.stderr == 'Error: the report needs matplotlib and onnx; run: pip install "jobonnx[bench]"\n'


def test_two_reports_are_compared(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", asdict(report(measured("fp32"))))
    write_json(tmp_path / "b.json", asdict(report(measured("fp32", bulk=0.5))))
    shown = run("--compare", tmp_path / "a.json", tmp_path / "b.json").stdout
    assert "| jobonnx-fp32-cpu | bulk | 100 titles/s | 200 titles/s | +100.0% | 2.0% | better |" in shown
    content = json.loads(run("--compare", tmp_path / "a.json", tmp_path / "b.json", "--json").stdout)
    assert content.keys() == {"changes", "warnings", "systems"}
    assert content["changes"][0]["verdict"] == "better"
    assert ENVIRONMENT.cpu not in shown  # the machines are the same
