"""What /proc, /sys and the system say about this machine: the processor, its threads, memory and limits."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
_UNLIMITED = 1 << 30  # CPUs


@dataclass(frozen=True)
class Cpu:
    """A processor's name, and its features by the kernel's names for them; none where the system does not list them."""

    name: str
    flags: frozenset[str]


def cpu() -> Cpu:
    """Return the processor of this machine."""
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        arm = {"asimd"} if platform.machine() in ("arm64", "aarch64") else set()
        return Cpu(_brand() or platform.processor() or platform.machine(), frozenset(arm))
    # x86 says "flags" and "model name"; ARM says "Features" and often no name at all.
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    name = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, re.MULTILINE)
    return Cpu(name[1].strip() if name else platform.machine(), frozenset(flags[1].split() if flags else ()))


def available_threads() -> int:
    """Threads this process may keep busy: the least of cgroup quota, affinity mask and physical cores, and at least 1."""
    return max(1, min(_quota(), _affinity(), _physical_cores()))


def memory_bytes() -> int | None:
    """Memory of the machine; None where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def available_bytes() -> int | None:
    """Memory that can be had without swapping; None where the system does not say."""
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def cgroup_file(name: str) -> str | None:
    """Return a file of this process's cgroup (v2), such as "cpu.max", or of the root where a container hides the path."""
    path = next((path for _, _, path in _groups(_MEMBERSHIP)), "/")
    for file in (_CGROUPS / path.lstrip("/") / name, _CGROUPS / name):
        try:
            return file.read_text().strip()
        except OSError:
            continue
    return None


def _brand() -> str:
    """Return the name that macOS gives; empty elsewhere."""
    import subprocess  # here alone: it takes longer to import than all else in this file

    try:
        command = ("sysctl", "-n", "machdep.cpu.brand_string")
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _physical_cores() -> int:
    """Physical cores behind the allowed logical ones: hyper-threads share the units that matrix products need."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cores = set()
    for number in os.sched_getaffinity(0):
        try:
            siblings = Path(f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list").read_text()
        except OSError:
            siblings = str(number)
        cores.add(siblings)
    return len(cores)


def _quota(root: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> int:
    """CPUs the cgroup's quota grants (v2 `cpu.max`, v1 `cpu.cfs_quota_us`), rounded up; a large number without a quota."""
    limits = []
    for _, controllers, path in _groups(membership):
        # v1 mounts "cpu,cpuacct" under that name or its reverse, and links each controller's own name to it.
        for name in {controllers, *controllers.split(",")}:
            base = root / name
            folder = base / path.lstrip("/")
            for place in (folder, *folder.parents):  # a parent's quota binds too
                limits.extend(_read_quota(place))
                if place == base:
                    break
    limits.extend(_read_quota(root))  # inside a container the own group is mounted at the root
    return min(limits, default=_UNLIMITED)


def _groups(membership: Path) -> list[list[str]]:
    """Hierarchy, controllers and path of each cgroup that this process is in."""
    try:
        groups = [line.strip().split(":", 2) for line in membership.read_text().splitlines()]
    except OSError:
        return []
    return [group for group in groups if len(group) == 3]


def _read_quota(folder: Path) -> list[int]:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return []
    if quota in ("max", "-1") or not quota.isdigit() or not period.isdigit() or period == "0":
        return []
    return [max(1, -(-int(quota) // int(period)))]
