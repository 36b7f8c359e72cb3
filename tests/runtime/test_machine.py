"""What the processor is, and what of it this process may use."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from jobonnx.runtime import machine
from jobonnx.runtime.machine import Cpu, available_bytes, cgroup_file, cpu, memory_bytes
from jobonnx.runtime.tuning_cache import this_machine
from jobonnx_bench.environment import record

X86 = "processor\t: 0\nmodel name\t: A Processor \nflags\t\t: fpu avx2\n\nprocessor\t: 1\nmodel name\t: Another\nflags\t\t: fpu\n"
NO_QUOTA = 1 << 30
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU part\t: 0xd0c\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (X86, Cpu("A Processor", frozenset({"fpu", "avx2"}))),
        (ARM, Cpu("aarch64", frozenset({"fp", "asimd", "asimddp"}))),
        (None, Cpu("a brand", frozenset({"asimd"}))),
    ],
)
def test_name_and_flags(text: str | None, expected: Cpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    monkeypatch.setattr(machine, "_brand", lambda: "a brand")
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "cpuinfo")
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    assert cpu() == expected


def test_tuning_and_report_name_the_same_processor() -> None:
    assert this_machine().cpu == record().cpu == cpu().name


def test_memory_and_limits_are_read() -> None:
    total, free = memory_bytes(), available_bytes()
    assert total is None or free is None or 0 < free <= total
    assert cgroup_file("no such file") is None


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/job", {"job/cpu.max": "200000 100000"}, 2),
        ("0::/job", {"job/cpu.max": "150000 100000"}, 2),
        ("0::/job", {"job/cpu.max": "1000 100000"}, 1),
        ("0::/job", {"job/cpu.max": "max 100000"}, NO_QUOTA),
        ("0::/pod/job", {"pod/cpu.max": "300000 100000", "pod/job/cpu.max": "max 100000"}, 3),
        ("0::/pod/job", {"pod/cpu.max": "300000 100000", "pod/job/cpu.max": "800000 100000"}, 3),
        ("0::/", {"cpu.max": "400000 100000"}, 4),
        ("0::/../elsewhere", {"cpu.max": "400000 100000"}, 4),
        (
            "4:cpu,cpuacct:/job\n0::/",
            {"cpu,cpuacct/job/cpu.cfs_quota_us": "300000", "cpu,cpuacct/job/cpu.cfs_period_us": "100000"},
            3,
        ),
        ("4:cpu,cpuacct:/job", {"cpu,cpuacct/job/cpu.cfs_quota_us": "-1", "cpu,cpuacct/job/cpu.cfs_period_us": "100000"}, NO_QUOTA),
        ("4:cpu,cpuacct:/docker/ab", {"cpu,cpuacct/cpu.cfs_quota_us": "250000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 3),
        ("4:memory:/job", {"cpu,cpuacct/job/cpu.cfs_quota_us": "100000", "cpu,cpuacct/job/cpu.cfs_period_us": "100000"}, NO_QUOTA),
        ("0::/job", {"job/cpu.max": "100000 0"}, NO_QUOTA),
        ("0::/job", {"job/cpu.max": "nonsense"}, NO_QUOTA),
        ("0::/job", {"job/cpu.cfs_quota_us": "100000"}, NO_QUOTA),
        ("nonsense", {}, NO_QUOTA),
        ("", {}, NO_QUOTA),
    ],
    ids=[
        "v2",
        "v2, rounded up",
        "v2, at least one",
        "v2, unlimited",
        "v2, the parent's quota",
        "v2, the least of both",
        "v2, inside a container",
        "v2, outside its namespace",
        "v1",
        "v1, unlimited",
        "v1, inside a container",
        "v1, another group's",
        "no period",
        "not numbers",
        "half a quota",
        "unreadable membership",
        "no membership",
    ],
)
def test_quota_of_the_cgroup(membership: str, files: dict[str, str], expected: int, tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text(membership + "\n")
    for name, content in files.items():
        (tmp_path / "fs" / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / "root" / name).write_text(content + "\n")
    assert machine._quota(tmp_path / "fs" / "root", tmp_path / "cgroup") == expected


def test_no_cgroups_is_no_quota(tmp_path: Path) -> None:
    assert machine._quota(tmp_path / "no root", tmp_path / "no membership") == NO_QUOTA


@pytest.mark.parametrize(
    ("quota", "affinity", "cores", "expected"), [(2, 8, 4, 2), (NO_QUOTA, 3, 4, 3), (NO_QUOTA, 8, 4, 4), (0, 8, 4, 1)]
)
def test_the_least_of_quota_affinity_and_cores_decides(
    quota: int, affinity: int, cores: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_quota", lambda: quota)
    monkeypatch.setattr(machine, "_affinity", lambda: affinity)
    monkeypatch.setattr(machine, "_physical_cores", lambda: cores)
    assert machine.available_threads() == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity masks")
def test_the_affinity_mask_binds() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert machine.available_threads() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_hyper_threads_of_one_core_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    siblings = {0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3"}
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(siblings), raising=False)
    monkeypatch.setattr(
        machine, "Path", lambda path: SimpleNamespace(read_text=lambda: siblings[int(path.split("/cpu/cpu")[1].split("/")[0])])
    )
    assert machine._physical_cores() == 2
