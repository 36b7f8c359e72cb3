"""Embedding on a local Ray cluster, one of its two actors killed midway, and with a local Spark."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.bulk import read, write_titles
from helpers.checkpoints import ROOT
from jobonnx import Encoder
from jobonnx.data.titles import read_titles

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402

pytestmark = pytest.mark.slow

TITLES = read_titles()[: 5 * (1 << 14) // 4]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "RAY_DEDUP_LOGS": "0", "JAVA_TOOL_OPTIONS": "-Xmx512m"}


def actors() -> list[int]:
    """The ids of Ray's processes that compute."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if name.startswith(b"ray::") and b"MapWorker" in name:
            found.append(int(folder.name))
    return found


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds the actors in /proc")
def test_a_ray_cluster_with_an_actor_killed_gives_the_same_rows(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    path = write_titles(tmp_path / "titles.jsonl", [*TITLES, *TITLES[:3000]])
    code = "from jobonnx.cli import main; main()"
    command = [sys.executable, "-c", code, "embed", str(path), "-o", str(tmp_path / "out"), "--column", "title"]
    command += ["--ray", "local", "--workers", "2", "--threads", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment())
    busy: list[int] = []
    while process.poll() is None and not busy:  # until one has loaded its bundle and computes
        time.sleep(0.2)
        busy = [pid for pid in actors() if cpu_seconds(pid) > 10]
    assert len(actors()) == 2
    os.kill(busy[0], signal.SIGKILL)
    stdout, _ = process.communicate(timeout=400)
    assert process.returncode == 0
    report = json.loads(stdout)
    assert report["computed"] == report["distinct"] == len(set(TITLES))
    table = read(tmp_path / "out")
    assert table["title"].to_pylist() == [*TITLES, *TITLES[:3000]]
    with Encoder(threads=1) as encoder:
        expected = encoder.encode(TITLES[:500])
    got = np.array(table["vector"][:500].to_pylist(), np.float32)
    assert np.sum(got * expected, axis=1).min() > 0.99999


def test_the_class_for_ray_jobs_of_ones_own() -> None:
    """It is a plain class: Ray calls it with a batch of numpy arrays."""
    from jobonnx.bulk.ray import EmbedTitles

    embed = EmbedTitles("title", threads=1)
    batch: dict[str, Any] = embed({"title": np.array(["nurse", "cook"], object), "id": np.array([1, 2])})
    assert batch["vector"].shape == (2, 256)
    assert batch["id"].tolist() == [1, 2]


@pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java: apt-get install openjdk-17-jre-headless")
def test_the_example_for_spark(tmp_path: Path) -> None:
    pytest.importorskip("pyspark")
    titles = read_titles()[:60]
    ids = [f"i{number}" for number in range(60)]
    pq.write_table(pa.table({"id": ids, "title": titles}), tmp_path / "ads.parquet")
    command = [sys.executable, str(ROOT / "examples" / "spark.py"), str(tmp_path / "ads.parquet"), str(tmp_path / "out")]
    settings = {
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PYSPARK_SUBMIT_ARGS": "--master local[1] pyspark-shell",
    }
    subprocess.run(command, check=True, env=environment() | settings, timeout=400)
    table = pq.read_table(tmp_path / "out").sort_by("title")
    found = dict(zip(table["title"].to_pylist(), table["vector"].to_pylist(), strict=True))
    with Encoder(threads=1) as encoder:
        expected = encoder.encode(titles)
    got = np.array([found[title] for title in titles], np.float32)
    assert np.sum(got * expected, axis=1).min() > 0.99999
