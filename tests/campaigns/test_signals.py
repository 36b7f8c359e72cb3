"""Signals at random moments of every command that works for a while: its status, no traceback, nothing half-made left."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from campaigns import campaign
from helpers.checkpoints import make_checkpoint
from jobonnx.data.titles import read_titles

pytestmark = pytest.mark.medium

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
PROGRAM = [sys.executable, "-c", "from jobonnx.cli import main; main()"]
#: Command -> what it may leave: its complete output.
COMMANDS: dict[str, tuple[str, ...]] = {
    "encode --file titles.txt -o out.npy": ("out.npy",),
    "encode --file titles.txt -o out.jsonl": ("out.jsonl",),
    "match --corpus titles.txt cook nurse": (),
    "rank queries.tsv corpus.tsv -o run.txt": ("run.txt",),
    "evaluate queries.tsv:corpus.tsv:qrels.tsv": (),
    "index create made --file titles.txt": ("made",),
    "index add kept --file titles.txt": (),
    "index search kept cook": (),
    "verify": (),
    "info": (),
    "tune": (),
    "export tiny -o bundle --variant int8": ("bundle",),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    make_checkpoint(folder / "tiny", num_hidden_layers=1)
    titles = read_titles()
    (folder / "titles.txt").write_text("\n".join(titles), encoding="utf-8")
    for name, some in {"queries.tsv": titles[:50], "corpus.tsv": titles[:2000]}.items():
        (folder / name).write_text("".join(f"{i}\t{title}\n" for i, title in enumerate(some)), encoding="utf-8")
    (folder / "qrels.tsv").write_text("".join(f"{i} 0 {i} 1\n" for i in range(50)))
    subprocess.run([*PROGRAM, "index", "create", "kept", "cook", "nurse"], cwd=folder, check=True, capture_output=True)
    return folder


def trial(inputs: Path, chances: random.Random) -> None:
    command = chances.choice(list(COMMANDS))
    number = chances.choice(list(STATUS))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "work"
        subprocess.run(["cp", "-r", str(inputs), str(folder)], check=True)
        before = set(os.listdir(folder))
        environment = {**os.environ, "XDG_CACHE_HOME": f"{temporary}/cache", "PYTHONUNBUFFERED": "1"}
        errors = Path(temporary) / "stderr"
        with open(errors, "wb") as stderr:
            process = subprocess.Popen(
                [*PROGRAM, *command.split()], cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=stderr, text=True
            )
            # Ours once the command line's first line has run: before, Python's own start answers.
            while process.poll() is None and not _caught(process.pid):
                time.sleep(0.002)
            time.sleep(chances.choice((0, 0.05, 0.5, 2, 5, 10)) * chances.random())
            for _ in range(chances.choice((1, 1, 1, 3))):  # an impatient user
                if process.poll() is None:
                    process.send_signal(number)
                    time.sleep(0.01)
            status = process.wait(120)
        said = errors.read_text(encoding="utf-8", errors="backslashreplace")
        shown = f"{command} with {number.name}: status {status}, {said[-1500:]!r}"
        assert status in (0, STATUS[number]), shown
        assert "Traceback" not in said, shown
        assert "Aborted" not in said, shown
        assert "Error" not in said, shown
        new = set(os.listdir(folder)) - before
        assert new <= set(COMMANDS[command]), f"left {new}: {shown}"
        if command.startswith(("encode", "rank", "export")):
            assert bool(new) == (status == 0), f"status {status} with {new}: {shown}"
        if ("index" in command and (folder / "made").exists()) or command.startswith("index add"):
            opened = subprocess.run(
                [*PROGRAM, "index", "search", "made" if "made" in new else "kept", "cook"],
                cwd=folder,
                capture_output=True,
                text=True,
                check=False,
            )
            assert opened.returncode == 0, f"the index does not open: {opened.stderr}: {shown}"


def _caught(process: int) -> bool:
    """Whether the process has handlers for the signals, by /proc."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return True
    caught = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")), 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc to see when the handlers are there")
def test_some_signals(inputs: Path) -> None:
    campaign.run("signals", lambda chances: trial(inputs, chances), trials=4)


@pytest.mark.campaign
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc to see when the handlers are there")
def test_signals(inputs: Path) -> None:
    campaign.run("signals", lambda chances: trial(inputs, chances))
