"""No kill, full disk or disk that does not confirm harms an index, at any step of any write."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.index_writer import Write, Writer, Writers
from helpers.indexes import ACTIONS, DIMENSION, FINGERPRINT, add, check, some
from jobonnx.errors import JobonnxError
from jobonnx.search.index import Index

pytestmark = [
    pytest.mark.medium,
    pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL, fork and a limit on file size are POSIX's"),
]

_MOST_STEPS = 200

# Without the marker, one action that appends and the one that does everything else: it also replaces a file and deletes one.
_CHOSEN = ("add, few", "remove, rewriting")
_ACTIONS = [pytest.param(action, marks=() if action in _CHOSEN else pytest.mark.slow) for action in ACTIONS]
_FULL_ACTIONS = [pytest.param(action, marks=() if action == "remove, rewriting" else pytest.mark.slow) for action in ACTIONS]


def run(code: str, *arguments: object) -> str:
    """Run Python code in a process of its own that can import the tests' helpers; return what it prints."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment, timeout=300).stdout


def copies(folder: Path) -> None:
    """Make an index of `some(40)`, as often as an action may have steps."""
    folder.mkdir()
    first = folder / "000"
    add(Index.create(first, FINGERPRINT, DIMENSION), some(40), some(40))
    for number in range(1, _MOST_STEPS):
        shutil.copytree(first, folder / f"{number:03d}")


def ids_of(titles: list[str]) -> dict[str, tuple[str, ...]]:
    return {title: (title,) for title in titles if title in some(40)}


# In the n-th folder, runs one action in a process that is killed with SIGKILL at its n-th step: before or after a file is forced to
# the disk, cut or deleted, before or in the middle of each write, by Python or SQLite. Ends with the first process that comes
# through.
_KILLED = """
import os, pathlib, signal, sys
from helpers.indexes import ACTIONS
from helpers.system_calls import intercept
from jobonnx.search.index import Index

def strike():
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return False

for step, folder in enumerate(sorted(pathlib.Path(sys.argv[1]).iterdir()), 1):
    child = os.fork()
    if child == 0:
        index = Index.open(folder)
        left = step
        intercept(strike)
        ACTIONS[sys.argv[2]][0](index)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if status == 0:
        print(step)
        break
    assert os.WTERMSIG(status) == signal.SIGKILL, status
"""


@pytest.mark.parametrize("action", _ACTIONS)
def test_a_kill_at_any_step_leaves_the_old_state_or_the_new(action: str, tmp_path: Path) -> None:
    copies(tmp_path / "indexes")
    steps = int(run(_KILLED, tmp_path / "indexes", action))
    assert 20 < steps < _MOST_STEPS
    act, result = ACTIONS[action]
    outcomes = []
    for step in range(steps):
        survivor = Index.open(tmp_path / "indexes" / f"{step:03d}")
        new = list(survivor) != some(40)
        check(survivor, result if new else some(40), ids_of(result if new else some(40)))
        outcomes.append(new)
        # What was killed can be done again, and leaves nothing behind.
        act(survivor)
        check(Index.open(survivor.path), result, ids_of(result))
        header = survivor._state.header
        assert {entry.name for entry in survivor.path.iterdir()} == {"index.sqlite", header.vectors} - {None}
        if result:
            assert (survivor.path / str(header.vectors)).stat().st_size == header.rows * DIMENSION * 4
    assert outcomes == sorted(outcomes), "once the new state is there it stays"
    assert not outcomes[0]
    assert outcomes[-1]


def test_kills_at_random_times_lose_nothing_that_was_reported(tmp_path: Path) -> None:
    loop = """
import sys
from helpers.indexes import add, some
from jobonnx.search.index import Index
index = Index.open(sys.argv[1])
start = len(index)
for number in range(start, 10**6):
    add(index, some(1, number), some(1, number))
    print(number + 1, flush=True)
"""
    index = Index.create(tmp_path / "index", FINGERPRINT, DIMENSION)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    chance = random.Random(0)
    for _ in range(6):
        command = [sys.executable, "-c", loop, str(index.path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout is not None
            first = process.stdout.readline()
            time.sleep(chance.uniform(0, 0.1))
            process.kill()
            reported = int((first + process.stdout.read()).split()[-1])
        survivor = Index.open(index.path)
        assert reported <= len(survivor) <= reported + 1
        titles = some(len(survivor))
        check(survivor, titles, {title: (title,) for title in titles})


# The n-th folder is made by a process that is killed at its n-th step.
_KILLED_CREATE = """
import os, pathlib, signal, sys
from helpers.indexes import DIMENSION, FINGERPRINT
from helpers.system_calls import intercept
from jobonnx.search.index import Index

def strike():
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return False

for step in range(1, 200):
    child = os.fork()
    if child == 0:
        left = step
        intercept(strike)
        Index.create(pathlib.Path(sys.argv[1]) / str(step), FINGERPRINT, DIMENSION)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        print(step)
        break
"""


def test_a_killed_create_can_be_repeated_or_is_complete(tmp_path: Path) -> None:
    steps = int(run(_KILLED_CREATE, tmp_path))
    assert 5 < steps < 200
    outcomes = []
    for step in range(1, steps + 1):
        try:
            made = Index.open(tmp_path / str(step))
        except JobonnxError:
            outcomes.append(False)
            made = Index.create(tmp_path / str(step), FINGERPRINT, DIMENSION)
        else:
            outcomes.append(True)
        check(made, [])
        assert [path.name for path in made.path.iterdir()] == ["index.sqlite"]
    assert outcomes == sorted(outcomes)
    assert not outcomes[0]
    assert outcomes[-1]


# In the n-th folder, runs one action on a disk that is full from the n-th step on, and prints what it raised.
_REFUSED = """
import os, pathlib, sys
from helpers.indexes import ACTIONS
from helpers.system_calls import intercept
from jobonnx.errors import JobonnxError
from jobonnx.search.index import Index

def full():
    global left
    left -= 1
    return left <= 0

for step, folder in enumerate(sorted(pathlib.Path(sys.argv[1]).iterdir()), 1):
    child = os.fork()
    if child == 0:
        index = Index.open(folder)
        left = step
        intercept(full)
        try:
            ACTIONS[sys.argv[2]][0](index)
        except JobonnxError as error:
            print(len(index), error, flush=True)
        else:
            print(len(index), flush=True)
        os._exit(1 if left <= 0 else 0)
    if os.waitpid(child, 0)[1] == 0:
        break
"""


@pytest.mark.parametrize("action", _FULL_ACTIONS)
def test_a_disk_that_is_full_from_any_step_on_leaves_the_old_state_or_says_so(action: str, tmp_path: Path) -> None:
    copies(tmp_path / "indexes")
    act, result = ACTIONS[action]
    reports = run(_REFUSED, tmp_path / "indexes", action).splitlines()
    assert 20 < len(reports) < _MOST_STEPS
    for step, report in enumerate(reports):
        held, _, message = report.partition(" ")
        survivor = Index.open(tmp_path / "indexes" / f"{step:03d}")
        titles = result if not message or "has been changed" in message else some(40)
        assert len(titles) == int(held) == len(survivor), report
        check(survivor, titles, ids_of(titles))
        assert not message or "the index is as it was" in message or "did not confirm it" in message
        act(survivor)
        check(Index.open(survivor.path), result, ids_of(result))
        assert {entry.name for entry in survivor.path.iterdir()} == {"index.sqlite", survivor._state.header.vectors} - {None}
    assert "the index is as it was" in reports[0]
    assert " " not in reports[-1]


def test_a_disk_that_is_full_when_a_killed_write_is_undone_is_no_damage(tmp_path: Path) -> None:
    add(Index.create(tmp_path / "index", FINGERPRINT, DIMENSION), some(2000))
    said: list[str] = []
    with Writers() as writers:
        for step in range(30, 60, 5):
            folder = tmp_path / str(step)
            shutil.copytree(tmp_path / "index", folder)
            writers.run(Writer(str(folder), (Write("remove", tuple(some(900))),), "kill", step))
            said += writers.run(Writer(str(folder), (Write("open"),), "full", 1)).said
            assert list(Index.open(folder)) in (some(2000), some(1100, 900))
    assert any(report.endswith("cannot be read (database or disk is full); free some space") for report in said)
    assert not any("damaged" in report for report in said)


# A disk that takes everything but the change of the folder that makes a commit final.
_UNCONFIRMED = """
import sys
from helpers.indexes import ACTIONS
from helpers.system_calls import refuse_folder_syncs
from jobonnx.errors import JobonnxError
from jobonnx.search.index import Index

action, result = ACTIONS[sys.argv[2]]
index = Index.open(sys.argv[1])
refuse_folder_syncs()
for _ in range(2):  # the second finds nothing left to change, and does not pass for a success
    try:
        action(index)
    except JobonnxError as error:
        print(error)
    assert list(index) == list(Index.open(sys.argv[1])) == result
"""


@pytest.mark.parametrize("action", ACTIONS)
def test_a_state_that_the_disk_does_not_confirm_is_taken_up(action: str, tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index", FINGERPRINT, DIMENSION)
    add(index, some(40))
    old = set(index.path.iterdir())
    act, result = ACTIONS[action]
    first, second = run(_UNCONFIRMED, index.path, action).splitlines()
    assert "has been changed, but the disk did not confirm it (" in first
    assert "cannot write to" in second
    # The database may yet go back to the old state, whose files must be there.
    assert old <= set(index.path.iterdir())
    check(Index.open(index.path), result)
    assert act(index) == 0
    check(index, result)
    assert {entry.name for entry in index.path.iterdir()} == {"index.sqlite", index._state.header.vectors} - {None}


def test_a_create_that_the_disk_does_not_confirm_can_be_repeated(tmp_path: Path) -> None:
    code = """
import sys
from helpers.indexes import DIMENSION, FINGERPRINT
from helpers.system_calls import refuse_folder_syncs
from jobonnx.errors import JobonnxError
from jobonnx.search.index import Index
refuse_folder_syncs()
try:
    Index.create(sys.argv[1], FINGERPRINT, DIMENSION)
except JobonnxError as error:
    print(error)
"""
    assert "cannot make an index in" in run(code, tmp_path / "index")
    check(Index.create(tmp_path / "index", FINGERPRINT, DIMENSION), [])


def test_a_disk_that_fills_in_the_middle_of_a_file_leaves_the_old_state(tmp_path: Path) -> None:
    import resource

    index = Index.create(tmp_path / "index", FINGERPRINT, DIMENSION)
    add(index, some(40))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40000, limit[1]))  # Python ignores SIGXFSZ, so a write gives OSError
    try:
        with pytest.raises(JobonnxError, match="the index is as it was; free some space"):
            add(index, some(2000, 100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    check(index, some(40))
    check(Index.open(index.path), some(40))
