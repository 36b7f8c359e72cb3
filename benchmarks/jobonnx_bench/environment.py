"""What a measurement ran on."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from jobonnx.runtime.machine import available_threads, cgroup_file, cpu, memory_bytes
from jobonnx_bench.worker import versions

# Feature -> the names the kernel lists it under, x86 and ARM.
_FEATURES = {
    "AVX2": {"avx2"},
    "AVX-512": {"avx512f"},
    "VNNI": {"avx512_vnni", "avx_vnni"},
    "BF16": {"avx512_bf16", "bf16"},
    "AMX-INT8": {"amx_int8"},
    "AMX-BF16": {"amx_bf16"},
    "NEON": {"asimd", "neon"},
    "DOTPROD": {"asimddp"},
    "I8MM": {"i8mm"},
    "SVE": {"sve"},
}

_PACKAGES = (
    "jobonnx",
    "numpy",
    "tokenizers",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-ep-openvino",
    "onnxruntime-directml",
)


@dataclass(frozen=True)
class Environment:
    """The machine and the code. Unknown values are None."""

    date: str  # UTC, ISO 8601
    cpu: str
    features: dict[str, bool]  # those that decide which kernels run
    logical_cores: int
    threads: int  # what quota, affinity and physical cores allow
    cpu_quota: str | None  # the cgroup's cpu.max: microseconds granted and period, or "max ..."
    memory_limit: str | None  # the cgroup's memory.max: bytes, or "max"
    memory_bytes: int | None
    load_average: float | None  # over the last minute, at the start
    system: str
    python: str
    git_revision: str | None  # with "+changes" if the tree is not clean
    gpus: tuple[str, ...] = ()  # name, driver and memory, as nvidia-smi says
    versions: dict[str, str] = field(default_factory=dict)  # of the packages that decide speed, where they are installed


def record() -> Environment:
    """Describe this machine now."""
    processor = cpu()
    return Environment(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        cpu=processor.name,
        features={name: bool(names & processor.flags) for name, names in _FEATURES.items()},
        logical_cores=os.cpu_count() or 1,
        threads=available_threads(),
        cpu_quota=cgroup_file("cpu.max"),
        memory_limit=cgroup_file("memory.max"),
        memory_bytes=memory_bytes(),
        load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        git_revision=_git_revision(Path(__file__).parent),
        gpus=_gpus(),
        versions=dict(versions(_PACKAGES)),
    )


def gpu_bytes(pid: int) -> int | None:
    """Read the memory that a process holds on NVIDIA GPUs, over all of them.

    None where nvidia-smi does not say: it is not there, or in a container that does not share the host's process ids.
    """
    found = _output("nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits") or ""
    rows = [line.split(",") for line in found.splitlines()]
    held = [int(row[1]) << 20 for row in rows if len(row) == 2 and row[0].strip() == str(pid) and row[1].strip().isdigit()]
    return sum(held) if held else None


def _gpus() -> tuple[str, ...]:
    """One line per GPU, such as "NVIDIA H100 80GB HBM3, driver 550.54, 81559 MiB"."""
    found = _output("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader") or ""
    rows = [line.split(", ") for line in found.splitlines()]
    return tuple(f"{row[0]}, driver {row[1]}, {row[2]}" for row in rows if len(row) == 3)


def _git_revision(folder: Path) -> str | None:
    revision = _output("git", "-C", str(folder), "rev-parse", "HEAD")
    if revision is None:
        return None
    changed = _output("git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no")
    return revision.strip() + ("+changes" if changed else "")


def _output(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return None
