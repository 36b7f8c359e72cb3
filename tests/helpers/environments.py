"""Environments of their own, for packages that are not in the one the tests run in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from helpers.checkpoints import ROOT


def install(folder: Path, *packages: str) -> Path:
    """Make an environment with packages; return its Python."""
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    python = folder / "venv" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    subprocess.run([str(python), "-m", "pip", "install", "-q", *packages], check=True, env=clean_environment())
    return python


def install_jobonnx(folder: Path, extras: str, *packages: str) -> Path:
    """Make an environment with jobonnx as it is here, some of its extras, and other packages; return its Python."""
    return install(folder, f"{build_wheel(folder)}[{extras}]", *packages)


def build_wheel(folder: Path) -> Path:
    """Build the wheel of jobonnx as it is here; return its path."""
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(ROOT)], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def clean_environment(**more: str) -> dict[str, str]:
    """The variables of this process, without those that lead to the packages of its Python."""
    return {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")} | more
