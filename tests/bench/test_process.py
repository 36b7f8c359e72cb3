"""A worker process: what it is asked, how it ends."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from helpers.adapters import write_adapter
from jobonnx_bench.process import Process, System, WorkerLostError, build, larger


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "made_up.py")


def test_an_adapter_builds_its_files(adapter: Path, tmp_path: Path) -> None:
    system = System("x", adapter, folder=tmp_path / "made")
    assert build(system, tmp_path / "build.log") >= 0
    assert (tmp_path / "made").is_dir()
    with pytest.raises(WorkerLostError, match="no such model"):
        build(replace(system, options={"fail": True}), tmp_path / "build.log")


def test_an_answer_and_its_peaks(adapter: Path, tmp_path: Path) -> None:
    with Process(System("x", adapter), tmp_path / "logs" / "x.log") as process:
        loaded = process.ask("load", folder="", options={}, files=[adapter])
        assert loaded["details"] == {"dtype": "fp32"}
        assert process.ask("time", batches=[["a", "bb"], ["c"]], vectors=None)["computed_tokens"] == 30
        process.rest()
    if os.path.exists("/proc/self/status"):
        assert process.anonymous_peak_bytes is not None
        assert process.anonymous_peak_bytes > 1 << 20
        assert process.idle_cpu_seconds is not None
        assert process.idle_cpu_seconds < 0.5
    assert process.gpu_peak_bytes is None
    process.close()  # twice is once


def test_a_worker_that_is_gone_says_why(adapter: Path, tmp_path: Path) -> None:
    with Process(System("x", adapter), tmp_path / "x.log") as process:
        process.ask("load", folder="", options={"calls": 0}, files=[])
        with pytest.raises(WorkerLostError, match="ended with status 3 during 'time'; the last line of its output: out of luck"):
            process.ask("time", batches=[["a"]], vectors=None)
        with pytest.raises(WorkerLostError, match="ended with status 3 during 'memory'"):
            process.ask("memory")


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_a_worker_that_is_killed_says_by_what(adapter: Path, tmp_path: Path) -> None:
    adapter.write_text("import os, signal\ndef load(folder):\n    os.kill(os.getpid(), signal.SIGKILL)\n")
    with (
        Process(System("x", adapter), tmp_path / "x.log") as process,
        pytest.raises(WorkerLostError, match=r"was killed by signal 9 during 'load'$"),
    ):
        process.ask("load", folder="", options={}, files=[])


@pytest.mark.skipif(os.name != "posix", reason="groups of processes are POSIX's")
def test_what_a_worker_left_behind_ends_with_it(adapter: Path, tmp_path: Path) -> None:
    adapter.write_text(
        "import os, signal\ndef build(folder):\n"
        "    if child := os.fork():\n        open(folder, 'w').write(str(child))\n    else:\n        signal.pause()\n"
    )
    build(System("x", adapter, folder=tmp_path / "child"), tmp_path / "x.log")
    child = int((tmp_path / "child").read_text())
    end = time.monotonic() + 10
    while running(child):
        assert time.monotonic() < end
        time.sleep(0.05)


def running(process: int) -> bool:
    """Tell whether a process runs; one that is dead may wait for whoever inherited it to reap it."""
    try:
        return bool(psutil.Process(process).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.mark.skipif(os.name != "posix", reason="the worker's stdout is found by its number")
def test_an_answer_that_was_cut_off_is_a_lost_worker(adapter: Path, tmp_path: Path) -> None:
    # the worker's answers go to a copy of file 1, which has the next free number
    adapter.write_text("import os\ndef load(folder):\n    os.write(3, b'{ cut')\n    os._exit(0)\n")
    with (
        Process(System("x", adapter), tmp_path / "x.log") as process,
        pytest.raises(WorkerLostError, match="ended with status 0 during 'load'"),
    ):
        process.ask("load", folder="", options={}, files=[])


def test_an_adapter_that_is_not_there_is_said(tmp_path: Path) -> None:
    with (
        Process(System("x", tmp_path / "missing.py", python=Path(sys.executable)), tmp_path / "x.log") as process,
        pytest.raises(WorkerLostError, match=r"^load: FileNotFoundError"),
    ):
        process.ask("load", folder="", options={}, files=[])


def test_the_larger_of_two_sizes_that_may_be_unknown() -> None:
    assert [larger(None, None), larger(None, 2), larger(3, None), larger(0, 2)] == [None, 2, 3, 2]
