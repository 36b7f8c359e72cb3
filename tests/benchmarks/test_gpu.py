"""The kit for a GPU that is lent for minutes: what travels, what is left out, and what is kept when time is up."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from helpers.reports import measured
from jobonnx_bench.render.html import report_html
from jobonnx_bench.report import read_report
from jobonnx_bench.workload import Sizes

ROOT = Path(__file__).parents[2]
GPU = ROOT / "benchmarks" / "gpu"
sys.path.append(str(GPU))

import pieces  # noqa: E402
import prepare  # noqa: E402
import run  # noqa: E402
from fatbin import blank_other_gpus  # noqa: E402

pytestmark = pytest.mark.medium


def container(*entries: tuple[int, bytes]) -> bytes:
    """A container of machine code: compute capability and code of each entry."""
    body = b"".join(
        struct.pack("<HHIQ", 2, 257, 64, len(code)) + bytes(12) + struct.pack("<I", sm) + bytes(32) + code for sm, code in entries
    )
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def library(section: bytes, name: str = ".nv_fatbin") -> bytearray:
    """An ELF file of 64 bits with that section, and bytes around it that must not change."""
    strings = b"\0.shstrtab\0" + name.encode() + b"\0"
    start = 64 + 8
    table = start + len(section) + len(strings)
    header = b"\x7fELF\x02".ljust(0x28, b"\0") + struct.pack("<Q", table) + bytes(10) + struct.pack("<HHH", 64, 3, 1)
    rows = [(0, 0, 0), (1, start + len(section), len(strings)), (11, start, len(section))]
    sections = b"".join(struct.pack("<IIQQQQ", n, 1, 0, 0, at, size).ljust(64, b"\0") for n, at, size in rows)
    return bytearray(header + b"\xaa" * 8 + section + strings + sections)


def test_code_for_other_gpus_is_blanked_and_nothing_moves() -> None:
    before = library(
        container((80, b"a" * 16), (90, b"b" * 24), (120, b"c" * 8)) + bytes(16) + container((90, b"d" * 8), (75, b"e" * 8))
    )
    after = bytearray(before)
    assert blank_other_gpus(after, 90) == {80: 16, 90: 32, 120: 8, 75: 8}
    assert len(after) == len(before)
    assert [letter in after for letter in (b"aaaa", b"bbbb", b"cccc", b"dddd", b"eeee")] == [False, True, False, True, False]
    changed = sum(a != b for a, b in zip(before, after, strict=True))
    assert changed == 16 + 8 + 8


def test_a_container_without_code_for_the_gpu_stays_whole() -> None:
    found = library(container((90, b"a" * 8)) + container((120, b"c" * 8)))
    blank_other_gpus(found, 90)
    assert b"c" * 8 in found


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (bytearray(b"MZ" + bytes(100)), "no ELF file"),
        (library(b"", ".text"), "no section"),
        (library(container((80, b"a" * 8))), "no code for compute capability 90"),
        (library(container((90, b"a" * 8))[:-30] + bytes(30)), None),
    ],
)
def test_what_is_no_cuda_library_is_an_error(content: bytearray, sentence: str | None) -> None:
    if sentence is None:
        blank_other_gpus(content, 90)
        return
    with pytest.raises(ValueError, match=sentence):
        blank_other_gpus(content, 90)


def test_pieces_arrive_in_any_order_and_damage_is_named(tmp_path: Path) -> None:
    random = os.urandom(300_000)
    (tmp_path / "a.bin").write_bytes(random)
    folders = pieces.pack({"a/one.bin": tmp_path / "a.bin", "two.txt": b"two"}, tmp_path / "kit", 0.1, 4)
    assert len(folders) == 3
    assert all(sum(path.stat().st_size for path in folder.iterdir()) < 0.11 * 2**20 for folder in folders)
    arrived = tmp_path / "arrived"
    for folder in reversed(folders[1:]):
        arrived.mkdir(exist_ok=True)
        folder.rename(arrived / folder.name)
    assert pieces.missing(arrived) == [0]
    folders[0].rename(arrived / folders[0].name)
    assert pieces.missing(arrived) == []
    pieces.unpack(arrived, tmp_path / "out")
    assert (tmp_path / "out" / "a" / "one.bin").read_bytes() == random
    assert (tmp_path / "out" / "two.txt").read_bytes() == b"two"
    (arrived / folders[1].name / "content").write_bytes(b"cut")
    with pytest.raises(ValueError, match="pieces 1 are missing or damaged"):
        pieces.unpack(arrived, tmp_path / "again")


def test_a_plan_that_is_exceeded_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(pieces.TooLargeError, match=r"0\.3 MiB do not fit into 2 pieces of 0\.1 MiB; 3 would hold them"):
        pieces.pack({"a": os.urandom(300_000)}, tmp_path / "kit", 0.1, 2)
    assert not (tmp_path / "kit").exists()


def test_no_pieces_at_all_are_missing(tmp_path: Path) -> None:
    assert pieces.missing(tmp_path) == [0]


def test_titles_are_distinct_and_in_order(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Koch\n\nKöchin \nKoch\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("厨师\nKoch", encoding="utf-8")
    assert prepare.distinct_titles([tmp_path / "a.txt", tmp_path / "b.txt"]) == ["Koch", "Köchin", "厨师"]


def steps_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, *steps: run.Step, minutes: float = 1) -> dict[str, Any]:
    """Run steps whose program is `body`; return figures.json."""
    (tmp_path / "steps.py").write_text(
        f"import json, pathlib, sys, time\nname, output = sys.argv[1], pathlib.Path(sys.argv[3])\n{body}"
    )
    monkeypatch.setattr(run, "HERE", tmp_path)
    monkeypatch.setattr(run, "STEPS", steps)
    monkeypatch.setattr(sys, "argv", ["run.py", str(tmp_path), "-o", str(tmp_path / "out"), "--minutes", str(minutes)])
    run.main()
    found: dict[str, Any] = json.loads((tmp_path / "out" / "figures.json").read_text())
    return found


LEAVES_A_FIGURE = """
(output / "steps").mkdir(exist_ok=True)
(output / "steps" / f"step-{name}.json").write_text(json.dumps({"p50": "2 ms"}))
"""


def test_what_a_step_left_is_kept_when_the_next_is_ended_or_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = LEAVES_A_FIGURE + 'if name == "slow": time.sleep(60)\nif name == "broken": sys.exit("no GPU is there")\n'
    steps = [run.Step("first", 1, 9), run.Step("slow", 1, 1), run.Step("broken", 1, 9), run.Step("after", 1, 9, ("broken",))]
    found = steps_of(tmp_path, monkeypatch, body, *steps)
    states = {step["name"]: step["state"] for step in found["steps"]}
    assert states["first"] == "done"
    assert states["slow"] == "ended after its 1 s"
    assert states["broken"] == "failed: no GPU is there"
    assert states["after"] == "left out: broken did not succeed"
    assert found["figures"]["first"] == {"p50": "2 ms"}
    summary = (tmp_path / "out" / "summary.md").read_text()
    assert "## first" in summary
    assert "| p50 | 2 ms |" in summary


def test_a_step_that_has_too_little_time_does_not_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = steps_of(tmp_path, monkeypatch, LEAVES_A_FIGURE, run.Step("long", 50, 60), minutes=0.2)
    assert found["steps"][0]["state"].startswith("left out: ")
    assert found["figures"] == {}


def test_the_run_ends_within_its_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = steps_of(tmp_path, monkeypatch, "time.sleep(60)", run.Step("slow", 1, 60), minutes=0.12)
    assert found["steps"][0]["seconds"] < 3


def test_every_step_has_its_program() -> None:
    import steps

    assert [step.__name__ for step in steps.STEPS] == [step.name for step in run.STEPS]


def test_the_environment_has_one_onnxruntime(tmp_path: Path) -> None:
    """Links to this Python's packages, but for the onnxruntime that travelled."""
    import assemble

    (tmp_path / "site" / "onnxruntime").mkdir(parents=True)
    (tmp_path / "site" / "onnxruntime" / "__init__.py").write_text("version = 'travelled'")
    (tmp_path / "site" / "onnxruntime_gpu-1.0.dist-info").mkdir()
    (tmp_path / "site" / "onnxruntime_gpu-1.0.dist-info" / "METADATA").write_text("Name: onnxruntime-gpu\nVersion: 1.0\n")
    python = assemble.make_environment(tmp_path)
    code = (
        "import onnxruntime, numpy, jobonnx, jobonnx_bench; from importlib.metadata import version, PackageNotFoundError\n"
        "print(onnxruntime.version, version('onnxruntime-gpu'))\n"
        "try: print(version('onnxruntime'))\n"
        "except PackageNotFoundError: print('one')\n"
    )
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, env=clean, check=True)
    assert done.stdout.split() == ["travelled", "1.0", "one"]


def test_figures_outlive_a_machine_without_matplotlib(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import steps

    monkeypatch.setattr(steps, "find_spec", lambda name: None)
    monkeypatch.setattr("jobonnx_bench.rounds.run", lambda *systems, **options: [measured("fp32")])
    (tmp_path / "titles.txt").write_text("\n".join(f"paper gardener {number}" for number in range(200)))
    work = steps.Work(Namespace(place=tmp_path, output=tmp_path, rehearse=True, layers=None, seconds=60))
    work.checkpoint = checkpoint
    figures = steps._bench(work, [], Sizes(64, 16, 4, 2, 1), "cpu", tmp_path / "out")
    assert figures["jobonnx-fp32-cpu"] == "3 rounds"
    assert "benchmarks/page.py" in figures["page"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.json", "report.md"]

    pytest.importorskip("matplotlib", reason='the page needs matplotlib: pip install "jobonnx[bench]"')
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, str(ROOT / "benchmarks" / "page.py"), str(tmp_path / "out")], check=True, env=environment)
    assert (tmp_path / "out" / "report.html").read_text("utf-8") == report_html(read_report(tmp_path / "out" / "report.json"))
