"""What users install: a wheel, in an empty environment, offline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from helpers.checkpoints import ROOT

MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(ROOT)], check=True)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_both_halves_and_nothing_called_export(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        packages = {name.split("/")[0] for name in names if ".dist-info" not in name}
        bundle = sum(info.file_size for info in archive.infolist() if info.filename.startswith("jobonnx/data/small/"))
    assert packages == {"jobonnx", "jobonnx_export"}
    assert "jobonnx/py.typed" in names
    assert 0 < bundle <= 15 * MEGABYTE


def test_match_runs_from_the_wheel_offline(wheel: Path, tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "-q", f"{wheel}[cpu]"], check=True)
    absent = "import importlib.util as u; assert not any(map(u.find_spec, ('torch', 'transformers', 'optimum', 'export')))"
    subprocess.run([str(python), "-c", absent], check=True, cwd=tmp_path)
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    offline["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    command = [str(python.with_name("jobonnx")), "match", "Volksvertreter", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=offline, cwd=tmp_path)
    assert len(json.loads(done.stdout)["matches"]) == 10
    # Without the extra `export`, exporting says what to install.
    refused = subprocess.run([*command[:1], "export", "x", "-o", "y"], capture_output=True, text=True, env=offline, cwd=tmp_path)
    assert refused.returncode == 1
    assert "jobonnx[cpu,export]" in refused.stderr
