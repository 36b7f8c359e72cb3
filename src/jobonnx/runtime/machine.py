"""The processor: its name, and what it can do."""

from __future__ import annotations

import platform
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Cpu:
    """A processor's name, and its features by the kernel's names for them; none where the system does not list them."""

    name: str
    flags: frozenset[str]


def cpu() -> Cpu:
    """The processor of this machine."""
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        arm = {"asimd"} if platform.machine() in ("arm64", "aarch64") else set()
        return Cpu(_brand() or platform.processor() or platform.machine(), frozenset(arm))
    # x86 says "flags" and "model name"; ARM says "Features" and often no name at all.
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    name = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, re.MULTILINE)
    return Cpu(name[1].strip() if name else platform.machine(), frozenset(flags[1].split() if flags else ()))


def _brand() -> str:
    """The name that macOS gives; empty elsewhere."""
    try:
        command = ("sysctl", "-n", "machdep.cpu.brand_string")
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
