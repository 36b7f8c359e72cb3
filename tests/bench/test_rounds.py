"""Rounds: systems in turn, and systems that fail, on the small bundle and on adapters made up here."""

from __future__ import annotations

import json
import os
import statistics
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from helpers.adapters import ADAPTER, small_workload, write_adapter
from jobonnx.runtime.machine import available_bytes
from jobonnx_bench.bundle import bundle_systems
from jobonnx_bench.environment import gpu_bytes, record
from jobonnx_bench.process import System
from jobonnx_bench.render.folder import complete
from jobonnx_bench.report import Report, Shape
from jobonnx_bench.rounds import Schedule, run
from jobonnx_bench.workload import Workload


@pytest.fixture(scope="module")
def workload(checkpoint: Path) -> Workload:
    return small_workload(checkpoint)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "made_up.py")


def test_a_bundle_is_measured_and_written(bundle: Path, workload: Workload, tmp_path: Path) -> None:
    systems = bundle_systems(str(bundle))
    by_name = {system.name: system for system in systems}
    assert {"jobonnx-fp32-cpu", "jobonnx-int8-cpu", "jobonnx-fp16-cuda"} <= by_name.keys()
    chosen = [by_name["jobonnx-fp32-cpu"], by_name["jobonnx-int8-cpu"], replace(by_name["jobonnx-fp16-cuda"], absent="no GPU here")]
    turns: list[str] = []
    between: list[int] = []
    results = run(
        chosen,
        workload,
        tmp_path,
        Schedule(rounds=2),
        reference="jobonnx-fp32-cpu",
        before_round=lambda: between.append(1),
        progress=turns.append,
    )
    assert [result.status for result in results] == ["measured", "measured", "absent"]
    assert [len(result.rounds) for result in results] == [2, 2, 0]
    assert between == [1, 1]
    assert [turn.split(": ")[1] for turn in turns] == ["jobonnx-fp32-cpu", "jobonnx-int8-cpu"] * 2
    fp32, int8, fp16 = results
    assert fp16.reason == "no GPU here"
    assert fp32.parity is not None
    assert fp32.parity.min_cosine == pytest.approx(1, abs=1e-6)
    assert int8.parity is not None
    assert int8.parity.mean_centred is not None
    assert 0.9 < int8.parity.mean_centred < 1
    assert int8.batch_cosine is not None
    assert int8.batch_cosine > 0.9999
    assert int8.details.dtype == "int8"
    assert len(str(int8.details.notes["fingerprint"])) == 64
    assert int8.details.nodes_elsewhere == 0
    assert "onnxruntime" in int8.versions
    assert [len(r.one) for r in fp32.rounds] == [4, 4]
    if os.path.exists("/proc/self/status"):
        assert fp32.peak_bytes is not None
        assert fp32.anonymous_peak_bytes is not None
        assert 0 < fp32.anonymous_peak_bytes < fp32.peak_bytes
        assert fp32.idle_cpu is not None
        assert fp32.idle_cpu < 0.5

    report = complete(Report(record(), Shape(3, 128, 512), workload.summary(), tuple(results)))
    assert report.summaries.keys() == {"jobonnx-fp32-cpu", "jobonnx-int8-cpu"}
    assert report.summaries["jobonnx-fp32-cpu"].titles_per_second == 48 / statistics.median(r.bulk for r in fp32.rounds)
    assert workload.bulk[0] not in json.dumps(asdict(report))


def test_a_system_that_fails_costs_one_row(adapter: Path, workload: Workload, tmp_path: Path) -> None:
    calls = 25  # enough for the warm-up (6 to 9) and the first round (12), not for the second
    systems = [
        System("exits", adapter, {"calls": calls, "end": "exit"}),
        System("raises", adapter, {"calls": 0, "end": "raise"}),
        System("well", adapter),
        System("nowhere", adapter.with_name("missing.py")),
    ]
    results = {result.name: result for result in run(systems, workload, tmp_path, Schedule(rounds=2), reference="exits")}
    assert results["exits"].status == "failed"
    assert results["exits"].reason is not None
    assert "ended with status 3" in results["exits"].reason
    assert "out of luck" in results["exits"].reason
    assert len(results["exits"].rounds) == 1  # what it had measured is kept
    assert results["raises"].reason == "time: ValueError: not a title"
    assert results["nowhere"].status == "failed"
    assert len(results["well"].rounds) == 2
    assert results["well"].parity is not None  # against the first round of the one that failed later
    assert results["well"].parity.min_cosine == pytest.approx(1)
    assert results["well"].rounds[0].bulk_computed_tokens == 480


def test_a_time_budget_allows_the_first_round(adapter: Path, workload: Workload, tmp_path: Path) -> None:
    (result,) = run([System("well", adapter)], workload, tmp_path, Schedule(rounds=3, minutes=0))
    assert len(result.rounds) == 1


def test_a_system_that_hangs_is_ended(adapter: Path, workload: Workload, tmp_path: Path) -> None:
    (result,) = run([System("hangs", adapter, {"calls": 0, "end": "hang"})], workload, tmp_path, Schedule(rounds=1, timeout=1))
    assert result.reason == "no answer to 'time' within 1 s"


@pytest.mark.skipif(available_bytes() is None, reason="this system does not say how much memory is available")
def test_idle_processes_make_room(adapter: Path, workload: Workload, tmp_path: Path) -> None:
    systems = [System("a", adapter), System("b", adapter)]
    results = run(systems, workload, tmp_path, Schedule(rounds=2, reserve_bytes=1 << 60))
    assert [len(result.rounds) for result in results] == [2, 2]
    assert [len(result.loads) for result in results] == [2, 2]  # closed for the other, and started again


NVIDIA_SMI = """#!/bin/sh
test "$*" = "--query-compute-apps=pid,used_memory --format=csv,noheader,nounits" || exit 1
echo "1, 9000"
for pid in $(cat {}); do printf '%s, 512\\n%s, 100\\n' $pid $pid; done
echo "$PPID, [N/A]"
"""


@pytest.mark.skipif(os.name != "posix", reason="the stand-in for nvidia-smi is a shell script")
def test_gpu_memory_is_of_systems_on_a_gpu(
    adapter: Path, workload: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = tmp_path / "pids"
    adapter.write_text(
        ADAPTER.replace("    return System", f"    open({str(pids)!r}, 'a').write(f'{{os.getpid()}} ')\n    return System")
    )
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(NVIDIA_SMI.format(pids))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    systems = [System("a", adapter, on_gpu=True), System("b", adapter)]
    a, b = run(systems, workload, tmp_path, Schedule(rounds=1))
    assert (a.status, b.status) == ("measured", "measured")
    assert a.gpu_peak_bytes == 612 << 20  # on two GPUs
    assert b.gpu_peak_bytes is None
    assert gpu_bytes(os.getpid()) is None  # "[N/A]" is no number
    program.unlink()
    assert gpu_bytes(int(pids.read_text().split()[0])) is None
