"""The cell runner: figures, schema, and systems that fail, on the small bundle and on adapters made up here."""

from __future__ import annotations

import json
import os
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobonnx import JobonnxError
from jobonnx.bundle.manifest import TOKENIZER
from jobonnx.data.titles import read_titles
from jobonnx.text.tokenizer import Tokenizer
from jobonnx_bench import (
    Cell,
    Report,
    Round,
    Shape,
    Sizes,
    System,
    WorkerLost,
    Workload,
    build,
    bulk_ratio,
    bundle_systems,
    draw,
    one_ratio,
    record,
    run,
    summarise,
    timing,
)
from jobonnx_bench.environment import available_bytes, gpu_bytes

SIZES = Sizes(bulk=48, repeated=16, singles=4, groups8=2, groups32=2)

ADAPTER = """
import os, sys, time
import numpy as np

def build(folder, fail=False, **options):
    print("a library that prints to stdout")
    if fail:
        raise RuntimeError("no such model")
    os.makedirs(folder)

def load(folder, calls=10**9, end="exit", **options):
    return System(calls, end)

class System:
    details = {"dtype": "fp32"}
    computed_tokens = 0

    def __init__(self, calls, end):
        self.calls, self.end = calls, end

    def encode(self, texts):
        self.calls -= 1
        if self.calls < 0 and self.end == "exit":
            print("out of luck", file=sys.stderr, flush=True)
            os._exit(3)
        if self.calls < 0 and self.end == "hang":
            time.sleep(60)
        if self.calls < 0:
            raise ValueError("not a title")
        self.computed_tokens += 10 * len(texts)
        return np.array([[len(text), text.count("a") + 1, 1] for text in texts], np.float32)
"""


@pytest.fixture(scope="module")
def workload(checkpoint: Path) -> Workload:
    return draw(read_titles(), Tokenizer(checkpoint / TOKENIZER, 96).encode, SIZES)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    path = tmp_path / "made_up.py"
    path.write_text(ADAPTER)
    return path


def test_the_draw_is_fair(workload: Workload) -> None:
    assert len(set(workload.bulk)) == len(workload.bulk) == 48
    assert len(workload.repeated) == 16
    assert len(set(workload.repeated)) == 4
    assert [len(group) for group in workload.groups8] == [8, 8]
    for mixed, equal in zip(workload.groups32, workload.equal32, strict=True):
        assert len(set(mixed)) == len(set(equal)) == 32
        assert set(mixed) <= set(workload.bulk)
        assert workload.count(mixed) == workload.count(equal)
        assert len({workload.tokens[title] for title in equal}) == 1


def test_the_draw_can_be_repeated_and_drops_repeats() -> None:
    def tokenize(texts: Any) -> list[list[int]]:
        return [[0] * (int(text.split()[1]) % 3 + 4) for text in texts]

    titles = [f"title {i}" for i in range(400)] * 2 + ["", "  "]
    first = draw(titles, tokenize, SIZES)
    assert first == draw(titles, tokenize, SIZES)
    assert first.bulk != draw(titles, tokenize, SIZES, seed=1).bulk
    assert len(first.tokens) == 400


@pytest.mark.parametrize(("count", "sizes"), [(20, SIZES), (400, replace(SIZES, bulk=16)), (400, replace(SIZES, singles=0))])
def test_a_draw_that_cannot_be_made_says_so(count: int, sizes: Sizes) -> None:
    with pytest.raises(JobonnxError):
        draw([f"title {i}" for i in range(count)], lambda texts: [[0] * 5 for _ in texts], sizes)


def test_lengths_that_cannot_be_paired_are_told_with_what_is_needed() -> None:
    lengths = [3] * 100 + [11] * 100
    with pytest.raises(JobonnxError, match=r"has 0 titles of the mean length, \d tokens, and 32 are needed; give a longer one"):
        draw([f"title {i}" for i in range(200)], lambda texts: [[0] * lengths[int(t.split()[1])] for t in texts], SIZES)


def test_percentiles_and_medians() -> None:
    found = timing([[1.0, 2.0, 3.0], [2.0, 2.0, 100.0], [4.0, 5.0, 6.0]])
    assert found.p50 == 2.0  # the median of 2, 2 and 5: one bad round does not move it
    assert found.calls == 9
    assert found.p95 == pytest.approx(6.0 + 0.6 * 94)  # rank 7.6 of 0 to 8
    assert found.p99 == pytest.approx(6.0 + 0.92 * 94)


def _round(bulk: float, one: float = 0.01) -> Round:
    return Round(bulk, 2 * bulk, 480, 0.1, (one,) * 4, (0.1,), (0.3,), (0.2,), 0.001)


def _cell(*rounds: Round, **details: Any) -> Cell:
    return Cell("x", "peer", "measured", None, details, {}, (1.0, 3.0), (0.5,), rounds, 10, 5, 0.0, None, None)


def test_a_summary_is_of_medians() -> None:
    shape = Shape(layers=2, hidden=4, intermediate=16)
    workload = {"titles": 48, "tokens": 240, "repeated_titles": 16}
    found = summarise(_cell(_round(2.0), _round(1.0), _round(8.0)), shape, workload)
    assert found is not None
    assert found.titles_per_second == 24.0
    assert found.tokens_per_second == 120.0
    assert found.repeated_titles_per_second == pytest.approx(160)
    assert found.mixed_over_equal == pytest.approx(1.5)
    assert found.load == 2.0
    assert found.cpu_per_1000_titles == pytest.approx(1000 * 4 / 48)
    assert found.operations_per_second == 240 * 2 * 2 * (4 * 16 + 2 * 64) / 2
    assert found.executed_per_second == 2 * found.operations_per_second  # 480 tokens with padding
    assert summarise(_cell(), shape, workload) is None


def test_the_last_layer_counts_one_row_a_title() -> None:
    shape = Shape(layers=3, hidden=4, intermediate=16)
    assert shape.layer_weights == 192
    assert shape.operations(10) == 2 * 3 * 192 * 10
    assert shape.operations(10, 2) == 2 * (2 * 192 * 10 + 32 * 10 + 160 * 2)


def test_ratios_are_taken_round_by_round() -> None:
    a, b = _cell(_round(1.0, 0.1), _round(10.0, 1.0), _round(1.0, 0.1)), _cell(_round(2.0, 0.2), _round(20.0, 2.0))
    assert bulk_ratio(a, b) == 2.0
    assert one_ratio(a, b) == pytest.approx(0.5)
    assert bulk_ratio(a, _cell()) is None


def test_a_bundle_is_measured_and_written(bundle: Path, workload: Workload, tmp_path: Path) -> None:
    systems = bundle_systems(str(bundle))
    by_name = {system.name: system for system in systems}
    assert {"jobonnx-fp32-cpu", "jobonnx-int8-cpu", "jobonnx-fp16-cuda"} <= by_name.keys()
    chosen = [by_name["jobonnx-fp32-cpu"], by_name["jobonnx-int8-cpu"], replace(by_name["jobonnx-fp16-cuda"], absent="no GPU here")]
    turns: list[str] = []
    between: list[int] = []
    cells = run(
        chosen,
        workload,
        tmp_path,
        rounds=2,
        reference="jobonnx-fp32-cpu",
        each_round=lambda: between.append(1),
        report=turns.append,
    )
    assert [cell.status for cell in cells] == ["measured", "measured", "absent"]
    assert [len(cell.rounds) for cell in cells] == [2, 2, 0]
    assert between == [1, 1]
    assert [turn.split(": ")[1] for turn in turns] == ["jobonnx-fp32-cpu", "jobonnx-int8-cpu"] * 2
    fp32, int8, fp16 = cells
    assert fp16.reason == "no GPU here"
    assert fp32.parity is not None
    assert fp32.parity["min_cosine"] == pytest.approx(1, abs=1e-6)
    assert int8.parity is not None
    assert 0.9 < int8.parity["mean_centred"] < 1
    assert int8.batch_cosine is not None
    assert int8.batch_cosine > 0.9999
    assert int8.details["dtype"] == "int8"
    assert len(int8.details["fingerprint"]) == 64
    assert "onnxruntime" in int8.versions
    assert [len(r.one) for r in fp32.rounds] == [4, 4]
    if os.path.exists("/proc/self/status"):
        assert fp32.peak_bytes is not None
        assert fp32.anonymous_peak_bytes is not None
        assert 0 < fp32.anonymous_peak_bytes < fp32.peak_bytes
        assert fp32.idle_cpu is not None
        assert fp32.idle_cpu < 0.5

    report = Report(record(), Shape(3, 128, 512), workload.summary(), tuple(cells))
    report.write(tmp_path / "report.json")
    assert Report.read(tmp_path / "report.json") == report
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["schema"] == "jobonnx.bench/2"
    assert content["cells"][0]["summary"]["one"].keys() == {"p50", "p95", "p99", "calls"}
    assert content["cells"][0]["summary"]["titles_per_second"] == 48 / statistics.median(r.bulk for r in fp32.rounds)
    assert content["cells"][2]["summary"] is None
    assert workload.bulk[0] not in (tmp_path / "report.json").read_text()


def test_a_report_of_another_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text('{"schema": "jobonnx.bench/0"}')
    with pytest.raises(JobonnxError, match=r"jobonnx\.bench/0.*measure again"):
        Report.read(path)
    path.write_text("[]")
    with pytest.raises(JobonnxError, match="no report"):
        Report.read(path)


def test_a_system_that_fails_costs_one_row(adapter: Path, workload: Workload, tmp_path: Path) -> None:
    calls = 25  # enough for the warm-up (6 to 9) and the first round (12), not for the second
    systems = [
        System("exits", adapter, {"calls": calls, "end": "exit"}),
        System("raises", adapter, {"calls": 0, "end": "raise"}),
        System("well", adapter),
        System("nowhere", adapter.with_name("missing.py")),
    ]
    cells = {cell.name: cell for cell in run(systems, workload, tmp_path, rounds=2, reference="exits")}
    assert cells["exits"].status == "failed"
    assert cells["exits"].reason is not None
    assert "ended with status 3" in cells["exits"].reason
    assert "out of luck" in cells["exits"].reason
    assert len(cells["exits"].rounds) == 1  # what it had measured is kept
    assert cells["raises"].reason == "time: ValueError: not a title"
    assert cells["nowhere"].status == "failed"
    assert len(cells["well"].rounds) == 2
    assert cells["well"].parity is not None  # against the first round of the one that failed later
    assert cells["well"].parity["min_cosine"] == pytest.approx(1)
    assert cells["well"].rounds[0].bulk_computed_tokens == 480


def test_a_time_budget_allows_the_first_round(adapter: Path, workload: Workload, tmp_path: Path) -> None:
    (cell,) = run([System("well", adapter)], workload, tmp_path, rounds=3, minutes=0)
    assert len(cell.rounds) == 1


def test_a_system_that_hangs_is_ended(adapter: Path, workload: Workload, tmp_path: Path) -> None:
    (cell,) = run([System("hangs", adapter, {"calls": 0, "end": "hang"})], workload, tmp_path, rounds=1, timeout=1)
    assert cell.reason == "no answer to 'time' within 1 s"


@pytest.mark.skipif(available_bytes() is None, reason="this system does not say how much memory is available")
def test_idle_processes_make_room(adapter: Path, workload: Workload, tmp_path: Path) -> None:
    systems = [System("a", adapter), System("b", adapter)]
    cells = run(systems, workload, tmp_path, rounds=2, reserve=1 << 60)
    assert [len(cell.rounds) for cell in cells] == [2, 2]
    assert [len(cell.loads) for cell in cells] == [2, 2]  # closed for the other, and started again


def test_an_adapter_builds_its_files(adapter: Path, tmp_path: Path) -> None:
    system = System("x", adapter, folder=tmp_path / "made")
    assert build(system, tmp_path / "build.log") >= 0
    assert (tmp_path / "made").is_dir()
    with pytest.raises(WorkerLost, match="no such model"):
        build(replace(system, options={"fail": True}), tmp_path / "build.log")


def test_the_environment_names_what_matters() -> None:
    environment = record()
    assert environment.features.keys() >= {"AVX2", "AVX-512", "VNNI", "BF16", "AMX-INT8", "NEON", "I8MM"}
    assert environment.cpu
    assert environment.threads >= 1


NVIDIA_SMI = """#!/bin/sh
test "$*" = "--query-compute-apps=pid,used_memory --format=csv,noheader,nounits" || exit 1
echo "1, 9000"
for pid in $(cat {}); do printf '%s, 512\\n%s, 100\\n' $pid $pid; done
echo "$PPID, [N/A]"
"""


@pytest.mark.skipif(os.name != "posix", reason="the stand-in for nvidia-smi is a shell script")
def test_gpu_memory_is_of_cells_on_a_gpu(
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
    systems = [System("a", adapter, {"provider": "cuda"}), System("b", adapter, {"provider": "cpu"})]
    a, b = run(systems, workload, tmp_path, rounds=1)
    assert (a.status, b.status) == ("measured", "measured")
    assert a.gpu_peak_bytes == 612 << 20  # on two GPUs
    assert b.gpu_peak_bytes is None
    assert gpu_bytes(os.getpid()) is None  # "[N/A]" is no number
    program.unlink()
    assert gpu_bytes(int(pids.read_text().split()[0])) is None
