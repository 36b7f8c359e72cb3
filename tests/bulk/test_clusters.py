"""Embedding on a local Ray cluster, one of its two actors killed midway, and with a local Spark."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from helpers.bulk import read, write_titles
from helpers.checkpoints import ROOT
from helpers.environments import clean_environment, install_jobonnx
from jobonnx import Encoder
from jobonnx.cli.main import main
from jobonnx.data.titles import read_titles

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402

TITLES = read_titles()[: 5 * (1 << 14) // 4]
ROWS = [*TITLES, *TITLES[:3000]]  # two parts


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with Ray and Spark: neither is among the packages that the tests need."""
    return install_jobonnx(tmp_path_factory.mktemp("clusters"), "cpu,bulk,ray", "pyspark>=4")


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


def has_onnxruntime(pid: int) -> bool:
    try:
        return "onnxruntime" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:  # it has ended
        return False


def journal(output: Path) -> list[tuple[Any, ...]]:
    """What the job is, and each part's size and counts; without the report, which has times."""
    with sqlite3.connect(output / "_journal.sqlite") as db:
        return [*db.execute("SELECT * FROM job WHERE name != 'finished'"), *db.execute("SELECT * FROM part ORDER BY number")]


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds the actors in /proc")
def test_a_ray_cluster_with_an_actor_killed_gives_the_same_rows(python: Path, tmp_path: Path) -> None:
    path = write_titles(tmp_path / "titles.jsonl", ROWS)
    options = ["--column", "title", "--id-column", "id", "--threads", "1"]
    command = [str(python.with_name("jobonnx")), "embed", str(path), "-o", str(tmp_path / "out"), *options]
    command += ["--ray", "local", "--workers", "2"]
    env = clean_environment(RAY_worker_niceness="0")  # of themselves, actors give way to whatever else runs
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env, cwd=tmp_path) as process:
        busy: list[int] = []
        while process.poll() is None and not busy:
            time.sleep(0.05)
            busy = [pid for pid in actors() if has_onnxruntime(pid)]
        assert busy, "it ended before"
        time.sleep(0.5)  # it loads its bundle in less, and computes for a second or more
        os.kill(busy[0], signal.SIGKILL)
        stdout, _ = process.communicate(timeout=900)
    assert process.returncode == 0
    report = json.loads(stdout)
    assert report["computed"] == report["distinct"] == len(set(TITLES))
    alone = CliRunner().invoke(main, ["embed", str(path), "-o", str(tmp_path / "alone"), *options])
    assert alone.exit_code == 0, alone.stderr
    assert journal(tmp_path / "out") == journal(tmp_path / "alone")
    table, other = read(tmp_path / "out"), read(tmp_path / "alone")
    assert table.schema.equals(other.schema, check_metadata=True)
    assert table.drop(["vector"]) == other.drop(["vector"])
    assert table["title"].to_pylist() == ROWS
    got, expected = (np.array(one["vector"].to_pylist(), np.float32) for one in (table, other))
    assert np.sum(got * expected, axis=1).min() > 0.99999


def test_the_class_for_ray_jobs_of_ones_own() -> None:
    """It is a plain class: Ray calls it with a batch of numpy arrays."""
    from jobonnx.bulk.ray import EmbedTitles

    embed = EmbedTitles("title", threads=1)
    batch: dict[str, Any] = embed({"title": np.array(["nurse", "cook"], object), "id": np.array([1, 2])})
    assert batch["vector"].shape == (2, 256)
    assert batch["id"].tolist() == [1, 2]


@pytest.fixture
def ads(tmp_path: Path) -> Path:
    titles = read_titles()[:60]
    pq.write_table(pa.table({"id": [f"i{number}" for number in range(60)], "title": titles}), tmp_path / "ads.parquet")
    return tmp_path / "ads.parquet"


def check_vectors(folder: Path, ads: Path) -> None:
    table, titles = pq.read_table(folder).sort_by("id"), pq.read_table(ads).sort_by("id")["title"].to_pylist()
    assert table["title"].to_pylist() == titles
    with Encoder(threads=1) as encoder:
        expected = encoder.encode(titles)
    got = np.array(table["vector"].to_pylist(), np.float32)
    assert np.sum(got * expected, axis=1).min() > 0.99999


@pytest.mark.slow
@pytest.mark.network
def test_the_example_for_ray(python: Path, ads: Path, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "bulk.md").read_text("utf-8")
    code = page.partition("For Ray jobs of your own:\n\n```python\n")[2].partition("```")[0]
    code = code.replace("concurrency=4, num_cpus=2", "concurrency=1, num_cpus=1").replace('"threads": 2', '"threads": 1')
    assert "map_batches" in code
    subprocess.run([str(python), "-c", code], check=True, env=clean_environment(), cwd=tmp_path, timeout=900)
    check_vectors(tmp_path / "vectors", ads)


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java: apt-get install openjdk-17-jre-headless")
def test_the_example_for_spark(python: Path, ads: Path, tmp_path: Path) -> None:
    command = [str(python), str(ROOT / "examples" / "spark.py"), str(ads), str(tmp_path / "out")]
    settings = {
        "PYSPARK_PYTHON": str(python),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PYSPARK_SUBMIT_ARGS": "--master local[1] pyspark-shell",
        "JAVA_TOOL_OPTIONS": "-Xmx512m",
    }
    subprocess.run(command, check=True, env=clean_environment(**settings), cwd=tmp_path, timeout=900)
    check_vectors(tmp_path / "out", ads)
