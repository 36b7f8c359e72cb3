"""What the processor is."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobonnx.runtime import machine, tuning
from jobonnx.runtime.machine import Cpu, cpu
from jobonnx_bench import record

X86 = "processor\t: 0\nmodel name\t: A Processor \nflags\t\t: fpu avx2\n\nprocessor\t: 1\nmodel name\t: Another\nflags\t\t: fpu\n"
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
    assert tuning.machine()["cpu"] == record().cpu == cpu().name
