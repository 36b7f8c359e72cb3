"""The command line of the training: what it asks for, and what it imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from jobonnx_train import cli


def test_missing_files_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--esco", "somewhere"])
    assert "give --onet and --csco and --output" in capsys.readouterr().err


def test_a_change_of_the_recipe_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--set", "nothing=1"])
    assert "--set nothing=1: write SECTION.NAME=JSON" in capsys.readouterr().err


def test_files_that_are_not_there_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"occupations_en\.csv"):
        cli.main(["--esco", "nowhere", "--onet", "nowhere", "--csco", "nowhere.csv", "--output", "out"])


def test_the_module_is_the_command() -> None:
    """`python -m jobonnx_train --help` answers without torch, which takes seconds to import."""
    code = "import runpy, sys; sys.argv = ['jobonnx_train', '--dry-run']; runpy.run_module('jobonnx_train', run_name='__main__')"
    check = "; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code + check], capture_output=True, text=True, check=True)
    assert '"base": "BAAI/bge-m3"' in done.stdout
