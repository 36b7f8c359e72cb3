"""Signals: one status each, no traceback, nothing half-made left, from the first line on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

NUMBERS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
# A program as the command line is one; argv[1] is the output.
WORK = """
import sys, time
from pathlib import Path
from jobonnx import signals
from jobonnx.errors import Stopped
import os
try:
    signals.install()
    from jobonnx.files import new_folder, replaced
    with replaced(Path(sys.argv[1] + ".txt")) as file, new_folder(Path(sys.argv[1])) as folder:
        file.write(b"half")
        (folder / "file").write_text("half")
        print("working", flush=True)
        {work}
except Stopped as stop:
    os._exit(128 + stop.number)
"""
# Many short sleeps: a signal between Python's check for one and the call of a single long sleep would be seen at its end only.
SLEPT = "for _ in range(3000): time.sleep(0.01)"
SWALLOWED = f"""
        try:
            {SLEPT}
        except BaseException:
            pass  # as C code under way may
"""


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("work", [SLEPT, SWALLOWED], ids=["python", "swallowed"])
def test_a_signal_leaves_nothing_and_its_status(tmp_path: Path, number: signal.Signals, work: str) -> None:
    command = [sys.executable, "-c", WORK.replace("{work}", work), str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        process.send_signal(number)
        _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (NUMBERS[number], "")
    assert os.listdir(tmp_path) == []


@pytest.mark.medium
@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("delay", [0.05, 0.15, 0.3, 0.6])
def test_the_command_line_stops_at_any_moment_without_a_traceback(number: signal.Signals, delay: float) -> None:
    """In its imports too: 0.05 s is inside Python's own start, where a signal may kill the process as any other."""
    code = "from jobonnx.cli import main; main()"
    command = [sys.executable, "-c", code, "encode"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(delay)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    if delay > 0.05:
        assert process.returncode in (NUMBERS[number], -number), said
        assert "Traceback" not in said
        assert "Aborted" not in said


def test_a_signal_that_the_caller_ignores_stays_ignored() -> None:
    code = "from jobonnx import signals; import signal; signals.install(); print(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    )
    assert done.stdout == "True\n"


@pytest.mark.parametrize("error", ["JobonnxError('onnxruntime does not import')", "SystemError('error without exception set')"])
def test_a_signal_goes_before_the_error_that_native_code_raised_in_its_place(error: str) -> None:
    """As onnxruntime's import does, which says that its initialization failed."""
    code = f"""
import os, signal, sys
from jobonnx.cli import main, titles
from jobonnx.errors import JobonnxError
def load(*arguments, **options):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except BaseException:
        raise {error} from None
titles.load = load
sys.argv = ["jobonnx", "encode", "cook"]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (143, "")


def test_a_signal_after_the_work_changes_nothing() -> None:
    """Python's end gives signals back their default, which would kill the process."""
    code = """
import os, signal, sys
from jobonnx.cli import main
class Late:
    def __del__(self, kill=os.kill, process=os.getpid(), number=signal.SIGINT):
        kill(process, number)
sys.late = Late()
sys.argv = ["jobonnx", "--version"]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
