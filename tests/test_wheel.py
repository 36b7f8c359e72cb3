"""What users install: a wheel, in an empty environment, offline; and what the source archive holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import jobonnx
from helpers.checkpoints import ROOT

MEGABYTE = 1 << 20


def build(kind: str, folder: Path) -> Path:
    """Build a wheel or an sdist as pip and `build` do, with the hatchling that is installed."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", tmp_path_factory.mktemp("wheel"))


@pytest.mark.medium
def test_the_wheel_holds_the_runtime_the_exporter_and_the_benchmark(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        packages = {name.split("/")[0] for name in names if ".dist-info" not in name}
        bundle = sum(info.file_size for info in archive.infolist() if info.filename.startswith("jobonnx/data/small/"))
    assert packages == {"jobonnx", "jobonnx_export", "jobonnx_bench"}
    assert "jobonnx/py.typed" in names
    sources = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src" / "jobonnx").rglob("*.py")}
    assert sources <= set(names)
    assert not [name for name in names if "__pycache__" in name]
    assert 0 < bundle <= 15 * MEGABYTE


@pytest.mark.medium
def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = Parser().parsestr(archive.read(name).decode())
        licences = [name for name in archive.namelist() if "/licenses/" in name]
    assert metadata["Version"] == jobonnx.__version__
    assert metadata["Requires-Python"] == ">=3.11"
    assert {Path(name).name for name in licences} == {"LICENSE", "NOTICE"}
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert {line.split(">=")[0] for line in required} == {"numpy", "tokenizers", "click", "rich", "huggingface-hub", "msgspec"}


@pytest.mark.medium
def test_the_source_archive_builds_and_tests_without_the_weights(tmp_path: Path) -> None:
    archive = build("sdist", tmp_path / "dist")
    assert archive.stat().st_size < 20 * MEGABYTE
    with tarfile.open(archive) as content:
        names = {name.partition("/")[2] for name in content.getnames()}
    needed = {"pyproject.toml", "LICENSE", "NOTICE", "README.md", "constraints.txt", "src/jobonnx/encoder.py", "tests/conftest.py"}
    assert needed <= names
    assert not [name for name in names if name.endswith((".pyc", ".safetensors")) or name.startswith("benchmarks/results")]


@pytest.mark.slow
@pytest.mark.network
def test_match_runs_from_the_wheel_offline(wheel: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([str(python), "-m", "pip", "install", "-q", f"{wheel}[cpu]"], check=True, env=clean)
    absent = "import importlib.util as u; assert not any(map(u.find_spec, ('torch', 'transformers', 'optimum', 'export')))"
    subprocess.run([str(python), "-c", absent], check=True, cwd=tmp_path, env=clean)
    offline = {**clean, "HF_HUB_OFFLINE": "1", "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    offline["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    command = [str(python.with_name("jobonnx")), "match", "Volksvertreter", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=offline, cwd=tmp_path)
    assert len(json.loads(done.stdout)["matches"]) == 10
    # Without the extra `export`, exporting says what to install.
    refused = subprocess.run([*command[:1], "export", "x", "-o", "y"], capture_output=True, text=True, env=offline, cwd=tmp_path)
    assert refused.returncode == 1
    assert "jobonnx[cpu,export]" in refused.stderr
