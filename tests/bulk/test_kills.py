"""A job that is killed at any moment, or runs out of disk, and is started again gives the very bytes of one that was left alone."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.bulk import content, job, read, run, some, write_titles
from jobonnx.errors import JobonnxError

pytest.importorskip("pyarrow")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL, fork and a limit on file size are POSIX's")

_ROWS, _DISTINCT = 70, 30

# Does a job, with a fault at the n-th change of a file for each n it is told; each time in a process of its own, on the output that
# the ones before it left if "on" is given. A fault is SIGKILL, or a disk that refuses this change ("hiccup") or all from it on
# ("full"). Prints, for each, the step, what became of the process, and what it said.
_FAULTS = """
import json, os, pathlib, shutil, signal, sys
import pyarrow.parquet
from helpers.bulk import job, run
from helpers.system_calls import intercept
from jobonnx.errors import JobonnxError

titles, output, fault, *steps = sys.argv[1:]
for number, step in enumerate(map(int, steps)):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        count, said = 0, "done"
        def strike():
            global count
            count += 1
            if fault == "kill" and count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return fault == "full" and count >= step or fault == "hiccup" and count == step
        intercept(strike)
        try:
            run(job(pathlib.Path(titles)), pathlib.Path(output) / f"{number:03d}")
        except JobonnxError as error:
            said = str(error)
        os.write(writing, json.dumps([count, said]).encode())
        os._exit(0)
    os.close(writing)
    said = os.fdopen(reading).read()
    print(json.dumps([step, os.waitpid(child, 0)[1], *(json.loads(said) if said else [0, ""])]), flush=True)
"""


def faults(titles: Path, output: Path, fault: str, steps: list[int]) -> list[list[int | str]]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", _FAULTS, str(titles), str(output), fault, *map(str, steps)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment, timeout=600)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, if there is one: a thousand syncs of a disk take a minute, and a kill does not depend on them."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as made:
        yield Path(made)


@pytest.fixture
def titles(folder: Path) -> Path:
    return write_titles(folder / "titles.jsonl", some(_ROWS, _DISTINCT))


def check_named_parts_are_whole(output: Path, whole: dict[str, bytes]) -> int:
    """Whatever a reader sees of a killed job is a beginning of the whole."""
    parts = sorted(path.name for path in output.glob("*.parquet")) if output.exists() else []
    assert parts == sorted(whole)[: len(parts)]
    assert all((output / name).read_bytes() == whole[name] for name in parts)
    return len(parts)


def attack(titles: Path, folder: Path, fault: str, chosen: int | None) -> list[int]:
    """Strike at some steps, or at all; return how many parts each left."""
    run(job(titles), folder / "whole")
    whole = content(folder / "whole")
    (folder / "count").mkdir()
    ((_, _, steps, _),) = faults(titles, folder / "count", "none", [0])
    assert isinstance(steps, int)
    assert steps > 100
    places = list(range(1, steps + 1)) if chosen is None else sorted(random.Random(0).sample(range(1, steps + 1), chosen))
    (folder / fault).mkdir()
    left = []
    for number, (step, status, _, said) in enumerate(faults(titles, folder / fault, fault, places)):
        output = folder / fault / f"{number:03d}"
        left.append(check_named_parts_are_whole(output, whole))
        if fault == "kill":
            assert status == signal.SIGKILL, (step, said)
        elif said != "done":
            assert isinstance(said, str)
            assert "free some space, then give the same command again" in said or "cannot be written" in said
            assert status == 0
        run(job(titles), output)
        assert content(output) == whole, f"after {fault} at step {step}"
    return left


def test_kills_at_twenty_random_steps(titles: Path, folder: Path) -> None:
    left = attack(titles, folder, "kill", 20)
    assert len(set(left)) > 3, "they fell into different parts"


@pytest.mark.parametrize("fault", ["full", "hiccup"])
def test_a_disk_that_refuses_at_random_steps(fault: str, titles: Path, folder: Path) -> None:
    attack(titles, folder, fault, 4)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["kill", "full", "hiccup"])
def test_faults_at_every_step(fault: str, titles: Path, folder: Path) -> None:
    attack(titles, folder, fault, None)


@pytest.mark.slow
def test_one_job_killed_again_and_again(titles: Path, folder: Path) -> None:
    """Each start is killed a few steps after the last one, until a start comes through."""
    run(job(titles), folder / "whole")
    chances = random.Random(1)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    code = _FAULTS.replace('f"{number:03d}"', '"out"')
    steps = [str(chances.randrange(60, 300)) for _ in range(20)]
    command = [sys.executable, "-c", code, str(titles), str(folder), "kill", *steps]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment, timeout=300)
    statuses = [json.loads(line)[1] for line in done.stdout.splitlines()]
    assert signal.SIGKILL in statuses
    assert 0 in statuses, "it never came through"
    assert content(folder / "out") == content(folder / "whole")


def embed(titles: Path, output: Path, *options: str) -> list[str]:
    code = "from jobonnx.cli import main; main()"
    columns = ["--column", "title", "--id-column", "id"]
    return [sys.executable, "-c", code, "embed", str(titles), "-o", str(output), *columns, "--threads", "1", *options]


@pytest.mark.slow
def test_the_command_killed_at_twenty_random_times(tmp_path: Path) -> None:
    """The real program with the small model, in fp32's stead its int8, killed by the clock."""
    from jobonnx.bulk import job as jobs
    from jobonnx.data.titles import read_titles

    distinct = read_titles()[::4]
    chances = random.Random(2)
    titles = write_titles(tmp_path / "titles.jsonl", [chances.choice(distinct) for _ in range(5 * jobs.PART_ROWS // 4)])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    began = time.monotonic()
    subprocess.run(embed(titles, tmp_path / "whole"), check=True, stdout=subprocess.DEVNULL, env=environment)
    alone = time.monotonic() - began
    kills = 0
    while kills < 20:
        process = subprocess.Popen(embed(titles, tmp_path / "out"), stdout=subprocess.DEVNULL, env=environment)
        try:
            process.wait(chances.uniform(0, alone))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.returncode == 0:
            assert content(tmp_path / "out") == content(tmp_path / "whole")
            for path in (tmp_path / "out").iterdir():
                path.unlink()
            continue
        kills += 1
    subprocess.run(embed(titles, tmp_path / "out"), check=True, stdout=subprocess.DEVNULL, env=environment)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_file_may_grow_no_further(titles: Path, folder: Path) -> None:
    import resource

    run(job(titles), folder / "whole")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, limit[1]))
    try:
        with pytest.raises(JobonnxError, match="cannot be written"):
            run(job(titles), folder / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    run(job(titles), folder / "out")
    assert content(folder / "out") == content(folder / "whole")
    assert len(read(folder / "out")) == _ROWS
