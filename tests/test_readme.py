"""The README is true: its blocks run and print what it shows."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from helpers.checkpoints import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def _block(language: str, after: str = "") -> str:
    found = re.search(rf"{re.escape(after)}.*?```{language}\n(.*?)```", README, re.DOTALL)
    assert found, f"no {language} block after {after!r}"
    return found.group(1)


def test_the_python_block_runs() -> None:
    done = subprocess.run([sys.executable, "-c", _block("python")], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("(3, ")


def test_the_first_command_prints_what_the_readme_shows() -> None:
    command = _block("bash", "<!-- first command -->").strip().split("&& .venv/bin/")[-1]
    jobonnx = shutil.which("jobonnx", path=str(Path(sys.executable).parent))
    assert jobonnx is not None
    assert command.startswith("jobonnx ")
    done = subprocess.run([jobonnx, *command.replace('"', "").split()[1:]], capture_output=True, text=True, check=True)
    assert done.stdout == _block("text", "<!-- first output -->")


def test_ci_runs_the_readmes_test_command() -> None:
    """.ci/run takes the block from the README itself; here only that it finds what is meant."""
    command = _block("bash", "<!-- test command -->")
    assert "pytest" in command
    assert "mypy" in command
    assert "<!-- test command -->" in (ROOT / ".ci" / "run").read_text()


def test_the_commands_of_the_quality_page_name_every_set() -> None:
    """Pasted into a shell that prints what it would run; the measurement itself takes minutes."""
    found = re.search(r"```bash\n(.*?)```", (ROOT / "docs" / "quality.md").read_text(encoding="utf-8"), re.DOTALL)
    assert found
    script = 'jobonnx() { echo "$@"; }; python() { echo "$@"; }\n' + found.group(1)
    done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=True, cwd=ROOT)
    export, quality, evaluate = (line.split() for line in done.stdout.splitlines())
    languages = ("en", "es", "de", "zh", "fr", "it", "ja", "ko", "nl", "pl", "pt")
    sets = [f"../shared/data/avature_jobtitlesimilarity/{name}" for name in languages]
    assert quality[-len(sets) :] == evaluate[-len(sets) :] == sets
    assert export[-1] == quality[1] == evaluate[2]
